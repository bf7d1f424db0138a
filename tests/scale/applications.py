"""Applications that record calls: `python -m tests.scale.applications BOOK PAUSE_S HOST SEED`; settings are LLMCTX_*.

Each call has a session of its own, which stands in the book from when it has begun: it is to be one row, of the user of
that session, also when its process is killed in the middle of it. What lives to the end adds its ledger.
See `fleet.py`.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time

from llmctx import bind
from llmctx.calllog import CallLog
from tests.scale.fleet import serve
from tests.scale.verdict import user_of

_TEXT = "How is my blood pressure today? " * 40
_PATIENCE_S = 60.0


def _life(quiet: int, number: int, book: str, pause_s: str, host: str, seed: str) -> None:
    draw = random.Random(f"{seed} {host} {number}")
    me = f"{host}:{os.getpid()}"
    pen = os.open(book, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    made = 0
    with CallLog() as call_log:
        while not select.select([quiet], [], [], float(pause_s) * 2 * draw.random())[0]:
            name = f"{me}:{made}"
            made += 1
            with bind(user_id=user_of(name), session_id=name), call_log.record(model="m", prompt=_TEXT):
                os.write(pen, f"{name}\n".encode())
        signal.sigwait({signal.SIGTERM})
        call_log.flush(_PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while (stats := call_log.stats()).waiting and time.monotonic() < deadline:
            time.sleep(0.05)  # with a broker, `flush` waits for that alone
    fields = ("started", "written", "waiting", "published", "quarantined", "dropped")
    ledger = {"made": made, "process": me, **{field: getattr(stats, field) for field in fields}}
    pen = os.open(f"{book}.ledgers", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(pen, f"{json.dumps(ledger)}\n".encode())


if __name__ == "__main__":
    serve(lambda quiet, number: _life(quiet, number, *sys.argv[1:]))
