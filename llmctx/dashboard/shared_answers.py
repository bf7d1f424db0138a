"""One answer for all who ask the same at about the same time, where the answer adds up many rows.

When something is wrong, a whole team looks at the same figures, and reloads them. The database adds them up once: who
asks meanwhile waits for that answer, and who asks soon after gets it again, with its time on it. Soon is as long as the
answer was dear: figures that took milliseconds are made anew at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

_TIMES_AS_LONG: Final = 20
"""So a question that is asked all the time keeps the database busy for a twentieth of it."""
_LONGEST_S: Final = 15.0
_MOST: Final = 64

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Kept(Generic[T]):
    question: object
    answer: asyncio.Task[T]
    until: float = float("inf")
    """In seconds of the clock; it is under way as long as there is no end."""


class SharedAnswers(Generic[T]):
    """The latest answers; each event loop begins without any, for only its own can be awaited in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._latest: list[_Kept[T]] = []

    async def get(self, question: object, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to what equals `question`, asked by `ask` unless there is one, or will be soon.

        Raises what `ask` does, to all who wait for it; a failure is not kept.
        """
        now, loop = self._clock(), asyncio.get_running_loop()
        latest = [one for one in self._latest if one.until > now][-_MOST:] if loop is self._loop else []
        found = next((one for one in latest if one.question == question), None)
        if found is None:
            found = self._asked(question, ask)
            latest.append(found)
        self._loop, self._latest = loop, latest
        return await asyncio.shield(found.answer)  # others may wait for it

    def _asked(self, question: object, ask: Callable[[], Awaitable[T]]) -> _Kept[T]:
        began = self._clock()

        async def answer() -> T:
            return await ask()

        def keep(task: asyncio.Task[T]) -> None:
            ended = self._clock()
            has_failed = task.cancelled() or task.exception() is not None
            kept.until = ended if has_failed else ended + min(_LONGEST_S, _TIMES_AS_LONG * (ended - began))

        kept = _Kept(question, asyncio.get_running_loop().create_task(answer()))
        kept.answer.add_done_callback(keep)
        return kept

    async def close(self) -> None:
        """Forget the answers, and give up what is under way in this event loop."""
        kept, self._latest = self._latest, []
        if self._loop is asyncio.get_running_loop():
            for one in kept:
                one.answer.cancel()
            await asyncio.gather(*(one.answer for one in kept), return_exceptions=True)
        self._loop = None
