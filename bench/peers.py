"""llmctx beside the recorders that teams use, in one run: `make peers` (their environments: `bench/peers-*.txt`)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.paired import measure, python_of
from bench.workloads import WORKLOADS

PEERS: Final = ("deque", "llmctx", "opentelemetry", "langsmith", "langfuse")
ROUNDS: Final = 5
SECONDS: Final = 120.0


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "bench.collector"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def run(database_url: str) -> dict[str, Any]:
    """Return `paired.measure` for each workload, with all recorders whose environment is there."""
    installed = [name for name in PEERS if Path(python_of(name)).exists()]
    with _collector() as collector:
        return {
            workload: measure(workload, installed, database_url, collector=collector, rounds=ROUNDS, seconds=SECONDS)
            for workload in WORKLOADS
        }
