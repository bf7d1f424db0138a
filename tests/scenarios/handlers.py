"""Who hears a call, and what makes two calls look like one: handlers, run_ids, response caches."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.globals import get_llm_cache, set_llm_cache

from llmctx import CallContext
from llmctx.capture.handler import CallLogHandler
from tests.kit.support import Completer, PlainTalker, Talker, User
from tests.scenarios import shape
from tests.scenarios.graphs import drained
from tests.scenarios.models import StreamingCompleter, another_log, failing
from tests.scenarios.world import USERS, World, in_thread, model


class Queued(BaseCallbackHandler):
    """Somebody else's handler that LangChain hands to an executor."""


class Inline(BaseCallbackHandler):
    run_inline = True


class Awaited(AsyncCallbackHandler):
    """Somebody else's handler that waits in the middle of every event."""

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0.001)

    async def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0.001)

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0.001)


async def _heard(world: World, llms: tuple[Any, ...], callbacks: Callable[[], list[Any]]) -> None:
    """Async, sync, streamed, failing and batched, with these callbacks."""

    async def endpoint(user: User) -> None:
        for llm in llms:
            config: Any = {"callbacks": callbacks()}
            ask = partial(world.prompt, user)
            await llm.ainvoke(ask(), config)
            await asyncio.to_thread(llm.invoke, ask(), config)
            await drained(llm.astream(ask(), config))
            await llm.abatch([ask(), ask()], config)
            await failing(partial(llm.ainvoke, config=config), ask("error"))

    await world.through(endpoint, rounds=1)


@shape
async def other_peoples_handlers_beside_ours(world: World) -> None:
    await _heard(world, (model, Completer()), lambda: [Queued(), Inline(), Awaited()])


@shape
async def heard_by_three_handlers_at_once(world: World) -> None:
    """In the constructor, per call, and globally: one call, one row."""
    llms = Talker(callbacks=[CallLogHandler()]), Completer(callbacks=[CallLogHandler()])
    await _heard(world, llms, lambda: [world.log.handler, CallLogHandler()])


@shape
async def a_handler_for_each_call_of_all_users(world: World) -> None:
    """One object of ours that everybody hands on keeps nobody's ids."""
    ours = CallLogHandler()
    await _heard(world, (model, Completer()), lambda: [ours])


@shape
async def only_where_the_handler_is_given(world: World) -> None:
    """capture="explicit": per call, on the model, in chains; what is called without it makes no row."""
    async with another_log(world, capture="explicit") as log:
        await _heard(world, (model, StreamingCompleter()), lambda: [log.handler])
        await _heard(world, (Talker(callbacks=[log.handler]),), lambda: [Queued()])
        await world.each(lambda user: model.ainvoke("nobody hears this"))


@shape
async def the_handler_in_a_bare_thread(world: World) -> None:
    """capture="explicit": the handler is there, the request is not."""
    async with another_log(world, capture="explicit") as log:

        async def endpoint(user: User) -> None:
            prompt = world.prompt(user, known="carried")
            await in_thread(partial(model.invoke, prompt, {"callbacks": [log.handler]}))

        await world.through(endpoint, rounds=1)


@shape
async def a_handler_that_says_whose_calls_those_are(world: World) -> None:
    """Before all other witnesses: a nightly report on behalf of the user, from the request of another one."""

    async def endpoint(user: User) -> None:
        other = world.users[world.users.index(user) - 1]
        whose = CallContext(user_id=other.user_id, session_id=other.session_id)
        named = Talker(callbacks=[CallLogHandler(context=whose)])
        await named.ainvoke(world.prompt(other))
        await asyncio.to_thread(lambda: list(named.stream(world.prompt(other))))
        await model.ainvoke(world.prompt(other), {"callbacks": [CallLogHandler(context=whose)]})
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def ids_in_the_metadata_of_a_call(world: World) -> None:
    """`llmctx_user_id` and its like count where there is no request; not in one of somebody else."""

    async def call(named: User, user: User) -> None:
        config: Any = {"metadata": {"llmctx_user_id": named.user_id, "llmctx_session_id": named.session_id}}
        await model.ainvoke(world.prompt(user), config)
        await asyncio.to_thread(model.invoke, world.prompt(user), config)
        await model.abatch([world.prompt(user), world.prompt(user)], config)
        await drained(model.with_config(config).astream(world.prompt(user)))
        if named is user:
            prompt = world.prompt(user)
            await in_thread(partial(Completer().invoke, prompt, config))

    await world.each(lambda user: call(user, user))
    await world.through(lambda user: call(world.users[world.users.index(user) - 1], user), rounds=1)


@shape
async def one_run_id_for_everybody(world: World) -> None:
    """Chosen by a client, perhaps: in tasks, threads and streams, at once and again."""
    config: Any = {"run_id": uuid4()}

    async def endpoint(user: User) -> None:
        ask = partial(world.prompt, user)
        await asyncio.gather(
            model.ainvoke(ask(), config),
            model.ainvoke(ask(), config),
            asyncio.to_thread(model.invoke, ask(), config),
            drained(model.astream(ask(), config)),
        )
        await Completer().ainvoke(ask(), config)
        await failing(partial(model.ainvoke, config=config), ask("error"))

    await world.through(endpoint, rounds=2)


class Forgetful(InMemoryCache):
    """A response cache that does not look at the numbers of calls: whoever asks the same gets the same answer."""

    def lookup(self, prompt: str, llm_string: str) -> Any:
        return super().lookup(_plain(prompt), llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        super().update(_plain(prompt), llm_string, return_val)


def _plain(prompt: str) -> str:
    return re.sub(r"\[call \d+\]|lc_[\w-]+", "", prompt)


async def _answered_from_the_cache(world: World, talker: Any) -> None:
    """A cached answer is a row of whoever asked, not of whoever's call has filled the cache."""

    async def endpoint(user: User) -> None:
        await talker.ainvoke(world.prompt(user))
        await asyncio.to_thread(talker.invoke, world.prompt(user))
        await talker.abatch([world.prompt(user), world.prompt(user)])

    await talker.ainvoke(world.prompt(None))
    await world.through(endpoint, rounds=1)
    await world.log.aflush()
    assert [row.cached for row in world.sink.records] == [False] + [True] * (4 * USERS)


@shape
async def answered_from_the_cache_of_a_model(world: World) -> None:
    await _answered_from_the_cache(world, PlainTalker(cache=Forgetful()))


@shape
async def answered_from_the_cache_of_the_process(world: World) -> None:
    before = get_llm_cache()
    set_llm_cache(Forgetful())
    try:
        await _answered_from_the_cache(world, PlainTalker())
    finally:
        set_llm_cache(before)
