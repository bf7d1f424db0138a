"""Applications that record calls and publish them: `python -m tests.scale.applications TRANSPORT BOOK PAUSE_S`.

Each call has a session of its own, which stands in the book from when it has begun: it is to be one row, also when its
process is killed in the middle of it. See `fleet.py`.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys

from llmctx import bind
from llmctx.calllog import CallLog
from tests.scale.fleet import serve

_TEXT = "How is my blood pressure today? " * 40


def _life(quiet: int, transport: str, book: str, pause_s: str) -> None:
    draw = random.Random()
    pen = os.open(book, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with CallLog(transport=transport) as call_log:
        number = 0
        while not select.select([quiet], [], [], float(pause_s) * 2 * draw.random())[0]:
            name = f"{os.getpid()}:{number}"
            number += 1
            with bind(user_id="u", session_id=name), call_log.record(model="m", prompt=_TEXT):
                os.write(pen, f"{name}\n".encode())
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    serve(lambda quiet: _life(quiet, *sys.argv[1:]))
