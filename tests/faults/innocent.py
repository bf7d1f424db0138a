"""Applications that do what applications do, with llmctx and without it, and tell what came of it.

Each is a coroutine function that takes a `Kit`. What it returns holds everything that an application could notice:
answers, errors, the bytes of responses, the configs and the context variables that its code has met. The users in it
stand in the prompts: `of ada: ...`.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final

import anyio
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from llmctx.identity.scope import CallContext
from tests.faults.kit import MODEL, Broken, Kit, Listener, State, app_view, own
from tests.faults.served import request, requests
from tests.kit.models import FakeLLM


async def plain(kit: Kit) -> Any:
    """Calls without any graph: awaited, streamed, in batches, in threads, failing, cancelled."""
    told: list[Any] = []
    listener = Listener()
    with kit.bind(user_id="ada", session_id="s-ada"):
        told.append((await MODEL.ainvoke("of ada: hello", {"callbacks": [listener]})).content)
        told.append([chunk.content async for chunk in MODEL.astream("of ada: stream")])
        told.append([one.content for one in await MODEL.abatch(["of ada: a", "of ada: b"])])
        told.append(await asyncio.to_thread(lambda: MODEL.invoke("of ada: thread").content))
        told.append([chunk.content for chunk in MODEL.stream("of ada: sync stream")])
        told.append([one.content for one in MODEL.batch(["of ada: c", "of ada: d"])])
        told.append(await FakeLLM().ainvoke("of ada: completion"))
        chain = RunnableLambda(lambda text: f"of ada: {text}") | MODEL | RunnableLambda(lambda said: said.content)
        told.append(await chain.ainvoke("chain", {"configurable": {"thread_id": "t-ada"}}))
        for ask in (MODEL.ainvoke, MODEL.abatch):
            try:
                await ask("of ada: [fail]" if ask == MODEL.ainvoke else ["of ada: [fail]"])  # type: ignore[operator]
            except Broken as problem:
                told.append(repr(problem))
        try:
            async with asyncio.timeout(0.01):
                await MODEL.ainvoke("of ada: [hang]")
        except TimeoutError:
            told.append("timeout")
        half = MODEL.astream("of ada: left")
        told.append((await anext(half)).content)
        await half.aclose()  # type: ignore[attr-defined]
    told.append((await MODEL.ainvoke("of nobody: outside")).content)
    told.append(listener.heard)
    return told


def _graph(kit: Kit, views: list[Any]) -> Any:
    """Synchronous and asynchronous nodes, a conditional edge, a subgraph, a streaming node, wrapped functions."""

    def first(state: State, config: RunnableConfig) -> State:
        views.append(app_view(config))
        return {"said": [str(MODEL.invoke(f"of bob: {state['text']}").content)]}

    async def second(state: State) -> State:
        views.append(app_view())
        return {"said": [*state["said"], str((await MODEL.ainvoke("of bob: second")).content)]}

    async def streaming(state: State) -> State:
        words = [str(chunk.content) async for chunk in MODEL.astream("of bob: words")]
        return {"said": [*state["said"], "".join(words)]}

    def where(state: State) -> str:
        views.append(app_view())
        MODEL.invoke("of bob: where to")
        return "inner"

    inner = StateGraph(State)
    inner.add_node("deep", second)
    inner.add_edge(START, "deep")
    outer = StateGraph(State)
    outer.add_node("first", first)
    outer.add_node("second", kit.node(second))
    outer.add_node("inner", inner.compile())
    outer.add_node("streaming", streaming)
    outer.add_edge(START, "first")
    outer.add_edge("first", "second")
    outer.add_conditional_edges("second", where, {"inner": "inner"})
    outer.add_edge("inner", "streaming")
    outer.add_edge("streaming", END)
    return kit.wrap(outer)


async def graphs(kit: Kit) -> Any:
    """A graph in all the ways of running it, its errors, its interrupts, and LangGraph's functional API."""
    told: list[Any] = []
    views: list[Any] = []
    saver = InMemorySaver()
    graph = _graph(kit, views).compile(checkpointer=saver)
    config: RunnableConfig = {"configurable": {"thread_id": "t-bob"}}
    state: Any = {"text": "hi", "user_id": "bob"}
    with kit.bind(session_id="s-bob"):
        told.append(await graph.ainvoke(state, config))
        told.append([sorted(part) async for part in graph.astream(state, config, stream_mode="updates")])
        async for message, metadata in graph.astream(state, config, stream_mode="messages"):
            told.append((message.content, sorted(set(metadata) - {"llmctx"})))  # the one key that is ours, by design
    told.append(sorted(saver.get(config)["channel_values"]))  # type: ignore[index]
    told.append(views)
    return told


async def odd_graphs(kit: Kit) -> Any:
    """Interrupts, generators as nodes, the functional API, synchronous runs, a node that fails or goes away."""
    told: list[Any] = []

    def asks(state: State) -> State:
        MODEL.invoke("of bob: before asking")
        answer = interrupt("may I?")
        return {"said": [answer]}

    async def breaks(state: State) -> State:
        await MODEL.ainvoke("of bob: before it breaks")
        raise Broken(state["text"])

    async def leaves(state: State) -> State:
        await MODEL.ainvoke("of bob: before it leaves")
        raise asyncio.CancelledError

    def generates(state: State) -> Iterator[State]:
        yield {"said": [str(MODEL.invoke("of bob: generated").content)]}

    def built(node: Any, wrap: bool = False) -> Any:
        builder = StateGraph(State)
        builder.add_node("only", kit.node(node) if wrap else node)
        builder.add_edge(START, "only")
        return kit.wrap(builder).compile(checkpointer=InMemorySaver())

    config: RunnableConfig = {"configurable": {"thread_id": "t-bob", "user_id": "bob"}}
    graph = built(asks)
    told.append(sorted(await graph.ainvoke({"text": "?"}, config)))
    told.append(await graph.ainvoke(Command(resume="yes"), config))
    for node in (breaks, leaves):
        for wrap in (False, True):
            try:
                await built(node, wrap).ainvoke({"text": "x"}, config)
            except (Broken, asyncio.CancelledError) as problem:
                told.append((type(problem).__name__, str(problem)))
    told.append(await asyncio.to_thread(built(asks, True).invoke, {"text": "?"}, config) is not None)
    told.append(list(kit.node(generates)({"text": "x", "user_id": "bob"})))

    @task
    async def work(text: str) -> str:
        return str((await MODEL.ainvoke(text)).content)

    @entrypoint(checkpointer=InMemorySaver())
    async def flow(text: str) -> list[str]:
        return [await work(f"of bob: {text} 1"), await work(f"of bob: {text} 2")]

    told.append(await kit.wrap(flow).ainvoke("task", config))
    return told


async def scopes(kit: Kit) -> Any:
    """`bind`, `amend`, `carry`, calls recorded by hand, in blocks that also fail."""
    told: list[Any] = []
    own.set("mine")
    with kit.bind(user_id="ada"):
        kit.amend(session_id="late")
        with contextlib.suppress(Broken), kit.bind(conversation_id="c", attributes={"k": 1}):
            told.append(app_view())
            raise Broken
        with ThreadPoolExecutor(1) as pool:
            told.append(pool.submit(kit.carry(lambda: MODEL.invoke("of ada: carried").content)).result())
        carried = kit.carry(MODEL.ainvoke)
        told.append((await asyncio.create_task(carried("of ada: task"))).content)
        with kit.record("of ada: by hand"):
            told.append("by hand")
        with contextlib.suppress(Broken), kit.record("of ada: by hand, and broken"):
            raise Broken
    told.append(app_view())
    return told


def _work(jobs: queue.Queue[Any], told: list[Any], config: RunnableConfig | None) -> None:
    """A worker, whom nothing stops but a None: or else those who wait for him would wait for ever."""
    job: Any = ""
    while job is not None:
        try:
            job = jobs.get()
        except BaseException as problem:
            told.append(repr(problem))
            continue
        try:
            if job is not None:
                told.append(MODEL.invoke(job, config).content)
        except BaseException as problem:
            told.append(repr(problem))
        finally:
            jobs.task_done()


async def carried(kit: Kit) -> Any:
    """Threads, executors, queues and streams of the standard library and of anyio, patched by `carry=True`."""
    told: list[Any] = []
    jobs: queue.Queue[Any] = queue.Queue()
    ajobs: asyncio.Queue[Any] = asyncio.Queue()

    async def awork() -> None:
        while (job := await ajobs.get()) is not None:
            told.append((await MODEL.ainvoke(job)).content)
            ajobs.task_done()

    async def memory(user: str) -> None:
        send, receive = anyio.create_memory_object_stream[str](1)
        async with send, receive:
            await send.send(f"of {user}: memory")
            told.append(await receive.receive())

    worker = threading.Thread(target=_work, args=(jobs, told, None))
    worker.start()
    aworker = asyncio.create_task(awork())
    for user in ("ada", "bob"):
        with kit.bind(user_id=user, session_id=f"s-{user}"):
            jobs.put(f"of {user}: job")
            await asyncio.to_thread(jobs.join)
            ajobs.put_nowait(f"of {user}: async job")
            await ajobs.join()
            one = threading.Thread(target=lambda user=user: told.append(MODEL.invoke(f"of {user}: thread").content))  # type: ignore[misc]
            one.start()
            await asyncio.to_thread(one.join)
            with ThreadPoolExecutor(1) as pool:
                told.append(pool.submit(MODEL.invoke, f"of {user}: pool").result().content)
            await asyncio.create_task(memory(user))  # in a task: whoever takes an item in no scope is its worker
    jobs.put(None)
    ajobs.put_nowait(None)
    await asyncio.to_thread(worker.join)
    await aworker
    with contextlib.suppress(queue.Empty):
        await asyncio.to_thread(jobs.get_nowait)
    return [*told, jobs.qsize(), ajobs.qsize()]


async def contested(kit: Kit) -> Any:
    """Bob works where eve has worked, or does: whatever is weaker than his own word names her."""
    told: list[Any] = []
    config: RunnableConfig = {"configurable": {"thread_id": f"t-{uuid.uuid4()}"}}  # what was doubted stays so
    jobs: queue.Queue[Any] = queue.Queue()

    def bare(text: str) -> None:
        """A call that has nothing but its thread_id to go by."""
        thread = threading.Thread(target=lambda: told.append(MODEL.invoke(text, config).content))
        Context().run(thread.start)
        thread.join()

    def node(state: State) -> State:
        said = str(MODEL.invoke(f"of {state['text']}: node").content)
        bare(f"of {state['text']}: bare")
        return {"said": [said]}

    def built(wrap: bool) -> Any:
        builder = StateGraph(State)
        builder.add_node("only", kit.node(node) if wrap else node)
        builder.add_edge(START, "only")
        return builder.compile() if wrap else kit.wrap(builder).compile()

    async def answers(scope: Any, receive: Any, send: Any) -> None:
        told.append((await MODEL.ainvoke("of bob: served", config)).content)

    async def who(connection: Any) -> CallContext:
        return CallContext(user_id="bob", session_id="s-bob")

    bob = {"user_id": "bob", "session_id": "s-bob"}
    with kit.bind(user_id="eve", session_id="s-eve"):
        told.append(await built(False).ainvoke({"text": "eve"}, config))
        worker = threading.Thread(target=_work, args=(jobs, told, config))
        worker.start()
        with kit.bind(**bob):
            told.append((await MODEL.ainvoke("of bob: bound", config)).content)
            job = kit.carry(lambda: told.append(MODEL.invoke("of bob: carried", config).content))
            ajob = kit.carry(MODEL.ainvoke)
            with kit.record("of bob: by hand"):
                pass
            jobs.put("of bob: job")
            await asyncio.to_thread(jobs.join)
        job()
        told.append((await ajob("of bob: carried, awaited", config)).content)
        jobs.put("of eve: job")
        await asyncio.to_thread(jobs.join)
        await request(kit.served(answers, who), "/", "bob")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(job).result()
        jobs.put(None)
        await asyncio.to_thread(worker.join)
    for wrap in (False, True):
        given: RunnableConfig = {"configurable": {**config["configurable"], **bob}}
        told.append(await built(wrap).ainvoke({"text": "bob"}, given))
        told.append(await built(wrap).ainvoke({"text": "bob", **bob}, config))
    return told


APPLICATIONS: Final[list[Callable[[Kit], Any]]] = [plain, graphs, odd_graphs, requests, scopes, carried, contested]
