"""What frames show: loops, queues, and the stack of a suspended task."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmctx.identity.work_frames import is_in_a_loop, suspended_frames, takes_from_a_queue


def here() -> bool:
    return is_in_a_loop(sys._getframe(1))


def once() -> bool:
    return here()


def over_a_list() -> bool:
    found = False
    for _ in range(2):
        found = here()
    return found


def while_it_lasts() -> bool:
    left = 2
    while left:
        found = here()
        left -= 1
    return found


async def awaiting() -> bool:
    await asyncio.sleep(0)
    return here()


async def items() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


async def over_a_stream() -> bool:
    found = False
    async for _ in items():
        found = here()
        if found:
            break
    return found


async def test_a_loop_has_no_end_of_its_own() -> None:
    assert [once(), over_a_list(), await awaiting()] == [False] * 3
    assert [while_it_lasts(), await over_a_stream()] == [True] * 2


async def test_the_frames_of_a_suspended_task() -> None:
    """Also of the generators over which it iterates."""

    async def outer() -> None:
        async for _ in items():
            begun.set()

    begun = asyncio.Event()
    task = asyncio.create_task(outer())
    await begun.wait()
    await asyncio.sleep(0)
    assert [frame.f_code.co_name for frame in suspended_frames(task)] == ["outer", "items", "wait"]
    task.cancel()


def taking(jobs: queue.Queue[Any]) -> bool:
    jobs.get()
    return takes_from_a_queue(sys._getframe())


def putting(jobs: queue.Queue[Any]) -> bool:
    jobs.put(2)
    return takes_from_a_queue(sys._getframe())


async def putting_what_comes(jobs: queue.Queue[Any]) -> bool:
    async for item in items():
        jobs.put(item)
        break
    return takes_from_a_queue(sys._getframe())


@pytest.mark.parametrize(("does", "takes"), [(taking, True), (putting, False)])
def test_who_takes_from_a_queue(does: Any, takes: bool) -> None:
    jobs: queue.Queue[Any] = queue.Queue()
    jobs.put(1)
    assert does(jobs) is takes


async def test_who_fills_a_queue_takes_nothing_from_it() -> None:
    assert not await putting_what_comes(queue.Queue())
