"""Every call is exactly one row with the right status, however it ends, and also where LangChain reports no end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypedDict, cast
from uuid import uuid4

import httpx
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.capture.handler import CallLogHandler
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.identity.scope import current_scope, enter, new_scope, suspend
from llmctx.middleware import ContextMiddleware
from tests.kit.support import MARK, Book, Completer, PlainTalker, ProviderDown, Talker, User, hanging, kept_by, wait_for
from tests.kit.uvicorn_server import served

ME = User("u", "s", "t")
model = Talker()


class State(TypedDict, total=False):
    prompt: str
    other: str


class Here:
    """One call log, the truth, and one user whose calls they are."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.log = CallLog(sink=self.sink, linger_ms=0)
        self.book = Book()

    def ok(self) -> str:
        return self.book.prompt(ME)

    def failing(self) -> str:
        return self.book.prompt(ME, "error")

    def hanging(self, status: str = "cancelled") -> str:
        return self.book.prompt(ME, status, "[hang]")

    async def settled(self) -> list[CallRecord]:
        """The rows, once nothing is open any more; each exactly one, and right."""
        await wait_for(lambda: self.log.stats().open == 0, "every call to end")
        return await self.checked()

    async def checked(self) -> list[CallRecord]:
        assert await self.log.aflush(60) == 0
        stats = self.log.stats()
        assert stats.balanced
        assert stats.started == stats.written == len(self.book.truths)
        complaints = self.book.held_against(self.sink.records)
        assert not complaints, complaints[:8]
        return self.sink.records


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    here = Here()
    async with here.log:
        with bind(user_id="u", session_id="s"):
            yield here


async def begun(count: int = 1) -> None:
    """Wait until so many calls hang."""
    for _ in range(count):
        assert await asyncio.to_thread(hanging.acquire, timeout=60)


async def expire(limit: asyncio.Timeout) -> None:
    """Let a deadline pass as soon as a call hangs under it: a slow machine must not cut it off before."""
    await begun()
    limit.reschedule(asyncio.get_running_loop().time())


async def test_answers_and_errors(here: Here) -> None:
    """Each way to call a model is one row, ok or error."""
    await model.ainvoke(here.ok())
    model.invoke(here.ok())
    assert [chunk async for chunk in model.astream(here.ok())]
    assert list(model.stream(here.ok()))
    assert [event async for event in model.astream_events(here.ok(), version="v2")]
    for bad in (model.invoke, lambda prompt: list(model.stream(prompt)), Completer().invoke):
        with pytest.raises(ProviderDown):
            bad(here.failing())
    for worse in (model.ainvoke, Completer().ainvoke, PlainTalker().ainvoke):
        with pytest.raises(ProviderDown):
            await worse(here.failing())
    rows = await here.settled()
    assert {row.error_code for row in rows if row.status == "error"} == {"ProviderDown"}
    assert {row.success for row in rows if row.status == "ok"} == {True}


async def test_batches(here: Here) -> None:
    """One row for each prompt, in batch, abatch, batch_as_completed and generate."""
    model.batch([here.ok() for _ in range(5)])
    await model.abatch([here.ok() for _ in range(5)])
    assert len(list(model.batch_as_completed([here.ok() for _ in range(3)]))) == 3
    assert len([_ async for _ in model.abatch_as_completed([here.ok() for _ in range(3)])]) == 3
    model.batch([here.ok(), here.failing()], return_exceptions=True)
    await model.agenerate([[HumanMessage(here.ok())], [HumanMessage(here.ok())]])
    Completer().generate([here.ok(), here.ok()])
    await Completer().agenerate([here.ok(), here.ok()])
    await here.settled()


async def test_retries_and_fallbacks(here: Here) -> None:
    """Each attempt is a call of its own."""
    prompt = here.failing()
    with pytest.raises(ProviderDown):
        await model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False).ainvoke(prompt)
    await here.log.aflush()
    number = int(MARK.search(prompt)[1])  # type: ignore[index]
    attempts = [row for row in here.sink.records if f"[call {number}]" in (row.prompt_snapshot or "")]
    assert [row.status for row in attempts] == ["error"] * 3
    assert len({row.call_id for row in attempts}) == 3
    here.sink.records.clear()
    prompt = here.failing()
    answer = await model.with_fallbacks([PlainLiar()]).ainvoke(prompt)
    assert answer.content == "all is well"
    await here.log.aflush()
    assert [row.status for row in here.sink.records] == ["error", "ok"]
    assert {row.user_id for row in here.sink.records} == {"u"}


class PlainLiar(PlainTalker):
    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("all is well"))])


async def test_langchains_cache(here: Here) -> None:
    """An answer from LangChain's cache is a call that cost nothing: one more row, which says so."""
    before = get_llm_cache()
    set_llm_cache(InMemoryCache())
    try:
        prompt = here.ok()
        await PlainTalker().ainvoke(prompt)
        await PlainTalker().ainvoke(prompt)
    finally:
        set_llm_cache(before)
    await here.log.aflush()
    assert [row.status for row in here.sink.records] == ["ok", "ok"]
    assert [row.cached for row in here.sink.records] == [False, True]


class Inline(BaseCallbackHandler):
    """Somebody else's handler that runs inline, as LangGraph's and LangSmith's do."""

    run_inline = True


class Queued(BaseCallbackHandler):
    """Somebody else's handler that LangChain hands to an executor."""


@pytest.mark.parametrize("others", [[Inline()], [Queued()], [Inline(), Queued()]], ids=["inline", "queued", "both"])
async def test_completion_models_beside_other_handlers(here: Here, others: list[BaseCallbackHandler]) -> None:
    """LangChain loses starts of non-inline handlers beside inline ones; ours is inline."""
    config: RunnableConfig = {"callbacks": others}
    await Completer().ainvoke(here.ok(), config)
    Completer().invoke(here.ok(), config)
    await Completer().abatch([here.ok(), here.ok()], config)
    with pytest.raises(ProviderDown):
        await Completer().ainvoke(here.failing(), config)
    await here.settled()


async def test_heard_by_three_handlers_at_once(here: Here) -> None:
    """On the model, in the config, and globally: one call, one row."""
    named = Talker(callbacks=[CallLogHandler()])
    config: RunnableConfig = {"callbacks": [here.log.handler, CallLogHandler()]}
    await named.ainvoke(here.ok(), config)
    named.invoke(here.ok(), config)
    assert [chunk async for chunk in named.astream(here.ok(), config)]
    with pytest.raises(ProviderDown):
        await named.ainvoke(here.failing(), config)
    await here.settled()


async def test_a_handler_that_says_outright_whose_calls_those_are(here: Here) -> None:
    """`CallLogHandler(context=…)` comes before all other witnesses, whoever hears the call first."""
    report = User("nightly", "report", "t")
    named = Talker(callbacks=[CallLogHandler(context=CallContext(user_id="nightly", session_id="report"))])
    await named.ainvoke(here.book.prompt(report))
    await named.ainvoke(here.book.prompt(report), {"callbacks": [here.log.handler]})
    await here.settled()


async def test_such_a_handler_outlives_a_call_log() -> None:
    """It was made with a module, before any call log, and serves each one that is started."""
    named = Talker(callbacks=[CallLogHandler(context=CallContext(user_id="nightly", session_id="report"))])
    for _ in range(2):
        here = Here()
        async with here.log:
            await named.ainvoke(here.book.prompt(User("nightly", "report", "t")))
            await here.settled()


async def test_a_model_inside_of_a_model(here: Here) -> None:
    """Both are calls, and the inner one does not end the outer."""

    class Judge(Talker):
        inner: Any = None

        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            await self.inner.ainvoke(here.ok())
            return await super()._agenerate(messages, *args, **kwargs)

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            self.inner.invoke(here.ok())
            return super()._generate(messages, *args, **kwargs)

    await Judge(inner=Judge(inner=model)).ainvoke(here.ok())
    Judge(inner=Judge(inner=model)).invoke(here.ok())
    await here.settled()


async def test_the_same_run_id_one_after_the_other(here: Here) -> None:
    """A config with a run_id that is used twice is two calls."""
    config: RunnableConfig = {"run_id": uuid4()}
    await model.ainvoke(here.ok(), dict(config))  # type: ignore[arg-type]
    await model.ainvoke(here.ok(), dict(config))  # type: ignore[arg-type]
    model.invoke(here.ok(), dict(config))  # type: ignore[arg-type]
    rows = await here.settled()
    assert len({row.call_id for row in rows}) == 3
    assert {row.run_id for row in rows} == {config["run_id"]}


async def test_a_run_id_that_is_a_text(here: Here) -> None:
    """LangChain hands on whatever a config says."""
    run_id = uuid4()
    await model.ainvoke(here.ok(), cast("RunnableConfig", {"run_id": str(run_id)}))
    with contextlib.suppress(ValueError):  # LangChain's own, at the end of the call
        await model.ainvoke(here.ok(), cast("RunnableConfig", {"run_id": "the first"}))
    assert {row.run_id for row in await here.settled()} == {run_id, None}


async def test_the_same_run_id_at_once(here: Here) -> None:
    """In tasks, threads and streams: each end finds its own start, and each answer its own prompt."""
    run_id = uuid4()
    await asyncio.gather(*(model.ainvoke(here.ok(), {"run_id": run_id}) for _ in range(20)))
    await asyncio.gather(*(asyncio.to_thread(model.invoke, here.ok(), {"run_id": run_id}) for _ in range(20)))
    rows = await here.settled()
    for row in rows:
        assert MARK.search(row.prompt_snapshot or "")[0] in (row.response_snapshot or "")  # type: ignore[index]


async def test_the_same_run_id_for_two_users_at_once() -> None:
    """A run_id that a client chose does not merge two people's calls."""
    here = Here()
    run_id = uuid4()
    async with here.log:

        async def ask(number: int) -> None:
            user = User(f"u{number}", f"s{number}", "t")
            with bind(user_id=user.user_id, session_id=user.session_id):
                await asyncio.gather(*(model.ainvoke(here.book.prompt(user), {"run_id": run_id}) for _ in range(2)))
                await asyncio.to_thread(model.invoke, here.book.prompt(user), {"run_id": run_id})

        await asyncio.gather(*(ask(number) for number in range(20)))
        for row in await here.settled():
            assert MARK.search(row.prompt_snapshot or "")[0] in (row.response_snapshot or "")  # type: ignore[index]


async def test_a_cancelled_task(here: Here) -> None:
    """task.cancel() during ainvoke: LangChain says nothing, ever."""
    task = asyncio.create_task(model.ainvoke(here.hanging()))
    await begun()
    task.cancel()
    await asyncio.wait([task])
    (row,) = await here.settled()
    assert (row.error_code, row.success) == ("cancelled", False)


async def test_a_timeout_inside_of_the_task(here: Here) -> None:
    """asyncio.timeout around the call: the task goes on, and so does the row, with the next call at the latest."""
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                expiring = asyncio.create_task(expire(limit))
                await model.ainvoke(here.hanging())
        await expiring
    await model.ainvoke(here.ok())
    await here.settled()


async def test_a_timeout_in_a_worker_that_waits_for_its_next_job(here: Here) -> None:
    """No next call, no end of the task, no end of a scope: it is noticed that nobody awaits the call."""
    done = asyncio.Event()

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.ainvoke(here.hanging()), 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await model.ainvoke(here.hanging())
        await done.wait()

    worker = asyncio.create_task(work())
    await begun(2)
    rows = await here.settled()
    assert not worker.done()
    assert max(row.latency_ms or 0 for row in rows) < 15_000
    done.set()
    await worker


async def test_a_slow_call_is_not_taken_for_a_forgotten_one(here: Here) -> None:
    """Looked at again and again while it is awaited, through gather, shield and a chain, it ends as it ends."""
    release = asyncio.Event()

    class Slow(PlainTalker):
        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            await release.wait()
            return await super()._agenerate(messages, *args, **kwargs)

    slow = Slow()
    calls = asyncio.gather(
        slow.ainvoke(here.ok()),
        asyncio.shield(slow.ainvoke(here.ok())),
        slow.with_retry().ainvoke(here.ok()),
        slow.agenerate([[HumanMessage(here.ok())], [HumanMessage(here.ok())]]),
        Completer().ainvoke(here.ok()),
    )
    looks = 0
    look_at = here.log._recorder.open_calls._look_at

    def counted(calls: list[Any]) -> None:
        nonlocal looks
        look_at(calls)
        looks += len(calls)

    here.log._recorder.open_calls._look_at = counted  # type: ignore[method-assign]
    await wait_for(lambda: looks >= 10, "the open calls to be looked after twice")
    release.set()
    await calls
    await here.settled()


async def test_wait_for_and_a_failing_sibling(here: Here) -> None:
    """wait_for cancels the call's own task; so does a task group when one of its tasks fails."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.ainvoke(here.hanging()), 1)

    async def fail() -> None:
        await begun(2)
        raise ProviderDown

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(model.ainvoke(here.hanging()))
            group.create_task(fail())
    gathered = asyncio.gather(model.ainvoke(here.hanging()), model.ainvoke(here.failing()), return_exceptions=False)
    with pytest.raises(ProviderDown):
        await gathered
    await begun()
    (left,) = (task for task in asyncio.all_tasks() if "ainvoke" in repr(task.get_coro()))
    left.cancel()  # gather leaves the sibling running
    await asyncio.wait([left])
    await here.settled()


@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_graph_whose_step_times_out_or_whose_sibling_fails(here: Here, wrapped: bool) -> None:
    """LangGraph cancels the node: its call is cancelled, the sibling's is an error."""

    async def node(state: State) -> State:
        await model.ainvoke(state["prompt"])
        return {}

    async def sibling(state: State) -> State:
        if "other" in state:
            await begun()
            await model.ainvoke(state["other"])
        return {}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_node("sibling", sibling)
    builder.add_edge(START, "node")
    builder.add_edge(START, "sibling")
    graph: Any = (wrap_graph(builder) if wrapped else builder).compile()
    with pytest.raises(ProviderDown):
        await graph.ainvoke({"prompt": here.hanging(), "other": here.failing()})
    graph.step_timeout = 1
    with pytest.raises(TimeoutError):
        await graph.ainvoke({"prompt": here.hanging()})
    await begun()
    await here.settled()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LangChain forgets to await
async def test_two_prompts_of_one_agenerate_with_one_cancelled_inside(here: Here) -> None:
    """LangChain stumbles and reports the end of one of two: the other ends with its task."""
    good = here.book.prompt(ME, "cancelled")
    bad = here.book.prompt(ME, "cancelled", "[cancel inside]")

    async def both() -> None:
        await model.agenerate([[HumanMessage(good)], [HumanMessage(bad)]])

    task = asyncio.create_task(both())
    await asyncio.wait([task])
    assert task.cancelled() or task.exception()
    await here.settled()


async def test_a_stream_that_is_broken_off(here: Here) -> None:
    """break, aclose, cancellation: cancelled, with what had come so far."""
    stream = model.astream(here.book.prompt(ME, "cancelled"))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    sync = model.stream(here.book.prompt(ME, "cancelled"))
    next(sync)
    sync.close()  # type: ignore[attr-defined]

    async def read() -> None:
        async for _ in model.astream(here.hanging()):
            pass

    task = asyncio.create_task(read())
    await begun()
    task.cancel()
    await asyncio.wait([task])
    rows = await here.settled()
    assert all("one" in (row.response_snapshot or "") for row in rows)
    assert all(row.streamed for row in rows)


async def test_a_stream_that_the_garbage_collector_ends(here: Here) -> None:
    """Nobody closes it; it goes with its last reference."""

    def drop() -> None:
        stream = model.stream(here.book.prompt(ME, "cancelled"))
        next(stream)

    drop()
    gc.collect()
    await here.settled()


async def test_a_stream_that_is_read_by_somebody_else(here: Here) -> None:
    """Started in one task that ends, read to its end in another: ok."""
    streams: list[Any] = []

    async def start() -> None:
        stream = model.astream(here.ok())
        await anext(stream)
        streams.append(stream)

    async def read() -> None:
        async for _ in streams[0]:
            pass

    await asyncio.create_task(start())
    await asyncio.create_task(read())
    await here.settled()


async def test_streams_that_are_kept_and_never_read_to_the_end() -> None:
    """They are open until the call log closes; then they are abandoned."""
    here = Here()
    async with here.log:
        with bind(user_id="u", session_id="s"):
            stream = model.astream(here.book.prompt(ME, "abandoned"))
            await anext(stream)
            sync = model.stream(here.book.prompt(ME, "abandoned"))
            next(sync)
            task = asyncio.create_task(model.ainvoke(here.hanging("abandoned")))
            await begun()
            assert here.log.stats().open == 3
    complaints = here.book.held_against(here.sink.records)
    assert not complaints
    assert here.log.stats().balanced
    task.cancel()
    await asyncio.wait([task])
    await stream.aclose()  # type: ignore[attr-defined]
    sync.close()  # type: ignore[attr-defined]
    assert len(here.sink.records) == 3


class Patient(PlainTalker):
    """Answers when it is told to."""

    told: Any = None

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        hanging.release()
        await asyncio.to_thread(self.told.wait)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("at last"))])


@pytest.mark.parametrize("mode", ["updates", "messages", "values"])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_the_client_hangs_up(wrapped: bool, mode: Any) -> None:
    """The usual chat endpoint: SSE over graph.astream, whose node awaits the model; the client goes away.

    LangGraph cancels the node, but not while it streams messages: then the call goes on, and ends as it ends.
    """
    here = Here()
    told = threading.Event()
    gone_on = mode == "messages"

    async def node(state: State) -> State:
        await (Patient(told=told) if gone_on else PlainTalker()).ainvoke(state["prompt"])
        return {}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph: Any = (wrap_graph(builder) if wrapped else builder).compile()
    hung_up = threading.Semaphore(0)

    async def chat(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield "data: hello\n\n"
            try:
                prompt = here.hanging("ok" if gone_on else "cancelled")
                async for _ in graph.astream({"prompt": prompt}, stream_mode=mode):
                    yield "data: step\n\n"
            finally:
                hung_up.release()

        return StreamingResponse(body(), media_type="text/event-stream")

    who = lambda connection: CallContext(user_id="u", session_id="s")  # noqa: E731
    app = Starlette(routes=[Route("/", chat)], middleware=[Middleware(ContextMiddleware, identify=who)])
    async with here.log, served(app) as base, httpx.AsyncClient(base_url=base) as http:
        for _ in range(2):
            async with http.stream("GET", "/") as response:
                lines = response.aiter_lines()  # kept: httpx hangs up when it goes
                await anext(lines)
                await begun()
            assert await asyncio.to_thread(hung_up.acquire, timeout=60)
        told.set()
        await here.settled()


async def test_nothing_is_kept_of_two_thousand_cancelled_calls(here: Here) -> None:
    """Tables of open calls, tasks and scopes are empty afterwards, and the tasks are free to go."""
    references: list[weakref.ref[Any]] = []
    for _ in range(10):
        tasks = [asyncio.create_task(model.ainvoke(here.hanging())) for _ in range(200)]
        references += [weakref.ref(task) for task in tasks]
        await begun(200)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    del tasks, task
    await here.settled()
    calls = here.log._recorder.open_calls
    assert kept_by(calls) == []
    await asyncio.sleep(0)
    gc.collect()
    assert not [reference for reference in references if reference() is not None]


async def test_nothing_is_kept_of_two_thousand_scopes() -> None:
    """A scope's calls go with it, and a scope that nobody closes can go all the same."""
    here = Here()
    scopes: list[weakref.ref[Any]] = []
    async with here.log:
        for number in range(2000):
            with bind(user_id="u", session_id="s"):
                await PlainLiar().ainvoke(here.ok())
                if number % 2:
                    inner = new_scope("bind", CallContext(user_id="u", session_id="s"), current_scope())
                    token = enter(inner)
                    await PlainLiar().ainvoke(here.ok())
                    suspend(token)
                    scopes.append(weakref.ref(inner))
        del inner
        await here.settled()
        assert kept_by(here.log._recorder.open_calls) == []
        gc.collect()
        assert [scope for scope in scopes if scope() is not None] == []


def test_nothing_is_kept_of_loops_that_end_in_the_middle() -> None:
    """A loop that is closed while calls hang in it never tells what became of its tasks."""
    here = Here()
    with here.log:
        for _ in range(20):
            loop = asyncio.new_event_loop()
            task = loop.create_task(model.ainvoke(here.hanging()))
            loop.run_until_complete(begun())
            loop.close()
            task._log_destroy_pending = False
        del task, loop
        calls = here.log._recorder.open_calls
        deadline = time.monotonic() + 60.0
        while kept_by(calls) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert kept_by(calls) == []
        here.log.flush(60)
    assert [record.status for record in here.sink.records] == ["cancelled"] * 20


def test_threads_that_start_calls_at_once_lose_none() -> None:
    """The counter of started calls, the open ones and the rows agree, also with one run_id for all of them."""
    here = Here()
    run_id = uuid4()
    with here.log:

        def work() -> None:
            with bind(user_id="u", session_id="s"):
                for _ in range(50):
                    Completer().invoke(here.ok())
                    Completer().invoke(here.ok(), {"run_id": run_id})

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert here.log.flush(60) == 0
        stats = here.log.stats()
        assert (stats.started, stats.written, stats.open) == (800, 800, 0)
        assert not here.book.held_against(here.sink.records)


@pytest.fixture
def odd_moments() -> Iterator[None]:
    """The garbage collector runs every few allocations."""
    before = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@pytest.mark.usefixtures("odd_moments")
async def test_the_garbage_collector_at_odd_moments(here: Here) -> None:
    """Streams that sit in reference cycles end in the middle of other calls' starts and ends."""

    class Cycle:
        stream: Any
        me: Any

    def drop() -> None:
        cycle = Cycle()
        cycle.me = cycle
        cycle.stream = model.stream(here.book.prompt(ME, "cancelled"))
        next(cycle.stream)

    for _ in range(20):
        drop()
        model.invoke(here.ok())
        await model.ainvoke(here.ok())
    gc.collect()
    await here.settled()
