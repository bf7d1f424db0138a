"""Paired rounds: each round of a recorder right beside one of none, which is taken off it.

All processes of a workload are alive at once, one for each recorder. On a machine that does other things as well the
pairs are disturbed alike, and the median is taken; what counts are the ratios of one run.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.recorders import RECORDERS

ROUNDS: Final = 7
_FEWEST: Final = 3
SECONDS: Final = 90.0  # for one workload of `make bench`, if its rounds take longer
_ROOT: Final = Path(__file__).resolve().parent.parent


def python_of(recorder: str) -> str:
    """Return the interpreter that has a recorder installed."""
    environment = RECORDERS[recorder].environment
    return sys.executable if environment is None else str(_ROOT / ".venvs" / f"peer-{environment}" / "bin" / "python")


class _Process:
    """A worker."""

    def __init__(self, recorder: str, workload: str, variables: dict[str, str]) -> None:
        self._name = recorder
        self._process = subprocess.Popen(
            [python_of(recorder), "-m", "bench.worker", recorder, workload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONHASHSEED": "0", **variables},
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self._name} has ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        return self.answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def measure(
    workload: str,
    recorders: Sequence[str],
    database_url: str,
    *,
    collector: str = "",
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Return for each recorder what it adds to a call of `workload`, in µs: wall time, and CPU of all threads.

    Each is the median of the pairs, with their median deviation from it. Rounds end after `seconds`, but not before
    there are three.
    """
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as directory:
        variables = {
            "LLMCTX_DATABASE_URL": database_url, "LLMCTX_JOURNAL_DIR": directory, "HOME": directory,
            "BENCH_COLLECTOR": collector, "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        processes = {name: _Process(name, workload, variables) for name in ("none", *recorders)}
        try:
            versions = {name: process.answer() for name, process in processes.items()}
            pairs = _pairs(processes, recorders, rounds, time.monotonic() + seconds)
        finally:
            for process in processes.values():
                process.end()
    return {
        "rounds": len(pairs[recorders[0]]),
        "none_us": statistics.median(none["wall"] for none, _ in pairs[recorders[0]]) * 1e6,
        "recorders": {name: {**_added(pairs[name]), "versions": versions[name]} for name in recorders},
    }


Pair = tuple[dict[str, Any], dict[str, Any]]


def _pairs(processes: dict[str, _Process], recorders: Sequence[str], rounds: int, end: float) -> dict[str, list[Pair]]:
    pairs: dict[str, list[Pair]] = {name: [] for name in recorders}
    shuffled = random.Random(7)
    for number in range(rounds):
        if number >= _FEWEST and time.monotonic() > end:
            break
        for place, name in enumerate(shuffled.sample(recorders, len(recorders))):
            order = ("none", name) if (number + place) % 2 else (name, "none")
            found = {one: processes[one].round() for one in order}
            pairs[name].append((found["none"], found[name]))
    return pairs


def _added(pairs: list[Pair]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what in ("wall", "cpu"):
        added = [(its[what] - none[what]) * 1e6 for none, its in pairs]
        found[f"{what}_us"] = median = statistics.median(added)
        found[f"{what}_deviation_us"] = statistics.median(abs(one - median) for one in added)
    arrived = [its["delivered"] for _, its in pairs if its["delivered"] is not None]
    found["delivered"] = sum(arrived) / sum(its["calls"] for _, its in pairs) if arrived else None
    return found
