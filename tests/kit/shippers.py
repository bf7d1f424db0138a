"""A shipper that is killed as often as one wishes: `python -m tests.kit.shippers URL`.

It is forked from a process that has imported everything. For each line on stdin it is killed with -9, and the next one
begins; when stdin is closed it is asked to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.host_shipper import HostShipper
from llmctx.settings import load

ROOT: Final = Path(__file__).parent.parent.parent


async def _ship(url: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    os.write(1, b"begun\n")
    settings = load(database_url=url)
    await HostShipper(SqlDestination(settings), settings).run(stopping)


def _fork(url: str) -> int:
    if not (pid := os.fork()):
        asyncio.run(_ship(url))
        os._exit(0)
    return pid


def main(url: str) -> None:
    pid = _fork(url)
    while os.read(0, 1):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pid = _fork(url)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


class Shippers:
    """The one that is at work, as a test sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._wait()

    def _wait(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"

    def kill(self) -> None:
        """Kill it, and begin another one."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        self._wait()

    def end(self) -> int:
        """Ask it to end. Return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()


@contextlib.contextmanager
def shippers(url: str) -> Iterator[Shippers]:
    command = [sys.executable, "-m", "tests.kit.shippers", url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Shippers(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()


if __name__ == "__main__":
    main(sys.argv[1])
