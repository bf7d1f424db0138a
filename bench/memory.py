"""What a process grows by while the database is away: a handler with a deque beside it, which keeps nothing.

Each in a process of its own, at 500 calls a second with prompts of 20 kB. The ten minutes of the design are one of the
faults (`make faults ARGS="--only outage"`); this is long enough to fill the memory that llmctx allows itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

CAP_MIB: Final = 16
CALLS: Final = 8_000
_A_SECOND: Final = 500
_WARM: Final = 100
_MIB: Final = 1024 * 1024
_PAGE_MIB: Final = resource.getpagesize() / _MIB


def run() -> dict[str, Any]:
    """MiB by which each process has grown at the most, and what it may."""
    deque, llmctx = (_grown(recorder) for recorder in ("deque", "llmctx"))
    return {"calls": CALLS, "cap_mib": CAP_MIB, "deque_mib": deque["grown_mib"], **llmctx}


def _grown(recorder: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        environment = {**os.environ, "LLMCTX_JOURNAL_DIR": journal, "LLMCTX_MEMORY_BYTES": str(CAP_MIB * _MIB)}
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", recorder],
            env={**environment, "LLMCTX_DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/away"},
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # llmctx says that the database is away
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MIB


async def _calls(config: Any) -> float:
    """Make them; the largest that the process was, less what it was when all code had run."""
    from langchain_core.messages import HumanMessage

    from bench.workloads import InstantModel
    from llmctx import bind

    model, before, most, due = InstantModel(), 0.0, 0.0, time.monotonic()
    with bind(session_id="s-1", user_id="u-1"):
        for number in range(_WARM + CALLS):
            await model.ainvoke([HumanMessage(f"{number} " + "How is my blood pressure? " * 800)], config)
            if number % 10 == 0:
                due += 10 / _A_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                most = max(most, _resident_mib())
            if number == _WARM:
                before, most = _resident_mib(), 0.0
    return most - before


def main() -> None:
    from bench.recorders import DequeHandler
    from llmctx.calllog import CallLog

    if sys.argv[1] == "deque":
        print(json.dumps({"grown_mib": asyncio.run(_calls({"callbacks": [DequeHandler(0)]}))}))
        return
    with CallLog(shutdown_timeout_s=0.1) as call_log:
        grown = asyncio.run(_calls({}))
        call_log.flush(1)
        stats = call_log.stats()
    print(json.dumps({"grown_mib": grown, "waiting": stats.waiting, "dropped": stats.dropped}))


if __name__ == "__main__":
    main()
