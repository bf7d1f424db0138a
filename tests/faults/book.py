"""The driver's own book: what it called and for whom, kept apart from llmctx, and as hard to kill.

One line for each event, appended in one `write`: what the kernel has survives kill -9, which is all that is done to
the driver. A call is `issued` before anything happens, `began` is written inside of the model, so after LangChain has
reported the start, and `ended` by whoever made the call. Its `run_id` is the link to its row: it is the one thing of
the application's that stands in every row, also in that of a call whose process died.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

WORDS: Final = ("list", "the", "next", "open", "slots", "for", "a", "visit", "and", "say", "why", "übermorgen", "明天")

SECRET: Final = " and by the way: "
"""What comes behind it in a prompt is nobody's business."""


def text_of(run_id: str, size: int) -> str:
    """What is asked in a call: always the same for its run_id. About `size` characters."""
    rng = random.Random(run_id)
    some = " ".join(rng.choices(WORDS, k=50))
    return f"[{run_id}] " + some * max(1, size // len(some))


def answer_to(run_id: str) -> str:
    return f"answer to {run_id}"


@dataclass(slots=True)
class Call:
    """One call as the driver knows it."""

    run_id: str
    user: str | None
    session: str | None
    way: str
    """How it is made: `ainvoke`, `graph`, …"""
    end: str
    """What is to become of it: `ok`, `fail`, `cancel`."""
    size: int
    life: str
    """Which process made it."""
    ms: int = 0
    began: bool = False
    ended: bool = False
    at: float = 0.0

    @property
    def prompt(self) -> str:
        return text_of(self.run_id, self.size)

    @property
    def statuses(self) -> frozenset[str]:
        """How its row may say that it ended, if its process lived to see it."""
        if self.end == "cancel":
            # whether a server hears in time that its client has gone is not for llmctx to decide
            return frozenset({"cancelled", "ok"} if self.way in ("http", "sse") else {"cancelled"})
        return frozenset({"ok" if self.end == "ok" else "error"})


class Pen:
    """Writes the book; several processes may."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def issued(self, call: Call) -> None:
        told = [call.run_id, call.user, call.session, call.way, call.end, call.size, call.life]
        self._write("issued", told)

    def began(self, run_id: str) -> None:
        self._write("began", [run_id])

    def ended(self, run_id: str, at: float) -> None:
        self._write("ended", [run_id, at])

    def harmed(self, what: str) -> None:
        """The application met with something that it would not have met without llmctx."""
        self._write("harmed", [what[:2000]])

    def life(self, name: str, event: str) -> None:
        self._write("life", [name, event])

    def _write(self, kind: str, told: list[Any]) -> None:
        os.write(self._fd, json.dumps([kind, *told]).encode() + b"\n")


@dataclass(slots=True)
class Book:
    """What the driver says, read after the fact."""

    calls: dict[str, Call] = field(default_factory=dict)
    harm: list[str] = field(default_factory=list)

    @property
    def began(self) -> int:
        return sum(call.began for call in self.calls.values())


def read(path: Path) -> Book:
    """The whole book. A torn last line does not count."""
    book = Book()
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        kind, *told = json.loads(line)
        if kind == "issued":
            book.calls[told[0]] = Call(*told)
        elif kind == "began":
            book.calls[told[0]].began = True
        elif kind == "ended":
            book.calls[told[0]].ended = True
            book.calls[told[0]].at = told[1]
        elif kind == "harmed":
            book.harm.append(told[0])
    return book
