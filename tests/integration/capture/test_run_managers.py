"""After a stream's first content LangChain reports its tokens to us no more, and no end of an awaited run; and its row
says the same as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, manager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.handler import CallLogHandler
from tests.kit.support import Talker

WORDS = 40
Way = Callable[[BaseChatModel, Any], Any]


class Streamer(BaseChatModel):
    """Streams an empty chunk and then words, each with the running total of the usage, as some services do."""

    @property
    def _llm_type(self) -> str:
        return "streamer"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    def _chunks(self) -> Iterator[ChatGenerationChunk]:
        for number in range(WORDS + 1):
            usage = {"input_tokens": 7, "output_tokens": number, "total_tokens": 7 + number}
            yield ChatGenerationChunk(message=AIMessageChunk("word " if number else "", usage_metadata=usage))

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from self._chunks()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks():
            yield chunk


class Listener(BaseCallbackHandler):
    """The application's own."""

    run_inline = True

    def __init__(self) -> None:
        self.tokens = 0

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens += 1


async def _streamed(model: BaseChatModel, config: Any) -> None:
    for _ in model.stream("go", config):
        pass


async def _astreamed(model: BaseChatModel, config: Any) -> None:
    async for _ in model.astream("go", config):
        pass


@pytest.fixture
def to() -> list[list[Any]]:
    """To whom LangChain has reported tokens."""
    return []


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch, to: list[list[Any]]) -> list[str]:
    """The events that LangChain hands to handlers."""
    events: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        original = getattr(manager, name)

        def report(handlers: Any, event: str, *args: Any, **kwargs: Any) -> Any:
            events.append(event)
            if event == "on_llm_new_token":
                to.append(list(handlers))
            return original(handlers, event, *args, **kwargs)

        return report

    for name in ("handle_event", "ahandle_event"):
        monkeypatch.setattr(manager, name, noted(name))
    return events


async def rows_of(way: Way, *handlers: BaseCallbackHandler) -> list[Any]:
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        with bind(user_id="u", session_id="s"):
            await way(Streamer(), {"callbacks": list(handlers)} if handlers else {})
        await call_log.aflush()
    return list(sink.records)


@pytest.mark.parametrize("way", [_streamed, _astreamed])
async def test_no_reports_after_the_first_content(way: Way, reported: list[str]) -> None:
    (row,) = await rows_of(way)
    assert reported.count("on_llm_new_token") == 2  # the empty one, and the first word
    assert reported.count("on_llm_end") == (way is _streamed)  # an awaited end is told at once
    assert (row.status, row.prompt_tokens, row.completion_tokens, row.total_tokens) == ("ok", 7, WORDS, 7 + WORDS)
    assert row.streamed
    assert row.ttft_ms is not None
    assert row.response_snapshot.count("word ") == WORDS


@pytest.mark.parametrize("way", [_streamed, _astreamed])
async def test_a_handler_of_the_application_hears_every_token(way: Way, to: list[list[Any]]) -> None:
    """And alone, after the first content."""
    listener = Listener()
    (row,) = await rows_of(way, listener)
    assert listener.tokens == WORDS + 2  # and an empty one at the end, which LangChain adds
    assert to.count([listener]) == WORDS
    assert (row.prompt_tokens, row.completion_tokens) == (7, WORDS)


async def test_two_handlers_of_ours(reported: list[str]) -> None:
    (row,) = await rows_of(_astreamed, CallLogHandler())
    assert reported.count("on_llm_new_token") == 2
    assert (row.user_id, row.completion_tokens) == ("u", WORDS)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_comes_later(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put beside ours while the stream runs: from there on it hears of the tokens."""
    managers: list[Any] = []
    make = manager.BaseRunManager.__init__

    def made(self: Any, **about: Any) -> None:
        make(self, **about)
        managers.append(self)

    monkeypatch.setattr(manager.BaseRunManager, "__init__", made)
    listener, seen = Listener(), 0

    def one() -> None:
        nonlocal seen
        seen += 1
        if seen == WORDS // 2:
            managers[-1].handlers.append(listener)

    async def way(model: BaseChatModel, config: Any) -> None:
        if is_async:
            async for _ in model.astream("go", config):
                one()
        else:
            for _ in model.stream("go", config):
                one()

    (row,) = await rows_of(way)
    assert listener.tokens == WORDS + 2 - WORDS // 2
    assert (row.prompt_tokens, row.completion_tokens) == (7, WORDS)


async def test_an_instrumented_run_manager_reports_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library has wrapped LangChain's method: what it counts is not to become less."""
    tokens = 0
    original = manager.AsyncCallbackManagerForLLMRun.on_llm_new_token

    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal tokens
        tokens += 1
        await original(self, *args, **kwargs)

    monkeypatch.setattr(manager.AsyncCallbackManagerForLLMRun, "on_llm_new_token", wrapped)
    (row,) = await rows_of(_astreamed)
    assert tokens == WORDS + 2
    assert (row.prompt_tokens, row.completion_tokens) == (7, WORDS)


@pytest.mark.parametrize("end", ["closed", "cancelled"])
async def test_a_stream_that_is_left_keeps_its_text_and_tokens(end: str) -> None:
    async def way(model: BaseChatModel, config: Any) -> None:
        stream = model.astream("go", config)
        for _ in range(5):
            await anext(stream)
        if end == "closed":
            await stream.aclose()  # type: ignore[attr-defined]  # it is an async generator
        else:
            with pytest.raises(asyncio.CancelledError):
                await stream.athrow(asyncio.CancelledError())  # type: ignore[attr-defined]  # as above

    (row,) = await rows_of(way)
    assert row.status == "cancelled"
    assert row.response_snapshot.count("word ") == 4
    assert (row.prompt_tokens, row.completion_tokens) == (7, 4)


class Broken(Streamer):
    """Fails after three words, or waits for ever once it has said so."""

    said: Any = None

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from list(self._chunks())[:4]
        raise ConnectionError("gone")

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in list(self._chunks())[:4]:
            yield chunk
        if self.said is None:
            raise ConnectionError("gone")
        self.said.set()
        await asyncio.Event().wait()


async def _invoked_in_thread() -> None:
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(Broken().invoke, "go", stream=True)


async def _awaited() -> None:
    with pytest.raises(ConnectionError):
        await Broken().ainvoke("go", stream=True)


async def _cancelled() -> None:
    model = Broken(said=asyncio.Event())
    task = asyncio.create_task(model.ainvoke("go", stream=True))
    await model.said.wait()
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(
    ("way", "status"), [(_invoked_in_thread, "error"), (_awaited, "error"), (_cancelled, "cancelled")]
)
async def test_an_invoked_stream_that_breaks_keeps_its_text_and_tokens(way: Any, status: str) -> None:
    """As in a graph whose messages are streamed. LangChain puts nothing of it together."""
    (row,) = await rows_of(lambda model, config: way())
    assert row.status == status
    assert row.response_snapshot.count("word ") == 3
    assert (row.prompt_tokens, row.completion_tokens) == (7, 3)


class Failing(Listener):
    """Of the application, and broken."""

    raise_error = True

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the application's own")


async def test_ends_of_awaited_calls(reported: list[str]) -> None:
    """They are told at once where nobody else listens; another handler's failure reaches the application as ever."""
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        with bind(user_id="u", session_id="s"):
            await Talker().ainvoke("one")
            await Talker().agenerate([[HumanMessage("two")], [HumanMessage("three")]])
            assert "on_llm_end" not in reported
            with pytest.raises(RuntimeError, match="the application's own"):
                await Talker().ainvoke("four", {"callbacks": [Failing()]})
        await call_log.aflush()
    assert [row.status for row in sink.records][:3] == ["ok"] * 3
    assert len(sink.records) == 4
    assert {row.user_id for row in sink.records} == {"u"}


class FailingElsewhere(Failing):
    run_inline = False


async def _in_thread(model: BaseChatModel, config: Any) -> None:
    await asyncio.to_thread(model.invoke, "go", config)


async def _in_chain(model: BaseChatModel, config: Any) -> None:
    (RunnableLambda(str) | model).invoke("go", config)


async def _ainvoked(model: BaseChatModel, config: Any) -> None:
    await model.ainvoke("go", config)


class Deaf(Listener):
    """Of the application, and broken where it is told of errors."""

    raise_error = True

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the application's own")


@pytest.mark.parametrize("failing", [Failing, FailingElsewhere])
@pytest.mark.parametrize("way", [_in_thread, _streamed, _in_chain, _ainvoked, _astreamed])
async def test_an_answer_that_another_handler_refuses_has_been_paid_for(way: Way, failing: type[Failing]) -> None:
    """A budget that is spent raises as it hears of the end: those that come behind it hear nothing any more."""

    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        with bind(user_id="u", session_id="s"), pytest.raises(RuntimeError, match="the application's own"):
            await way(Talker(), {"callbacks": [failing(), Listener()]})
        await call_log.aflush()
    (row,) = sink.records
    assert (row.status, row.user_id) == ("ok", "u")
    assert row.response_snapshot is not None


async def test_an_error_that_another_handler_does_not_stand() -> None:
    with CallLog(sink=(sink := MemorySink())) as call_log, bind(user_id="u", session_id="s"):
        with pytest.raises(RuntimeError, match="the application's own"):
            Talker().invoke("[fail]", {"callbacks": [Deaf()]})
        call_log.flush()
    assert [(row.status, row.error_code) for row in sink.records] == [("error", "ProviderDown")]
