"""The team's own patterns and functions: never trusted with our time.

A pattern runs through google-re2, which is linear by design, where that is installed (the extra `patterns`) and knows
what is in it: it has no lookarounds. Otherwise it runs on pieces of 4,096 characters, and is refused at construction if
its structure lets it take for ever (`pattern_check.py`).

A function runs in a thread of its own, with a deadline. If it raises or returns no text, that text is withheld; one
that has missed its deadline is never called again, and everything it should have seen is withheld. It works in a scope
of its own: a call of a model that it makes is told from others, and is not redacted by it again.
"""

from __future__ import annotations

import importlib
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.delivery.redact.pattern_check import fault_of
from llmctx.delivery.redact.text_spans import Span
from llmctx.identity.scope import enter, new_scope

Function = Callable[[str], str]

PIECE: Final = 4096
OVERLAP: Final = 512
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_REMEDY: Final = 'Write it so that it can match in one way only, or pip install "llmctx[patterns]"'


class RedactionFailed(Exception):
    """A text could not be redacted, so it may not be stored. Store the row without its texts."""


class OwnPattern:
    """One of the team's regular expressions. `name` stands in the placeholder."""

    def __init__(self, name: str, pattern: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise ConfigError(f"A redaction pattern is named {name!r}. Use lower case letters, digits, underscores.")
        if not pattern:
            raise ConfigError(f"The redaction pattern {name!r} is empty, so that it finds nothing. Write one, or none.")
        self.name = name
        linear = _linear(pattern)
        self._linear = linear is not None
        self._finds: Any = linear or _checked(name, pattern)

    def find(self, text: str) -> Iterator[Span]:
        if self._linear or len(text) <= PIECE:
            matches = iter(self._finds.finditer(text))
        else:
            matches = (
                match
                for start in range(0, len(text) - OVERLAP, PIECE - OVERLAP)
                for match in self._finds.finditer(text, start, start + PIECE)
            )
        for match in matches:
            start, end = match.span()
            if start < end:
                yield start, end, self.name


def _linear(pattern: str) -> Any:
    """Return `pattern`, compiled by google-re2; None where that is not installed, or knows no such pattern."""
    try:
        re2 = importlib.import_module("re2")
    except ImportError:
        return None
    options = re2.Options()
    options.log_errors = False  # on standard error
    try:
        return re2.compile(pattern, options)
    except Exception:  # noqa: BLE001  its own error, and whatever it thinks of what is no text
        return None


def _checked(name: str, pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as problem:
        raise ConfigError(f"The redaction pattern {name!r} cannot be used: {problem}. Correct it.") from None
    if fault := fault_of(pattern):
        raise ConfigError(f"The redaction pattern {name!r} {fault}, which may take for ever. {_REMEDY}.")
    return compiled


class OwnFunction:
    """One of the team's functions, kept at arm's length."""

    def __init__(self, function: Function, deadline_s: float) -> None:
        if not callable(function):
            raise ConfigError(f"A redaction function is {function!r}, which cannot be called. Pass a function.")
        self._function = function
        self._deadline_s = deadline_s
        self._hangs = False
        self._mine = threading.local()  # one thread for each calling thread: callers do not wait for each other

    def __call__(self, text: str) -> str:
        if self._hangs:
            raise RedactionFailed
        jobs, pid = getattr(self._mine, "jobs", (None, 0))
        if jobs is None or pid != os.getpid():  # threads do not survive a fork
            jobs = queue.SimpleQueue()
            self._mine.jobs = jobs, os.getpid()
            threading.Thread(target=_work, args=(self._function, jobs), name="llmctx-redact", daemon=True).start()
        answer: queue.SimpleQueue[object] = queue.SimpleQueue()
        jobs.put((text, answer))
        try:
            found = answer.get(timeout=self._deadline_s)
        except queue.Empty:
            self._hangs = True
            diagnostics.count(
                "redaction_hangs",
                "%r took more than %g s to redact a text: it is not called again, rows are stored without texts",
                self._function,
                self._deadline_s,
            )
            raise RedactionFailed from None
        if type(found) is not str:
            # not the exception itself: it may quote the text that must not be seen
            diagnostics.count(
                "redaction_failed",
                "%r did not redact (%s): a row is stored without texts",
                self._function,
                type(found).__name__,
            )
            raise RedactionFailed from None
        return found


def _work(function: Function, jobs: queue.SimpleQueue[tuple[str, queue.SimpleQueue[object]]]) -> None:
    enter(new_scope("redaction"))
    while True:
        text, answer = jobs.get()
        try:
            answer.put(function(text))
        except BaseException as problem:  # noqa: BLE001  it is the team's own, and the waiting caller must know
            answer.put(problem)
        del text, answer
