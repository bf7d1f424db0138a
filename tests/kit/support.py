"""What several tests share: chat models that know whose call it is, and the book in which the truth is kept.

The models are real `BaseChatModel`s. What they do stands in the prompt: `[fail]` raises, `[hang]` waits until it is
cancelled, everything else answers after some waiting, so that the calls of many users interleave.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from llmctx.capture.open_calls import OpenCalls
from llmctx.core.record import CallRecord
from tests.kit.models import FakeChatModel, FakeLLM, Reply

MARK = re.compile(r"\[call (\d+)\]")
WORDS = ("one ", "two ", "three")
_numbers = itertools.count(1)
_random = random.Random(7)


class ProviderDown(Exception):
    """What the fake provider answers to `[fail]`."""


hanging = threading.Semaphore(0)
"""Released once for each call that has begun to hang."""


def _latency() -> float:
    return _random.uniform(0.0005, 0.006)


def _cancel() -> None:
    raise asyncio.CancelledError


def kept_by(open_calls: OpenCalls) -> list[str]:
    """The tables of open calls in which something is left. A task that goes on may stand there, without a call."""
    tables = {
        "runs": open_calls._by_run,
        "twins": open_calls._twins,
        "by hand": open_calls._manual,
        "tasks": [
            task
            for task, calls in list(open_calls._by_task.items())
            if calls or task.done() or task.get_loop().is_closed()
        ],
    }
    return [f"{len(left)} {name}" for name, left in tables.items() if left]


class Talker(FakeChatModel):
    """Answers after some waiting. `[fail]` raises, `[hang]` waits until it is cancelled, `[cancel inside]` cancels."""

    model_name: str = "talker"

    def _reply(self, messages: list[BaseMessage], streamed: bool = False) -> Reply:
        text = str(messages[-1].content)
        return Reply(
            f"heard {text}",
            WORDS,
            ProviderDown(text) if "[fail]" in text else None,
            pause=_latency,
            hang=hanging.release if "[hang]" in text else _cancel if "[cancel inside]" in text else None,
        )


class PlainTalker(Talker):
    """A model that cannot stream: every way ends in `_generate` or `_agenerate`."""

    _stream = BaseChatModel._stream
    _astream = BaseChatModel._astream


class Completer(FakeLLM):
    """A completion model that fails where it is told to."""

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        if any("[fail]" in prompt for prompt in prompts):
            raise ProviderDown(prompts[0])
        return super()._generate(prompts)

    async def _agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        await asyncio.sleep(_latency())
        return self._generate(prompts)


@dataclass(frozen=True)
class User:
    """Somebody, with a session and a LangGraph thread."""

    user_id: str | None
    session_id: str | None
    thread_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.user_id is None else {"x-user": self.user_id, "x-session": self.session_id or ""}


def users(count: int = 20, tag: str = "") -> list[User]:
    return [User(f"u{tag}{n}", f"s{tag}{n}", f"t{tag}{n}") for n in range(count)]


Known = Literal["always", "carried", "never"]
"""Who can know whose call it is: some witness does; only `carry=True`; nobody without `carry=True`, not even that it is
nobody's: a bare prompt, handed to a worker that was started inside of somebody's request."""


@dataclass(frozen=True)
class Truth:
    user_id: str | None
    session_id: str | None
    status: str
    known: Known = "always"


@dataclass
class Book:
    """Every call that was made, and whose it was. `held_against` compares it with the rows."""

    truths: dict[int, Truth] = field(default_factory=dict)

    def prompt(self, user: User | None, status: str = "ok", text: str = "", known: Known = "always") -> str:
        """A prompt that carries its owner; None means that it is nobody's, or that nobody could know."""
        number = next(_numbers)
        self.truths[number] = Truth(
            None if user is None else user.user_id, None if user is None else user.session_id, status, known
        )
        return f"{text or 'hello'} [call {number}]" + (" [fail]" if status == "error" else "")

    def held_against(self, rows: Iterable[CallRecord | Any], *, carry: bool = True) -> list[str]:
        """What is wrong with `rows`, in words; empty when each call is one row, and right.

        Without `carry`, what only it could know must be right or None with a reason; never somebody else's.
        """
        complaints: list[str] = []
        found: Counter[int] = Counter()
        for row in rows:
            match = MARK.search(row.prompt_snapshot or "")
            if match is None:
                complaints.append(f"a row without a mark: {row.prompt_snapshot}")
                continue
            number = int(match[1])
            found[number] += 1
            truth = self.truths.get(number)
            if truth is None:
                complaints.append(f"call {number} was never made")
                continue
            got = (row.user_id, row.session_id)
            why = f"({row.identity_source}, {row.identity_reason})"
            if got == (None, None) and row.identity_reason is None:
                complaints.append(f"call {number} has no ids and no reason {why}")
            if not carry and (truth.known == "never" or (truth.known == "carried" and got == (None, None))):
                pass
            elif got != (truth.user_id, truth.session_id):
                kind = "WRONG" if any(got) else "missing"
                complaints.append(f"call {number} {kind}: {got} instead of {truth.user_id, truth.session_id} {why}")
            if row.status != truth.status:
                complaints.append(f"call {number} is {row.status}, not {truth.status}")
        complaints += [f"call {n} has {count} rows" for n, count in found.items() if count > 1]
        complaints += [f"call {n} of {t.user_id} has no row" for n, t in self.truths.items() if n not in found]
        return complaints


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.002)


async def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll with a deadline, without holding up the loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        await asyncio.sleep(0.002)
