"""Who waits for whom: what serves a request is told from a worker that it merely started."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest

from llmctx import bind
from llmctx.identity.await_graph import awaiting_task, context_that_waits, is_part_of
from llmctx.identity.scope import current_scope


def asked() -> bool | None:
    return is_part_of(current_scope())


async def answer() -> bool | None:
    await asyncio.sleep(0)
    return asked()


async def _in_a_group() -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(answer())
    return task.result()


async def _in_anyios_group() -> Any:
    found: list[Any] = []

    async def append() -> None:
        found.append(await answer())

    async with anyio.create_task_group() as group:
        group.start_soon(append)
    return found[0]


async def _in_a_thread() -> Any:
    """Once the job's future is chained to the loop's: before that nothing can be told."""
    chained = threading.Event()
    asyncio.get_running_loop().call_soon(chained.set)
    return await asyncio.to_thread(lambda: chained.wait(60) and asked())


async def _gathered() -> Any:
    return (await asyncio.gather(asyncio.gather(answer())))[0][0]


async def _as_completed() -> Any:
    (one,) = asyncio.as_completed([answer()])
    return await one


WAITED_FOR: dict[str, Callable[[], Awaitable[Any]]] = {
    "itself": answer,
    "task": lambda: asyncio.create_task(answer()),
    "gather": _gathered,
    "as_completed": _as_completed,
    "group": _in_a_group,
    "anyio's group": _in_anyios_group,
    "wait_for": lambda: asyncio.wait_for(answer(), 5),
    "shield": lambda: asyncio.shield(answer()),
    "to_thread": _in_a_thread,
    "anyio's to_thread": lambda: anyio.to_thread.run_sync(asked),
}


@pytest.mark.parametrize("way", WAITED_FOR.values(), ids=WAITED_FOR.keys())
async def test_what_the_request_waits_for_is_part_of_it(way: Callable[[], Awaitable[Any]]) -> None:
    """By whatever construct of asyncio or anyio it waits."""
    with bind(user_id="a"):
        assert await way() is True


async def test_what_nothing_waits_for_is_no_part_of_it() -> None:
    """A worker task is not; of a job of a pool that a thread may block on it cannot be told."""
    with bind(user_id="a"):
        worker = asyncio.create_task(answer())
        while not worker.done():  # looks at it without waiting for it
            await asyncio.sleep(0)
        assert worker.result() is False
        with ThreadPoolExecutor(1) as pool:
            context = contextvars.copy_context()
            job = pool.submit(context.run, asked)
            while not job.done():
                await asyncio.sleep(0)
            assert job.result() is None


async def test_a_task_knows_who_waits_for_it() -> None:
    """Directly, or by a `gather`."""
    mine = asyncio.current_task()

    async def ask() -> Any:
        await asyncio.sleep(0)
        return awaiting_task()

    assert await asyncio.create_task(ask()) is mine
    assert await asyncio.gather(ask()) == [mine]
    assert awaiting_task() is None


async def test_a_task_made_for_one_method_has_the_context_of_its_waiter() -> None:
    """`wait_for(jobs.get(), 5)` is the waiter's own; outside of such a task there is nothing to tell."""

    async def get() -> Any:
        await asyncio.sleep(0)
        return context_that_waits(("get",))

    made, context = await asyncio.create_task(get())
    assert made
    assert context is not None
    assert context_that_waits(("get",)) == (False, None)
