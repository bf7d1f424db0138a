"""Processes that are begun and killed as often as one wishes, forked from one that has imported everything.

That one is told on stdin: `b` begins one, whose process id is printed; `q` asks all to be quiet, of which `QUIET` tells
them; when stdin is closed all are asked to end by SIGTERM, and their exit codes are printed as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent.parent


def serve(life: Callable[[int, int], object]) -> None:
    """Fork processes that do `life`, which is given a descriptor that can be read when they are to be quiet, and how
    many have begun before.
    """
    quiet, noise = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until a life is ready for it
    begun = []
    while command := os.read(0, 1):
        if command == b"q":
            os.close(noise)
            continue
        if not (pid := os.fork()):
            os.close(noise)
            life(quiet, len(begun))
            os._exit(0)
        begun.append(pid)
        os.write(1, b"%d\n" % pid)
    for pid in begun:  # those that were killed as well: nobody has waited for them
        os.kill(pid, signal.SIGTERM)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in begun]
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(codes).encode() + b"\n")


class Fleet:
    """The processes at work, as a test sees them."""

    def __init__(self, process: subprocess.Popen[bytes], draw: random.Random) -> None:
        self._process = process
        self._draw = draw
        self.pids: list[int] = []

    def _tell(self, command: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()

    def begin(self, count: int = 1) -> None:
        """Begin some more."""
        assert self._process.stdout is not None
        for _ in range(count):
            self._tell(b"b")
            self.pids.append(int(self._process.stdout.readline()))

    def kill(self, count: int = 1) -> None:
        """Kill some of them with -9."""
        for _ in range(min(count, len(self.pids))):
            os.kill(self.pids.pop(self._draw.randrange(len(self.pids))), signal.SIGKILL)

    def quiet(self) -> None:
        """Let them make nothing new."""
        self._tell(b"q")

    def end(self) -> list[int]:
        """Ask them to end. Return the exit codes of those that were not killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self.pids.clear()
        return [code for code in json.loads(self._process.stdout.readline()) if code != -signal.SIGKILL]


@contextlib.contextmanager
def fleet(
    module: str,
    *arguments: str,
    draw: random.Random,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str],
    root: Path = ROOT,
) -> Iterator[Fleet]:
    """Run `module` of the checkout `root` with arguments, on the host of `prefix`; kill what is left at the end."""
    command = [*prefix, sys.executable, "-m", module, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, env={**os.environ, **environment}, **pipes) as process:
        found = Fleet(process, draw)
        try:
            yield found
        finally:
            found.kill(len(found.pids))
            if process.stdin is not None:
                process.stdin.close()
