"""Shippers that are begun and killed as often as one wishes: `python -m tests.scale.ships DATABASE_URL TRANSPORT`.

They are forked from a process that has imported everything. For each line on stdin one begins, whose process id is
printed; when stdin is closed all are asked to end, and their exit codes are printed as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmctx.delivery.broker.shipper import BrokerShipper
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.settings import load

ROOT: Final = Path(__file__).parent.parent.parent


async def _ship(database_url: str, transport: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    settings = load(database_url=database_url, transport=transport, statement_timeout_s=5)
    await BrokerShipper(SqlDestination(settings), settings).run(stopping)


def main(database_url: str, transport: str) -> None:
    begun = []
    while os.read(0, 1):
        if not (pid := os.fork()):
            asyncio.run(_ship(database_url, transport))
            os._exit(0)
        begun.append(pid)
        os.write(1, b"%d\n" % pid)
    for pid in begun:  # those that were killed as well: nobody has waited for them
        os.kill(pid, signal.SIGTERM)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in begun]
    os.write(1, json.dumps(codes).encode() + b"\n")


class Ships:
    """The shippers at work, as a test sees them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pids: list[int] = []
        self.kills = 0

    def begin(self, count: int = 1) -> None:
        """Begin some more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for _ in range(count):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            self.pids.append(int(self._process.stdout.readline()))

    def kill(self, count: int = 1) -> None:
        """Kill some of them with -9."""
        for _ in range(min(count, len(self.pids))):
            os.kill(self.pids.pop(random.randrange(len(self.pids))), signal.SIGKILL)
            self.kills += 1

    def end(self) -> list[int]:
        """Ask them to end. Return the exit codes of those that were not killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        codes = json.loads(self._process.stdout.readline())
        return [code for code in codes if code != -signal.SIGKILL]


@contextlib.contextmanager
def ships(database_url: str, transport: str) -> Iterator[Ships]:
    command = [sys.executable, "-m", "tests.scale.ships", database_url, transport]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        fleet = Ships(process)
        try:
            yield fleet
        finally:
            fleet.kill(len(fleet.pids))
            if process.stdin is not None:
                process.stdin.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
