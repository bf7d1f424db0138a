"""What it takes to import llmctx, and how long an exit is held up by a database that never answers."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

ROUNDS: Final = 20
_EXIT: Final = """
import time
from bench.workloads import InstantModel, MESSAGES
from llmctx import bind
from llmctx.calllog import CallLog
call_log = CallLog()
call_log.start()
with bind(session_id="s", user_id="u"):
    for _ in range(200):
        InstantModel().invoke(MESSAGES)
print(time.time(), flush=True)
"""


def _run(code: str, **environment: str) -> tuple[float, str]:
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - begin, done.stdout


def _exit_s() -> float:
    with socket.socket() as silent, tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        url = f"postgresql+asyncpg://u:p@127.0.0.1:{silent.getsockname()[1]}/d"
        _, said = _run(_EXIT, LLMCTX_DATABASE_URL=url, LLMCTX_JOURNAL_DIR=journal)
        return time.time() - float(said)


def run() -> dict[str, Any]:
    """ms to import, which packages that brings, and s from the last line of a script to the end of its process."""
    bare, ours = zip(*[(_run("")[0], _run("import llmctx")[0]) for _ in range(ROUNDS)], strict=True)
    own = {"llmctx", *sys.stdlib_module_names}
    _, loaded = _run("import llmctx, sys; print(*{name.partition('.')[0] for name in sys.modules})")
    _, before = _run("import sys; print(*{name.partition('.')[0] for name in sys.modules})")
    return {
        "import_ms": (statistics.median(ours) - statistics.median(bare)) * 1e3,
        "third_party": sorted(set(loaded.split()) - set(before.split()) - own),
        "exit_s": _exit_s(),
        "rounds": ROUNDS,
    }
