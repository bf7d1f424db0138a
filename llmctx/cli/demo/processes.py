"""The demo's processes: each is started with a pipe as its stdin and ends by itself when that pipe closes.

So nothing is left running, however the demo ends: it may return, be interrupted, or be killed. A child says one
JSON line on stdout when it is ready. Standard library only, so that starting one costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

_PRIVATE: Final = ("LLMCTX_", "OPENAI_", "ANTHROPIC_", "LANGSMITH_", "LANGCHAIN_")


class ChildFailed(Exception):
    """A process of the demo did not start or did not answer. Run the demo again with --keep and read its log."""


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that would change the application, or send its data elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_PRIVATE)}
    here = ",".join(filter(None, [kept.get("NO_PROXY"), "127.0.0.1,localhost"]))
    return {**kept, "NO_PROXY": here, "no_proxy": here, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}


class ChildProcess:
    """One process, from the parent's side."""

    def __init__(self, name: str, module: str, *args: str, log: Path | None, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._ready = False
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        stderr = subprocess.DEVNULL if log is None else log.open("ab")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(env),
                # Ctrl-C reaches the whole group of a terminal; the demo ends its children itself, in order.
                start_new_session=True,
            )
        finally:
            if not isinstance(stderr, int):
                stderr.close()
        threading.Thread(target=self._read, name=f"demo-{name}", daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue  # a library printed something
                if isinstance(said, dict):
                    self._lines.put(said)
        self._lines.put(None)

    def says(self, timeout: float) -> dict[str, Any]:
        """Wait for the next line."""
        try:
            said = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ChildFailed(f"{self.name} did not answer within {timeout:.0f} s") from None
        self._ready = True
        if said is None:
            raise ChildFailed(f"{self.name} has ended: {self._last_words()}")
        if "failed" in said:
            raise ChildFailed(f"{self.name}: {said['failed']}")
        return said

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log and self.log.exists() else []
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Failed|Unavailable)\b", line)]
        return (errors or lines or ["it said nothing"])[-1][:300]

    def tell(self, line: str) -> None:
        """Write one line to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Ask it to exit, without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has gone already
            self._process.stdin.close()

    def end(self, timeout: float = 15, *, tidies: bool = False) -> int:
        """Ask it to exit, wait, and kill it if need be; return the exit code. `tidies`: it has files to remove."""
        self.close()
        if not self._ready and not tidies:
            self._process.terminate()  # it is still importing, and would see the closed pipe only afterwards
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay a Ctrl-C until the block has ended."""
    came: list[tuple[int, FrameType | None]] = []
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    except ValueError:  # not the main thread: no Ctrl-C comes here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])


def say(**facts: Any) -> None:
    """Send the parent one JSON line."""
    try:
        print(json.dumps(facts), flush=True)
    except BrokenPipeError:
        sys.stdout = None  # the parent has gone: do not flush at exit


def read_line() -> dict[str, Any]:
    """Wait for one JSON line from the parent; exit when the parent is gone."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what comes after the line is not ours to read
        if not (byte := os.read(0, 1)):
            raise SystemExit(1)
        line += byte
    received: dict[str, Any] = json.loads(line)
    return received


def when_parent_goes(then: Callable[[], None]) -> None:
    """Call `then`, in a thread, once the parent has closed our stdin or died."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        then()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
