"""Models inside of LangChain's own compositions: chains, branches, retries, histories, tools."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

from langchain_core._api import LangChainDeprecationWarning
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSerializable,
)
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from pydantic import BaseModel

from llmctx import bind
from tests.kit.support import PlainTalker, ProviderDown, User
from tests.scenarios import enter, shape
from tests.scenarios.graphs import drained
from tests.scenarios.models import COMPLETION, SyncTalker, failing
from tests.scenarios.world import World, chain, in_thread, model, on

Ask = Callable[..., str]
Made = Callable[[Ask], Runnable[Any, Any]]
"""Builds a chain whose prompts `ask` makes, as often as the chain calls a model. Its own input means nothing."""


def prompting(ask: Ask, status: str = "ok") -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: ask(status))


def calling(ask: Ask, llm: Any = model, status: str = "ok") -> Runnable[Any, Any]:
    """A prompt and a model."""
    return prompting(ask, status) | llm


class Answer(BaseModel):
    text: str


class Structured(PlainTalker):
    """Answers with whatever tool it is given."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(given=[one.__name__ for one in tools])

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        calls: Any = [{"name": name, "args": {"text": "fine"}, "id": "1"} for name in kwargs.get("given", [])]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content="", tool_calls=calls))])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        await super()._agenerate(messages)
        return self._generate(messages, **kwargs)


class Custom(RunnableSerializable[Any, Any]):
    """A runnable of the team's own, which hands its config on."""

    ask: Any

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return self._call_with_config(lambda _, config: model.invoke(self.ask(), config), input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        async def run(_: Any, config: RunnableConfig) -> Any:
            return await model.ainvoke(self.ask(), config)

        return await self._acall_with_config(run, input, config)


def _tries_again(ask: Ask) -> Runnable[Any, Any]:
    """The first attempt fails; each is a call of its own. (LangChain does not try streams again.)"""
    statuses = iter(("error", "ok") * 1000)
    attempt = RunnableLambda(lambda _: ask(next(statuses))) | model
    again = attempt.with_retry(retry_if_exception_type=(ProviderDown,), wait_exponential_jitter=False)
    return RunnableLambda(again.invoke, afunc=again.ainvoke)


def _lambda_that_calls(ask: Ask) -> Runnable[Any, Any]:
    def sync(_: Any) -> Any:
        return model.invoke(ask())

    async def asynchronous(_: Any) -> Any:
        return await model.ainvoke(ask())

    return RunnableLambda(sync, afunc=asynchronous) | RunnableLambda(sync)


def _generators(ask: Ask) -> Runnable[Any, Any]:
    """They call a model in the middle of a stream."""

    def sync(chunks: Iterator[Any]) -> Iterator[Any]:
        yield from chunks
        yield model.invoke(ask())

    async def asynchronous(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            yield chunk
        yield await model.ainvoke(ask())

    return calling(ask) | RunnableGenerator(sync, asynchronous)


def _tools(ask: Ask) -> Runnable[Any, Any]:
    """A tool, sync or async, and a chain that was made one."""

    @tool
    def look(text: str) -> str:
        """Look it up."""
        return str(model.invoke(ask()).content)

    async def alook(text: str) -> str:
        return str((await model.ainvoke(ask())).content)

    look.coroutine = alook  # type: ignore[attr-defined]
    return RunnableLambda(lambda _: {"text": "x"}) | look


def _history(ask: Ask) -> Runnable[Any, Any]:
    """Two turns of one session; what was said before stands behind the question, where rows find their mark first."""
    asks = ChatPromptTemplate.from_messages([("human", "{question}"), MessagesPlaceholder("history")]) | PlainTalker()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        said = InMemoryChatMessageHistory()
        remembering = RunnableWithMessageHistory(
            asks, lambda session_id: said, input_messages_key="question", history_messages_key="history"
        ).with_config(configurable={"session_id": "any"})
    return RunnableLambda(lambda _: {"question": ask()}) | remembering


def _configurable(ask: Ask) -> Runnable[Any, Any]:
    fields = PlainTalker().configurable_fields(model_name=ConfigurableField(id="name"))
    choice = model.configurable_alternatives(ConfigurableField(id="which"), plain=PlainTalker(), chain=chain)
    named = fields.with_config(configurable={"name": "other"})
    return (
        calling(ask, named) | calling(ask, choice.with_config(configurable={"which": "plain"})) | calling(ask, choice)
    )


CHAINS: dict[str, Made] = {
    "a_prompt_and_a_parser": lambda ask: (
        RunnableLambda(lambda _: {"prompt": ask()}) | chain | StrOutputParser() | calling(ask)
    ),
    "completion_models": lambda ask: calling(ask, COMPLETION[0]) | calling(ask, COMPLETION[1]),
    "a_model_without_asyncio": lambda ask: calling(ask, SyncTalker()),
    "parallel": lambda ask: RunnableParallel(a=calling(ask), b=calling(ask)),
    "assign_and_pick": lambda ask: (
        RunnableLambda(lambda _: {"x": 1})
        | RunnablePassthrough.assign(a=calling(ask), b=calling(ask)).assign(c=itemgetter("a") | calling(ask))
        | (lambda found: found["c"])
    ),
    "branches": lambda ask: RunnableBranch(
        (calling(ask) | (lambda _: False), calling(ask)), (lambda _: True, calling(ask)), calling(ask)
    ),
    "lambdas_that_call": _lambda_that_calls,
    "a_lambda_that_returns_a_chain": lambda ask: RunnableLambda(lambda _: calling(ask) | calling(ask)),
    "generators": _generators,
    "mapped": lambda ask: RunnableLambda(lambda _: [1, 2]) | calling(ask).map(),
    "fallbacks": lambda ask: calling(ask, PlainTalker(), "error").with_fallbacks(
        [calling(ask, PlainTalker(), "error"), calling(ask, SyncTalker())]
    ),
    "retries": _tries_again,
    "structured_output": lambda ask: calling(ask) | calling(ask, Structured().with_structured_output(Answer)),
    "bound_arguments": lambda ask: calling(ask, model.bind(stop=["x"]).with_config(tags=["mine"], run_name="bound")),
    "configurable": _configurable,
    "listeners": lambda ask: calling(ask).with_listeners(on_start=lambda run: None, on_end=lambda run: None),
    "tools": _tools,
    "a_history": _history,
    "a_runnable_of_ones_own": lambda ask: Custom(ask=ask) | Custom(ask=ask),
    "a_rate_limiter": lambda ask: calling(
        ask, PlainTalker(rate_limiter=InMemoryRateLimiter(requests_per_second=10_000, check_every_n_seconds=0.001))
    ),
}


async def _chained(world: World, *, make: Made) -> None:
    """By every method of a chain: async, sync, streamed, in batches."""

    async def endpoint(user: User) -> None:
        made = make(partial(world.prompt, user))
        await made.ainvoke("x")
        await drained(made.astream("x"))
        await made.abatch(["x", "y"])
        await asyncio.to_thread(made.invoke, "x")
        await asyncio.to_thread(lambda: list(made.stream("x")))

    await world.through(endpoint, rounds=1)


for _name, _make in CHAINS.items():
    enter(_name, partial(_chained, make=_make), family=__name__)


@shape
async def events_of_a_chain(world: World) -> None:
    async def endpoint(user: User) -> None:
        made = calling(partial(world.prompt, user)) | StrOutputParser() | calling(partial(world.prompt, user))
        await drained(made.astream_events("x", version="v2"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainDeprecationWarning)
            await drained(made.astream_log("x"))

    await world.through(endpoint, rounds=1)


@shape
async def a_parallel_whose_branch_fails(world: World) -> None:
    """The sibling's call goes on, or is cut off: sync ones go on."""

    async def endpoint(user: User) -> None:
        ask = partial(world.prompt, user)
        made = RunnableParallel(good=calling(ask), bad=calling(ask, status="error"))
        await asyncio.to_thread(_fails, made)
        await failing(lambda _: calling(ask, status="error").ainvoke("x"), "x")

    def _fails(made: Runnable[Any, Any]) -> None:
        try:
            made.invoke("x")
        except ProviderDown:
            return
        raise AssertionError("it should have failed")

    await world.through(endpoint, rounds=1)


@shape
async def one_chain_for_all_users(world: World) -> None:
    """A module's chain, with everybody's calls at once and in one batch of each."""

    async def endpoint(user: User) -> None:
        asked = [{"prompt": world.prompt(user)} for _ in range(4)]
        await asyncio.gather(chain.ainvoke(asked[0]), chain.ainvoke(asked[1]), chain.abatch(asked[2:]))

    await world.through(endpoint)


@shape
async def a_chain_known_by_its_thread(world: World) -> None:
    """A plain chain keeps `configurable` out of its metadata; the thread it names is found all the same."""

    async def endpoint(user: User) -> None:
        await chain.ainvoke({"prompt": world.prompt(user)}, on(user))

    async def later(user: User) -> None:
        prompts = [world.prompt(user) for _ in range(4)]
        await in_thread(lambda: chain.invoke({"prompt": prompts[0]}, on(user)))
        await in_thread(lambda: list(chain.stream({"prompt": prompts[1]}, on(user))))
        await in_thread(lambda: asyncio.run(chain.ainvoke({"prompt": prompts[2]}, on(user))))  # type: ignore[arg-type]
        await in_thread(lambda: COMPLETION[0].invoke(prompts[3], on(user)))

    await world.through(endpoint, rounds=1)
    await world.each(later)


@shape
async def one_batch_for_many_users(world: World) -> None:
    """A job without a request: one abatch, whose configs say whose each prompt is."""

    def configs(users: list[User]) -> list[Any]:
        return [{"metadata": {"llmctx_user_id": u.user_id, "llmctx_session_id": u.session_id}} for u in users]

    async def one(prompts: Callable[[], list[str]], run: Callable[..., Awaitable[Any]]) -> None:
        await run(prompts(), configs(world.users))

    def prompts() -> list[str]:
        return [world.prompt(user) for user in world.users]

    await one(prompts, model.abatch)
    await one(prompts, partial(asyncio.to_thread, model.batch))
    await chain.abatch([{"prompt": prompt} for prompt in prompts()], configs(world.users))


@shape
async def one_batch_whose_lambda_binds_each_user(world: World) -> None:
    """The same, by `bind` inside of the chain's own step."""

    async def answer(user: User) -> str:
        with bind(user_id=user.user_id, session_id=user.session_id):
            return str((await model.ainvoke(world.prompt(user))).content)

    def answer_sync(user: User) -> str:
        with bind(user_id=user.user_id, session_id=user.session_id):
            return str(model.invoke(world.prompt(user)).content)

    step: Runnable[User, str] = RunnableLambda(answer_sync, afunc=answer)
    await step.abatch(world.users)
    await asyncio.to_thread(step.batch, world.users)
