"""One answer for all who ask the same at about the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmctx.dashboard.shared_answers import SharedAnswers


class Source:
    """Answers when it may, with how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if number == 13:
            raise ValueError(number)
        return number


async def _under_way(source: Source, count: int) -> None:
    while source.asked < count:
        await asyncio.sleep(0)


async def test_who_asks_the_same_meanwhile_waits_for_the_same_answer() -> None:
    """Others do not; one who goes away takes the answer from nobody."""
    shared, source = SharedAnswers[int](), Source()
    same = [asyncio.create_task(shared.get({"page": "a"}, source.ask)) for _ in range(5)]
    other = asyncio.create_task(shared.get({"page": "b"}, source.ask))
    await _under_way(source, 2)
    same[0].cancel()
    source.may_answer.set()
    assert await asyncio.gather(*same[1:], other) == [1, 1, 1, 1, 2]
    assert source.asked == 2


async def test_a_dear_answer_is_kept_and_a_cheap_one_is_not() -> None:
    """For twenty times as long as it took, and no longer than a quarter of a minute."""
    clock = 100.0
    shared, source = SharedAnswers[int](lambda: clock), Source()

    async def asked(took_s: float) -> int:
        nonlocal clock
        source.may_answer.clear()
        before = source.asked
        one = asyncio.create_task(shared.get("a", source.ask))
        for _ in range(5):
            await asyncio.sleep(0)
        if source.asked > before:
            clock += took_s
        source.may_answer.set()
        return await one

    for took_s, kept_s in ((0.0, 0.0), (0.1, 2.0), (0.5, 10.0), (20.0, 15.0)):
        first = await asked(took_s)
        clock += kept_s * 0.99
        assert await asked(took_s) == (first if kept_s else first + 1), took_s
        clock += kept_s * 0.02 + 0.001
        assert await asked(0.0) == source.asked > first


async def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    """All who waited for it hear of it; the next one tries anew."""
    shared, source = SharedAnswers[int](), Source()
    source.asked = 12
    waiting: list[Any] = [asyncio.create_task(shared.get("a", source.ask)) for _ in range(3)]
    await _under_way(source, 13)
    source.may_answer.set()
    assert [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == [ValueError] * 3
    assert await shared.get("a", source.ask) == 14


async def test_what_is_under_way_ends_with_the_dashboard() -> None:
    """Nobody is left waiting."""
    shared, source = SharedAnswers[int](), Source()
    waiting = asyncio.create_task(shared.get("a", source.ask))
    await _under_way(source, 1)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_each_event_loop_has_its_own_answers() -> None:
    """A mounted application may be run by one loop after another, and is not always closed in between."""
    shared = SharedAnswers[int](lambda: 0.0)

    async def answered(number: int) -> int:
        async def ask() -> int:
            return number

        return await shared.get("a", ask)

    assert [asyncio.run(answered(1)), asyncio.run(answered(2))] == [1, 2]
    asyncio.run(shared.close())
