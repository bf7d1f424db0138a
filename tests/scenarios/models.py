"""Models called directly: every method of every kind of model, and calls recorded by hand."""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.outputs import ChatResult, GenerationChunk

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from tests.kit.support import WORDS, Completer, PlainTalker, ProviderDown, Talker, User
from tests.scenarios import enter, shape
from tests.scenarios.graphs import all_hanging, drained
from tests.scenarios.world import World, in_thread, model, other_loop

Ask = Callable[..., str]
"""Makes a prompt of the user at hand; takes its status."""


class StreamingCompleter(Completer):
    """A completion model with streams of its own."""

    def _stream(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        for word in WORDS:
            if run_manager:
                run_manager.on_llm_new_token(word)
            yield GenerationChunk(text=word)
        if "[fail]" in prompt:
            raise ProviderDown(prompt)

    async def _astream(
        self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        for word in WORDS:
            await asyncio.sleep(0)
            if run_manager:
                await run_manager.on_llm_new_token(word)
            yield GenerationChunk(text=word)
        if "[fail]" in prompt:
            raise ProviderDown(prompt)


class SyncTalker(BaseChatModel):
    """A model that knows nothing of asyncio: LangChain takes it to an executor."""

    @property
    def _llm_type(self) -> str:
        return "sync talker"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return Talker()._generate(messages, stop, run_manager, **kwargs)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        return Talker()._stream(messages, stop, run_manager, **kwargs)


CHAT = (model, PlainTalker(), SyncTalker())
COMPLETION = (Completer(), StreamingCompleter())
"""Each one object for all users."""


async def failing(call: Callable[[str], Awaitable[Any]], prompt: str) -> None:
    with pytest.raises(ProviderDown):
        await call(prompt)


def failing_sync(call: Callable[[str], Any], prompt: str) -> None:
    with pytest.raises(ProviderDown):
        call(prompt)


@asynccontextmanager
async def another_log(world: World, **settings: Any) -> AsyncIterator[CallLog]:
    """A call log of other settings in the place of the usual one. What is open at its end has been abandoned."""
    await world.log.aclose()
    world.log = CallLog(sink=world.sink, linger_ms=1, carry=world.carry, **settings)
    async with world.log:
        yield world.log


def _prompts(llm: Any, ask: Ask, count: int = 2) -> Any:
    """The prompts of one `generate`, as chat and completion models want them."""
    return [[HumanMessage(ask())] if isinstance(llm, BaseChatModel) else ask() for _ in range(count)]


async def _text(text: str) -> AsyncIterator[Any]:
    yield HumanMessage(text).content


Method = Callable[[Any, Ask], Awaitable[Any]]

ASYNC_METHODS: dict[str, Method] = {
    "ainvoke": lambda llm, ask: llm.ainvoke(ask()),
    "ainvoke_that_fails": lambda llm, ask: failing(llm.ainvoke, ask("error")),
    "abatch": lambda llm, ask: llm.abatch([ask(), ask(), ask()]),
    "abatch_of_limited_concurrency": lambda llm, ask: llm.abatch([ask(), ask(), ask()], {"max_concurrency": 2}),
    "abatch_as_completed": lambda llm, ask: drained(llm.abatch_as_completed([ask(), ask()])),
    "astream": lambda llm, ask: drained(llm.astream(ask())),
    "astream_that_fails": lambda llm, ask: failing(lambda prompt: drained(llm.astream(prompt)), ask("error")),
    "atransform": lambda llm, ask: drained(llm.atransform(_text(ask()))),
    "agenerate": lambda llm, ask: llm.agenerate(_prompts(llm, ask)),
    "gathered": lambda llm, ask: asyncio.gather(*(llm.ainvoke(ask()) for _ in range(3))),
    "task_of_its_own": lambda llm, ask: asyncio.create_task(llm.ainvoke(ask())),
}
SYNC_METHODS: dict[str, Callable[[Any, Ask], Any]] = {
    "invoke": lambda llm, ask: llm.invoke(ask()),
    "invoke_that_fails": lambda llm, ask: failing_sync(llm.invoke, ask("error")),
    "batch": lambda llm, ask: llm.batch([ask(), ask(), ask()]),
    "batch_as_completed": lambda llm, ask: list(llm.batch_as_completed([ask(), ask()])),
    "stream": lambda llm, ask: list(llm.stream(ask())),
    "stream_that_fails": lambda llm, ask: failing_sync(lambda prompt: list(llm.stream(prompt)), ask("error")),
    "transform": lambda llm, ask: list(llm.transform(iter([ask()]))),
    "generate": lambda llm, ask: llm.generate(_prompts(llm, ask)),
}


MIXED_METHODS: dict[str, Method] = {
    "batches_with_failures": lambda llm, ask: asyncio.gather(
        llm.abatch([ask("error"), ask(), ask("error")], return_exceptions=True),
        asyncio.to_thread(llm.batch, [ask("error"), ask()], return_exceptions=True),
    ),
}
"""A completion model's batch is one call of the provider, and fails as a whole."""
EVENT_METHODS: dict[str, Method] = {
    "astream_events": lambda llm, ask: drained(llm.astream_events(ask(), version="v2")),
    "astream_log": lambda llm, ask: _logged(llm, ask()),
}


async def _logged(llm: Any, prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        await drained(llm.astream_log(prompt))


async def _called(world: World, *, method: Any, llms: tuple[Any, ...], sync: bool = False) -> None:
    async def endpoint(user: User) -> None:
        ask = partial(world.prompt, user)
        for llm in llms:
            if sync:
                await asyncio.to_thread(method, llm, ask)
            else:
                await method(llm, ask)

    await world.through(endpoint, rounds=1)


for _name, _method in ASYNC_METHODS.items():
    enter(_name, partial(_called, method=_method, llms=CHAT + COMPLETION), family=__name__)
for _name, _sync_method in SYNC_METHODS.items():
    enter(_name, partial(_called, method=_sync_method, llms=CHAT + COMPLETION, sync=True), family=__name__)
for _name, _method in {**MIXED_METHODS, **EVENT_METHODS}.items():
    enter(_name, partial(_called, method=_method, llms=CHAT), family=__name__)
for _name, _method in EVENT_METHODS.items():
    enter(f"{_name}_of_completion_models", partial(_called, method=_method, llms=COMPLETION), family=__name__)


@shape
async def sync_calls_on_the_loop_itself(world: World) -> None:
    """An async endpoint that blocks its loop, as beginners do."""

    async def endpoint(user: User) -> None:
        for method in SYNC_METHODS.values():
            method(Completer(), partial(world.prompt, user))
            method(SyncTalker(), partial(world.prompt, user))

    await world.through(endpoint, rounds=1)


@shape
async def task_groups(world: World) -> None:
    async def endpoint(user: User) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(model.ainvoke(world.prompt(user)))
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(model.ainvoke, world.prompt(user))

    await world.through(endpoint)


@shape
async def several_sessions_of_one_user_at_once(world: World) -> None:
    async def endpoint(user: User) -> None:
        async def in_session(number: int) -> None:
            twin = User(user.user_id, f"{user.session_id}-{number}", user.thread_id)
            with bind(session_id=twin.session_id):
                await model.ainvoke(world.prompt(twin))
                await asyncio.to_thread(model.invoke, world.prompt(twin))

        await asyncio.gather(*(in_session(number) for number in range(3)))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint)


@shape
async def a_model_inside_of_a_model(world: World) -> None:
    class Judge(Talker):
        inner: Any
        user: Any

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            self.inner.invoke(world.prompt(self.user))
            return super()._generate(*args, **kwargs)

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            await self.inner.ainvoke(world.prompt(self.user))
            return await super()._agenerate(*args, **kwargs)

    async def endpoint(user: User) -> None:
        judge = Judge(inner=Judge(inner=model, user=user), user=user)
        await judge.ainvoke(world.prompt(user))
        await asyncio.to_thread(judge.invoke, world.prompt(user))
        await judge.abatch([world.prompt(user), world.prompt(user)])

    await world.through(endpoint, rounds=1)


@shape
async def recorded_by_hand(world: World) -> None:
    """For a vendor's own SDK: async, sync, in a thread, in streams, failing, cut off, and beside LangChain's calls."""
    hang = all_hanging()

    def sync(user: User) -> None:
        with world.log.record(model="sdk", prompt=world.prompt(user)) as call:
            call.set(response="fine", prompt_tokens=3)

    async def stream(user: User, status: str) -> AsyncIterator[int]:
        with world.log.record(model="sdk", prompt=world.prompt(user, status)):
            for number in range(3):
                await asyncio.sleep(0.001)
                yield number

    async def forever(user: User) -> None:
        with world.log.record(model="sdk", prompt=world.prompt(user, "cancelled")):
            await model.ainvoke(world.prompt(user, "cancelled", "[hang]"))

    async def endpoint(user: User) -> None:
        with world.log.record(model="sdk", prompt=world.prompt(user)) as call:
            await model.ainvoke(world.prompt(user))
            call.set(response="fine")
        with suppress(ProviderDown), world.log.record(model="sdk", prompt=world.prompt(user, "error")):
            raise ProviderDown
        sync(user)
        await asyncio.to_thread(sync, user)
        await drained(stream(user, "ok"))
        left: Any = stream(user, "cancelled")
        await anext(left)
        await left.aclose()
        task = asyncio.create_task(forever(user))
        await hang()
        task.cancel()
        await asyncio.wait([task])

    await world.through(endpoint, rounds=1)


@shape
async def recorded_by_hand_where_no_request_is(world: World) -> None:
    """With an identity given, in a bind, by a context that was copied; and by a bare thread that has nothing."""

    def record(user: User | None, **kwargs: Any) -> None:
        with world.log.record(model="sdk", prompt=world.prompt(user), **kwargs):
            pass

    async def call(user: User) -> None:
        whose = CallContext(user_id=user.user_id, session_id=user.session_id)
        await in_thread(partial(record, user, identity=whose))
        with bind(whose):
            record(user)
            copied = contextvars.copy_context()
            await in_thread(partial(copied.run, record, user))
        await in_thread(partial(record, None))

    await world.each(call)


@shape
async def calls_in_another_loop_in_a_copied_context(world: World) -> None:
    """`run_coroutine_threadsafe` under a copy of the request's context."""
    async with other_loop() as loop:

        async def endpoint(user: User) -> None:
            context, done = contextvars.copy_context(), asyncio.get_running_loop().create_future()

            def start() -> None:
                task = loop.create_task(model.ainvoke(world.prompt(user)), context=context)
                task.add_done_callback(lambda _: here.call_soon_threadsafe(done.set_result, None))

            here = asyncio.get_running_loop()
            loop.call_soon_threadsafe(start)
            await done

        await world.through(endpoint)
