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
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Final, TypedDict

import anyio
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

import llmctx
from llmctx.context import CallContext
from llmctx.graph import wrap_graph, wrap_node
from llmctx.middleware import ContextMiddleware


class Kit:
    """What of llmctx the applications use. `used=False` is the same without it."""

    def __init__(self, used: bool, call_log: Any = None) -> None:
        self.used = used
        self.call_log = call_log

    def bind(self, **ids: Any) -> contextlib.AbstractContextManager[Any]:
        return llmctx.bind(**ids) if self.used else contextlib.nullcontext()

    def amend(self, **ids: Any) -> None:
        if self.used:
            llmctx.amend(**ids)

    def carry(self, fn: Any) -> Any:
        return llmctx.carry(fn) if self.used else fn

    def wrap(self, graph: Any, **how: Any) -> Any:
        return wrap_graph(graph, **how) if self.used else graph

    def node(self, node: Any) -> Any:
        return wrap_node(node) if self.used else node

    def served(self, app: Any, identify: Any) -> Any:
        return ContextMiddleware(app, identify) if self.used else app

    def record(self, prompt: str) -> contextlib.AbstractContextManager[Any]:
        if self.used:
            recording: contextlib.AbstractContextManager[Any] = self.call_log.record(model="own", prompt=prompt)
            return recording
        return contextlib.nullcontext()


class Broken(Exception):
    """The application's own trouble."""


class Model(BaseChatModel):
    """Answers at once; `[fail]` raises, `[hang]` waits until it is cancelled."""

    @property
    def _llm_type(self) -> str:
        return "innocent"

    @staticmethod
    def _answer(messages: Any) -> str:
        text = str(messages[-1].content)
        if "[fail]" in text:
            raise Broken(text)
        return f"heard {text}"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=self._answer(messages)))])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(0)
        if "[hang]" in str(messages[-1].content):
            await asyncio.Event().wait()
        return self._generate(messages)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for word in ("one ", "two"):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        self._answer(messages)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for word in ("one ", "two"):
            await asyncio.sleep(0)
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager:
                await run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        self._answer(messages)


class Completer(BaseLLM):
    """A completion model, whose starts LangChain reports in another way."""

    @property
    def _llm_type(self) -> str:
        return "completer"

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        return LLMResult(generations=[[Generation(text=f"heard {prompt}")] for prompt in prompts])


class Listener(BaseCallbackHandler):
    """The application's own handler: hears what it always heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.heard.append("start")

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.heard.append("end")


MODEL: Final = Model()
_own: Final[ContextVar[str]] = ContextVar("application's own", default="unset")


def surroundings() -> dict[str, Any]:
    """The context variables that are set, and LangChain's config without what belongs to a single run."""
    found: dict[str, Any] = {}
    for variable, value in copy_context().items():
        if variable.name == "llmctx_scope":
            found["identity"] = None if value is None else value.identity
        elif variable is not var_child_runnable_config and variable.name in ("application's own", "tracing_v2"):
            found[variable.name] = value
    config: Any = var_child_runnable_config.get()
    if config is not None:
        found["config"] = sorted(config), sorted(config.get("configurable") or {})
        found["metadata"] = sorted(set(config.get("metadata") or {}) - {"llmctx"})
    return found


def _app_view(config: RunnableConfig | None = None) -> dict[str, Any]:
    """`surroundings` as far as the application can see: whose it is, is llmctx's own."""
    seen = surroundings()
    seen.pop("identity", None)
    if config is not None:
        seen["given"] = sorted(config), sorted(set(config.get("metadata") or {}) - {"llmctx"})
    return seen


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
        told.append(await Completer().ainvoke("of ada: completion"))
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


class State(TypedDict, total=False):
    text: str
    said: list[str]
    user_id: str


def _graph(kit: Kit, views: list[Any]) -> Any:
    """Synchronous and asynchronous nodes, a conditional edge, a subgraph, a streaming node, wrapped functions."""

    def first(state: State, config: RunnableConfig) -> State:
        views.append(_app_view(config))
        return {"said": [str(MODEL.invoke(f"of bob: {state['text']}").content)]}

    async def second(state: State) -> State:
        views.append(_app_view())
        return {"said": [*state["said"], str((await MODEL.ainvoke("of bob: second")).content)]}

    async def streaming(state: State) -> State:
        words = [str(chunk.content) async for chunk in MODEL.astream("of bob: words")]
        return {"said": [*state["said"], "".join(words)]}

    def where(state: State) -> str:
        views.append(_app_view())
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


async def _request(app: Any, path: str, user: str) -> list[Any]:
    """All that an ASGI server would be told. The client goes away in the middle of `/hang`."""
    sent: list[Any] = []
    begun = asyncio.Event()

    async def receive() -> Any:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"test"), (b"x-user", user.encode())]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
             "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
             "server": ("test", 80), "client": ("test", 1)}  # fmt: skip
    try:
        async with asyncio.timeout(0.03 if path == "/hang" else 30):
            await app(scope, receive, send)
    except (Broken, TimeoutError) as problem:
        sent.append(type(problem).__name__)
    return sent


async def _socket(app: Any) -> list[Any]:
    sent: list[Any] = []
    incoming: list[Any] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "one"},
                           {"type": "websocket.disconnect", "code": 1000}]  # fmt: skip

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": "/ws", "raw_path": b"/ws",
             "query_string": b"", "root_path": "", "scheme": "ws", "headers": [(b"x-user", b"eve")], "subprotocols": [],
             "server": ("test", 80), "client": ("test", 1)}  # fmt: skip
    await app(scope, receive, send)
    return sent


def _served(kit: Kit, seen: list[Any]) -> Any:
    app = FastAPI()
    builder = StateGraph(State)
    builder.add_node("answer", RunnableLambda(lambda state: {"said": [MODEL.invoke("of eve: graph").content]}))
    builder.add_edge(START, "answer")
    graph = kit.wrap(builder).compile()

    @app.get("/chat")
    async def chat(background: BackgroundTasks) -> Any:
        kit.amend(session_id="s-eve")
        seen.append(_app_view())
        background.add_task(MODEL.invoke, "of eve: background")
        return [(await MODEL.ainvoke("of eve: chat")).content, await graph.ainvoke({"text": "x"})]

    @app.get("/sync")
    def sync() -> Any:
        return MODEL.invoke("of eve: sync").content

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            async for chunk in MODEL.astream("of eve: body"):
                yield str(chunk.content)

        return StreamingResponse(body(), media_type="text/plain")

    @app.get("/broken")
    async def broken() -> Any:
        await MODEL.ainvoke("of eve: before it breaks")
        raise Broken("at the endpoint")

    @app.get("/hang")
    async def hang() -> Any:
        await MODEL.ainvoke("of eve: [hang]")

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        text = await websocket.receive_text()
        await websocket.send_text(str((await MODEL.ainvoke(f"of eve: {text}")).content))
        await websocket.close()

    async def who(connection: Any) -> CallContext | None:
        await asyncio.sleep(0)
        user = connection.headers.get("x-user")
        if user == "unknown":
            raise Broken("who?")
        return CallContext(user_id=user, session_id=f"s-{user}")

    return kit.served(app, who)


async def requests(kit: Kit) -> Any:
    """FastAPI behind the middleware: endpoints, a stream, a background task, an error, a client that hangs up."""
    seen: list[Any] = []
    app = _served(kit, seen)
    told = [await _request(app, path, "eve") for path in ("/chat", "/sync", "/stream", "/broken", "/hang", "/none")]
    return [*told, await _request(app, "/broken", "unknown"), await _socket(app), seen]


async def scopes(kit: Kit) -> Any:
    """`bind`, `amend`, `carry`, calls recorded by hand, in blocks that also fail."""
    told: list[Any] = []
    _own.set("mine")
    with kit.bind(user_id="ada"):
        kit.amend(session_id="late")
        with contextlib.suppress(Broken), kit.bind(conversation_id="c", attributes={"k": 1}):
            told.append(_app_view())
            raise Broken
        with ThreadPoolExecutor(1) as pool:
            told.append(pool.submit(kit.carry(lambda: MODEL.invoke("of ada: carried").content)).result())
        carried = kit.carry(MODEL.ainvoke)
        told.append((await asyncio.create_task(carried("of ada: task"))).content)
        with kit.record("of ada: by hand"):
            told.append("by hand")
        with contextlib.suppress(Broken), kit.record("of ada: by hand, and broken"):
            raise Broken
    told.append(_app_view())
    return told


async def carried(kit: Kit) -> Any:
    """Threads, executors, queues and streams of the standard library and of anyio, patched by `carry=True`."""
    told: list[Any] = []
    jobs: queue.Queue[Any] = queue.Queue()
    ajobs: asyncio.Queue[Any] = asyncio.Queue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            told.append(MODEL.invoke(job).content)
            jobs.task_done()

    async def awork() -> None:
        while (job := await ajobs.get()) is not None:
            told.append((await MODEL.ainvoke(job)).content)
            ajobs.task_done()

    async def memory(user: str) -> None:
        send, receive = anyio.create_memory_object_stream[str](1)
        async with send, receive:
            await send.send(f"of {user}: memory")
            told.append(await receive.receive())

    worker = threading.Thread(target=work)
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


APPLICATIONS: Final[list[Callable[[Kit], Any]]] = [plain, graphs, odd_graphs, requests, scopes, carried]
