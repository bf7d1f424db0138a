"""The three standard streams as they are met: closed, full, read by a program that ends early, not in UTF-8.

While a command runs, stdout raises `OutputFailed`, which is no OSError, so that it cannot be taken for trouble with a
database or a file; stderr never raises.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

from llmctx.core.errors import LlmctxError
from llmctx.core.text import escape_controls

_STANDARD: Final = (0, 1, 2)
_OF_HOST_TYPES: Final = "Did not recognize type|Could not instantiate type"
"""SQLAlchemy's words for the type of a column that it has no name for, which is read as text."""


class OutputFailed(LlmctxError):
    """The output cannot be written. Give it another place."""

    def __init__(self, problem: OSError | ValueError) -> None:
        number = getattr(problem, "errno", None)
        self.reader_is_gone: Final = number == errno.EPIPE
        """Its reader wants no more, as in `llmctx calls | head`: that is no error."""
        super().__init__(f"The output cannot be written: {os.strerror(number) if number else problem}.")


class _Stdout:
    """A text stream whose failures are `OutputFailed`; closed from the start if `stream` is None."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.is_used = False
        self.isatty: Final[Callable[[], bool]] = bool if stream is None else stream.isatty
        self.rich_proxied_file: Final = self
        """What rich looks for in a stream each time that it looks at one."""

    def write(self, text: str) -> int:
        self.is_used = True
        try:
            return self._open().write(text)
        except (OSError, ValueError) as problem:
            raise OutputFailed(problem) from None

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError) as problem:
            raise OutputFailed(problem) from None

    @property
    def encoding(self) -> str:
        return (None if self._stream is None else self._stream.encoding) or "utf-8"

    def _open(self) -> TextIO:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._open(), name)


class _Stderr:
    """A text stream that loses what it cannot write: a message is no reason to end a command."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Run the block with a stderr that never raises, and no stream that a file could become; drop what is left over."""
    _reserve_descriptors()
    before = sys.stdout, sys.stderr
    for stream in before:
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # rather than fail where the encoding lacks a character
    sys.stderr = cast(TextIO, _Stderr(before[1]))
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = _log_failure
    try:
        with _plain_warnings():
            yield
    finally:
        sys.stdout, sys.stderr = before
        threading.excepthook, sys.unraisablehook = hooks
        _abort()


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Run the block with warnings that are a sentence, rather than a place in a program; none of a host's own types."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_OF_HOST_TYPES)
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {escape_controls(message)}", file=sys.stderr)


@contextmanager
def checked_stdout() -> Iterator[_Stdout]:
    """Run the block with a stdout that raises `OutputFailed`, at the end of the block for what was not written."""
    before = sys.stdout
    stream = _Stdout(before)
    sys.stdout = cast(TextIO, stream)
    try:
        yield stream
        stream.flush()
    finally:
        sys.stdout = before


def _log_failure(failure: Any) -> None:
    """Log a failure that no caller sees, of a thread or of an object that is let go, in a line.

    aiosqlite's threads meet a closed loop where a file cannot be opened, and a loop that could not be made has nothing
    to close: of both the command itself says more.
    """
    is_sequel = isinstance(failure.exc_value, AttributeError) or "loop is closed" in str(failure.exc_value)
    level = logging.DEBUG if is_sequel else logging.WARNING
    logging.getLogger("llmctx").log(level, "llmctx: in the background: %r", failure.exc_value)


def _reserve_descriptors() -> None:
    """Let no file that is opened from now on become stdout or stderr, where those were closed."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _abort() -> None:
    """Drop what stdout and stderr cannot write, or Python would complain of it once more when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
