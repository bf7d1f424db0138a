"""Calls that are cut off, and streams that are read late, elsewhere, by somebody else, or never to their end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from langchain_core.messages import HumanMessage

from llmctx import bind
from tests.kit.support import ProviderDown, User
from tests.scenarios import shape
from tests.scenarios.graphs import all_hanging, drained
from tests.scenarios.models import another_log
from tests.scenarios.world import USERS, World, begun, in_thread, model


@shape
async def cancelled_tasks(world: World) -> None:
    """LangChain reports nothing; the request goes on, with a call of its own."""
    hang = all_hanging()

    async def endpoint(user: User) -> None:
        task = asyncio.create_task(model.ainvoke(world.prompt(user, "cancelled", "[hang]")))
        await hang()
        task.cancel()
        await asyncio.wait([task])
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def deadlines(world: World) -> None:
    """asyncio.timeout and an anyio cancel scope around a call: the task itself goes on."""
    hang = all_hanging()

    async def endpoint(user: User) -> None:
        async def expire(limit: asyncio.Timeout) -> None:
            await hang()
            limit.reschedule(0)

        async def cancel(scope: anyio.CancelScope) -> None:
            await hang()
            scope.cancel()

        with suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                expiring = asyncio.create_task(expire(limit))
                await model.ainvoke(world.prompt(user, "cancelled", "[hang]"))
        await expiring
        with anyio.CancelScope() as scope:
            expiring = asyncio.create_task(cancel(scope))
            await model.ainvoke(world.prompt(user, "cancelled", "[hang]"))
        await expiring
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def a_sibling_that_fails_in_a_task_group(world: World) -> None:
    hang = all_hanging()

    async def endpoint(user: User) -> None:
        async def fail() -> None:
            await hang()
            await model.ainvoke(world.prompt(user, "error"))

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(model.ainvoke(world.prompt(user, "cancelled", "[hang]")))
                group.create_task(fail())

    await world.through(endpoint, rounds=1)


@shape
async def calls_that_outlive_their_request_and_are_cut_off(world: World) -> None:
    left: list[asyncio.Task[Any]] = []

    async def endpoint(user: User) -> None:
        left.append(asyncio.create_task(model.ainvoke(world.prompt(user, "cancelled", "[hang]"))))

    await world.through(endpoint, rounds=1)
    await begun(USERS)
    for task in left:
        task.cancel()
    await asyncio.wait(left)


@shape
async def never_read_to_the_end(world: World) -> None:
    """Streams that somebody keeps, and calls that still hang when the call log closes."""
    kept: list[Any] = []
    hanging: list[asyncio.Task[Any]] = []

    async def endpoint(user: User) -> None:
        kept.append(model.astream(world.prompt(user, "abandoned")))
        await anext(kept[-1])
        sync = model.stream(world.prompt(user, "abandoned"))
        await asyncio.to_thread(next, sync)
        kept.append(sync)
        hanging.append(asyncio.create_task(model.ainvoke(world.prompt(user, "abandoned", "[hang]"))))

    async with another_log(world):
        await world.through(endpoint, rounds=1)
        await begun(USERS)
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)
    for stream in kept:
        await stream.aclose() if hasattr(stream, "aclose") else stream.close()


@shape
async def streams_left_early(world: World) -> None:
    """break, close, and a stream that goes with its last reference."""

    async def endpoint(user: User) -> None:
        async with aclosing(model.astream(world.prompt(user, "cancelled"))) as stream:  # type: ignore[type-var]
            async for _ in stream:
                break
        sync = model.stream(world.prompt(user, "cancelled"))
        next(sync)
        sync.close()  # type: ignore[attr-defined]
        dropped = model.stream(world.prompt(user, "cancelled"))
        next(dropped)
        del dropped

    await world.through(endpoint)
    gc.collect()


@shape
async def streams_whose_reader_is_cancelled(world: World) -> None:
    hang = all_hanging()

    async def endpoint(user: User) -> None:
        reading = asyncio.create_task(drained(model.astream(world.prompt(user, "cancelled", "[hang]"))))
        await hang()
        reading.cancel()
        await asyncio.wait([reading])

    await world.through(endpoint, rounds=1)


async def _begin(world: World, status: str = "ok") -> dict[str | None, tuple[Any, Any]]:
    """An async and a sync stream of each user, begun in a request that is over now."""
    streams: dict[str | None, tuple[Any, Any]] = {}

    async def endpoint(user: User) -> None:
        stream, sync = model.astream(world.prompt(user, status)), model.stream(world.prompt(user, status))
        await anext(stream)
        next(sync)
        streams[user.user_id] = stream, sync

    await world.through(endpoint, rounds=1)
    return streams


async def _finish(streams: tuple[Any, Any]) -> None:
    for stream in streams:
        with suppress(ProviderDown):
            await drained(stream) if hasattr(stream, "__anext__") else await asyncio.to_thread(list, stream)


@shape
async def streams_read_after_their_request(world: World) -> None:
    streams = await _begin(world)
    await world.each(lambda user: _finish(streams[user.user_id]))


@shape
async def streams_that_fail_after_their_request(world: World) -> None:
    streams = await _begin(world, "error")
    await world.each(lambda user: _finish(streams[user.user_id]))


@shape
async def streams_read_in_another_users_request(world: World) -> None:
    """The row is his who began; what the reader calls himself is the reader's."""
    streams = await _begin(world)

    async def endpoint(user: User) -> None:
        other = world.users[world.users.index(user) - 1]
        await _finish(streams[other.user_id])
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def streams_read_by_one_worker(world: World) -> None:
    """A task without any scope reads them all, in turns."""
    streams = await _begin(world)
    gone = object()
    left = [stream for stream, _ in streams.values()]
    while left:
        left = [stream for stream in left if await anext(stream, gone) is not gone]
    for _, sync in streams.values():
        await in_thread(partial(list, sync))


@shape
async def streams_of_all_users_in_one_task(world: World) -> None:
    """Each is begun, and read on, under its own user or under the next one's: it stays his who began."""
    streams: list[Any] = []
    for user in world.users:
        with bind(user_id=user.user_id, session_id=user.session_id):
            streams.append(model.astream(world.prompt(user)))
            await anext(streams[-1])
    for user, stream in zip([*world.users[1:], world.users[0]], streams, strict=True):
        with bind(user_id=user.user_id, session_id=user.session_id):
            await anext(stream)
            await model.ainvoke(world.prompt(user))
            await drained(stream)


@shape
async def calls_within_an_async_generator(world: World) -> None:
    """Read to its end, closed early, and closed by another task; what is called in its `finally` counts as well."""

    async def answers(user: User, status: str) -> AsyncIterator[int]:
        try:
            await model.ainvoke(world.prompt(user))
            yield 1
            async with aclosing(model.astream(world.prompt(user, status))) as stream:  # type: ignore[type-var]
                async for _ in stream:
                    yield 2
        finally:
            await model.ainvoke(world.prompt(user))

    async def endpoint(user: User) -> None:
        await drained(answers(user, "ok"))
        for closing in (asyncio.ensure_future, asyncio.create_task):
            left: Any = answers(user, "cancelled")
            await anext(left)
            await anext(left)
            await closing(left.aclose())
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def calls_on_the_way_out(world: World) -> None:
    """In async exits, their callbacks, and exception handlers."""

    @asynccontextmanager
    async def session(user: User) -> AsyncIterator[None]:
        await model.ainvoke(world.prompt(user))
        try:
            yield
        finally:
            await model.ainvoke(world.prompt(user))

    async def endpoint(user: User) -> None:
        with suppress(ProviderDown):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(session(user))
                stack.push_async_callback(model.ainvoke, world.prompt(user))
                stack.callback(model.invoke, world.prompt(user))
                await model.ainvoke(world.prompt(user, "error"))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def deadlines_of_streams(world: World) -> None:
    hang = all_hanging()

    async def endpoint(user: User) -> None:
        async def expire(limit: asyncio.Timeout) -> None:
            await hang()
            limit.reschedule(0)

        with suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                expiring = asyncio.create_task(expire(limit))
                await drained(model.astream(world.prompt(user, "cancelled", "[hang]")))
        await expiring
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def cancelled_by_the_provider(world: World) -> None:
    """A CancelledError from inside of the model. LangChain stumbles over it; the caller goes on."""

    async def endpoint(user: User) -> None:
        with suppress(asyncio.CancelledError, AttributeError):
            await model.ainvoke(world.prompt(user, "cancelled", "[cancel inside]"))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint)


@shape
async def generate_of_three_prompts_of_which_one_fails(world: World) -> None:
    """LangChain reports all three starts, and the end of the one that fails. Its siblings are cut off with it."""

    def generate(user: User) -> None:
        statuses = ("cancelled", "error", "cancelled")
        prompts = [[HumanMessage(world.prompt(user, status))] for status in statuses]
        with pytest.raises(ProviderDown):
            model.generate(prompts)
        model.invoke(world.prompt(user))

    async def endpoint(user: User) -> None:
        await asyncio.to_thread(generate, user)

    await world.through(endpoint, rounds=1)


@shape
async def agenerate_of_three_prompts_of_which_one_fails(world: World) -> None:
    """Here each goes its own way."""

    async def endpoint(user: User) -> None:
        prompts = [[HumanMessage(world.prompt(user, status))] for status in ("ok", "error", "ok")]
        with pytest.raises(ProviderDown):
            await model.agenerate(prompts)

    await world.through(endpoint, rounds=1)
