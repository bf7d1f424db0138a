"""What another process knows helps only whom it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmctx import CallContext, bind
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import EMPTY, Scope
from tests.kit.shared_registry import NOBODY, A, B, Here, ause_elsewhere, ids, model, on, request_of, use_elsewhere, why
from tests.kit.support import wait_for
from tests.scenarios.world import graph


def test_what_only_this_process_says_of_a_thread_is_checked(redis_url: str, prefix: str) -> None:
    """Here A alone has used the thread. That B did, elsewhere, makes it shared here as well."""
    with Here(redis_url, prefix) as here:
        with bind(A):
            model.invoke("hello", on("t"))
        row = here.lost_call("t")
        assert (ids(row), why(row)) == (("a", "s-a"), ("thread", None))
        use_elsewhere(redis_url, prefix, "t", B)
        row = here.lost_call("t")
        assert (ids(row), why(row)) == (NOBODY, ("none", "shared_thread"))


async def _same_task(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


async def _child_task(call: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.gather(asyncio.create_task(_awaited(call)))


async def _awaited(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


async def _detached_task(call: Callable[[], Awaitable[Any]]) -> None:
    task = asyncio.create_task(_awaited(call))
    await wait_for(task.done, "the call")


async def _thread(call: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.to_thread(asyncio.run, _awaited(call))


WAYS = [_same_task, _child_task, _detached_task, _thread]


@pytest.mark.parametrize("wrapped", [True, False, None], ids=["wrapped", "plain", "model"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("who", [EMPTY, A], ids=["anonymous", "named"])
async def test_naming_the_thread_of_another_gives_nobody_his_name(
    redis_url: str, prefix: str, who: CallContext, way: Any, wrapped: bool | None
) -> None:
    """The victim's thread is known elsewhere alone. Whoever names it here has his own name, or none."""
    await ause_elsewhere(redis_url, prefix, "victim's", B)
    with Here(redis_url, prefix) as here:

        async def attack() -> None:
            if wrapped is None:
                await model.ainvoke("hello", on("victim's"))
            else:
                await graph(wrapped).ainvoke({"prompt": "hello", "prompts": ["again"]}, on("victim's"))

        with request_of(who):
            await way(attack)
        rows = await here.arows()
    assert rows
    if who is EMPTY or way in (_same_task, _child_task):
        assert {ids(row) for row in rows} <= {(who.user_id, who.session_id), NOBODY}
    else:  # a worker that A's request started does what B's would: neither is A's
        assert {ids(row) for row in rows} <= {("a", "s-a"), ("b", "s-b"), NOBODY}
    if way in (_same_task, _child_task):
        assert {ids(row) for row in rows} == {(who.user_id, who.session_id)}
    assert all(why(row)[1] for row in rows if ids(row) == NOBODY)


async def _worker_of(jobs: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Event]]) -> None:
    while True:
        job, done = await jobs.get()
        await job()
        done.set()


@pytest.mark.parametrize("closed", [False, True], ids=["open request", "closed request"])
@pytest.mark.parametrize("wrapped", [True, False, None], ids=["wrapped", "plain", "model"])
async def test_a_worker_started_in_one_request_works_for_another_elsewhere(
    redis_url: str, prefix: str, wrapped: bool | None, closed: bool
) -> None:
    """It has inherited A's scope, and runs the thread that only B's process knows: that is B's, never A's."""
    with Here(redis_url, prefix) as here:
        jobs: asyncio.Queue[Any] = asyncio.Queue()

        async def job() -> None:
            if wrapped is None:
                await model.ainvoke("hello", on("b's"))
            else:
                await graph(wrapped).ainvoke({"prompt": "hello", "prompts": ["again"]}, on("b's"))

        with request_of(A):
            await model.ainvoke("hello", on("a's"))
            worker = asyncio.create_task(_worker_of(jobs))
            done = asyncio.Event()
            await ause_elsewhere(redis_url, prefix, "b's", B)
            if not closed:
                jobs.put_nowait((job, done))
                await done.wait()
        if closed:
            jobs.put_nowait((job, done))
            await done.wait()
        worker.cancel()
        first, *rows = await here.arows()
    assert ids(first) == ("a", "s-a")
    believed, nobody = (("b", "s-b"), ("thread", None)), (NOBODY, ("none", "shared_thread"))
    assert (ids(rows[0]), why(rows[0])) == believed
    # A synchronous node is begun in its thread before anybody can be seen to wait for it: then it cannot be told.
    assert {(ids(row), why(row)) for row in rows} <= {believed, nobody}
    with Here(redis_url, prefix) as later:
        row = later.lost_call("b's")
    assert (ids(row), why(row)) == (("b", "s-b"), ("thread", None)), "A was registered as a user of B's thread"


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "plain"])
async def test_what_a_request_starts_and_does_not_wait_for_is_its_own_on_a_thread_of_nobody_else(
    redis_url: str, prefix: str, wrapped: bool
) -> None:
    """Once the others have been asked. Then the thread is his for the others as well."""
    with Here(redis_url, prefix) as here:
        with request_of(A):
            run = asyncio.create_task(graph(wrapped).ainvoke({"prompt": "hello", "prompts": ["again"]}, on("new")))
            await wait_for(run.done, "the graph")
        rows = await here.arows()
        assert [ids(row) for row in rows] == [("a", "s-a")] * 2
        await wait_for(lambda: here.registry.get(thread_id="new") is not None, "the claim to be settled")
    with Here(redis_url, prefix) as second:
        assert ids(await asyncio.to_thread(second.lost_call, "new")) == ("a", "s-a")


async def test_a_call_waits_for_what_the_other_process_is_about_to_tell(redis_url: str, prefix: str) -> None:
    """B's process hands the job on before it has told of B's thread: within 50 ms it will have, and that is in time."""
    other = RedisRegistry(redis_url, prefix=prefix)
    telling = asyncio.create_task(other.run())
    with Here(redis_url, prefix) as here, request_of(A):
        await wait_for(lambda: other._loop is not None and other._idle, "the other process to run")
        other.put(Scope(B, "request"), thread_id="b's")
        call = asyncio.create_task(model.ainvoke("hello", on("b's")))
        await wait_for(call.done, "the call")
        (row,) = await here.arows()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await other.aclose()
    assert (ids(row), row.identity_source) == (("b", "s-b"), "thread")
