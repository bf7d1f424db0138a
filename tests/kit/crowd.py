"""Many processes of one host that record calls: `python -m tests.kit.crowd URL PROCESSES ROWS PAUSE_S [warm]`.

They are forked from one that has imported everything, which ends when all have ended. Each prints its ledger, as a
line of JSON, three times: when it begins, when all of its calls are recorded, and at its end, for which it waits until
the stdin of all is closed. Those that are warm have stored a row before they begin: the driver is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llmctx.calllog import CallLog

ROOT: Final = Path(__file__).parent.parent.parent  # not of conftest: who imports that forgets all settings
WORDS: Final = [f"{one}{other}" for one in ("re", "in", "over", "un", "sub", "co") for other in (
    "port", "view", "quest", "sign", "form", "tract", "scribe", "cede", "late", "duct", "lapse", "mand", "plete",
)]  # fmt: skip
_TEXTS: Final = 200


def _text(draw: random.Random, size: int) -> str:
    """Return a text of about `size` bytes, unlike others, as texts are."""
    return " ".join(draw.choices(WORDS, k=size // 7))


def _life(url: str, rows: int, pause_s: float, number: int, *, warm: bool) -> None:
    draw = random.Random(number)
    texts = [(_text(draw, 2000), _text(draw, 1000)) for _ in range(min(rows, _TEXTS))]
    with CallLog(url) as call_log:
        if warm:
            with call_log.record(model="m", prompt=texts[0][0]):
                pass
            call_log.flush(60)
        _say(call_log)
        for one in range(rows):
            prompt, response = texts[one % len(texts)]
            with call_log.record(model="m", prompt=prompt) as call:
                call.set(node=f"{number}:{one}", response=response)
            time.sleep(pause_s * (0.5 + draw.random()))
        _say(call_log)
        select.select([sys.stdin], [], [])  # its end, for all of them
        call_log.flush(30)
        _say(call_log)


def _say(call_log: CallLog) -> None:
    stats = call_log.stats()
    used = resource.getrusage(resource.RUSAGE_SELF)
    line = {"written": stats.written, "waiting": stats.waiting, "dropped": stats.dropped + stats.quarantined}
    os.write(1, json.dumps({**line, "cpu_s": used.ru_utime + used.ru_stime}).encode() + b"\n")


def main(url: str, processes: str, rows: str, pause_s: str, warm: str = "") -> None:
    children = []
    for number in range(int(processes)):
        if not (pid := os.fork()):
            _life(url, int(rows), float(pause_s), number, warm=bool(warm))
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


class Crowd:
    """The processes, as a test sees them."""

    def __init__(self, process: subprocess.Popen[str], processes: int) -> None:
        self._process = process
        self._processes = processes

    def ledgers(self) -> list[dict[str, Any]]:
        """Return what each says next."""
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline() for _ in range(self._processes)]
        return [json.loads(line) for line in lines]

    def let_go(self) -> list[dict[str, Any]]:
        """Let them store what is left, and end. Return their last ledgers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.ledgers()


@contextlib.contextmanager
def crowd(
    url: str, processes: int, rows: int, pause_s: float, *, warm: bool = False, **environment: str
) -> Iterator[Crowd]:
    command = [sys.executable, "-m", "tests.kit.crowd", url, str(processes), str(rows), str(pause_s)]
    command += ["warm"] if warm else []
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            yield Crowd(process, processes)
        finally:
            process.stdin.close() if process.stdin is not None else None


if __name__ == "__main__":
    main(*sys.argv[1:])
