"""The application that is hurt: fake models of LangChain's, LangGraph, an ASGI server, many users.

Every way in which it makes a call writes into the book what it does, and compares what it gets with what it must get
without llmctx: anything else is `harmed`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import or_
from typing import Annotated, Any, Final, TypedDict

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, StateGraph
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmctx import CallContext, bind
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from tests.faults.book import SECRET, Call, Pen, answer_to
from tests.kit.models import FakeChatModel, Reply, unobserved

LONG_S: Final = 30.0  # what is cancelled would have taken


class ProviderDown(Exception):
    """What the fake provider answers to a call that is to fail."""


class SiblingFails(Exception):
    """Another node of the same step."""


class Provider(FakeChatModel):
    """A chat model that finds in its prompt's metadata what is to become of the call."""

    model_name: str = "faulty-1"
    pen: Any
    calls: Any
    """Those that are under way, by run_id: the application's own dict, which pydantic would copy."""

    def _reply(self, messages: list[BaseMessage], streamed: bool = False) -> Reply:
        run_id = str(messages[-1].content)[1:37]
        self.pen.began(run_id)
        call: Call = self.calls[run_id]
        words = answer_to(run_id).split(" ")
        hangs = call.end == "cancel" and call.way not in ("http", "sse") and not streamed
        return Reply(
            answer_to(run_id),
            [word + " " for word in words[:-1]] + words[-1:],
            ProviderDown(run_id) if call.end == "fail" else None,
            streams_problem=False,
            pause=lambda: call.ms / (3000 if streamed else 1000),
            hang=unobserved if hangs else None,
        )


class Plain(Provider):
    """Without streaming of its own, so that a graph does not stream it."""

    _stream = BaseChatModel._stream
    _astream = BaseChatModel._astream


class State(TypedDict):
    user_id: str
    session_id: str
    run_id: str
    prompt: str
    way: str
    answers: Annotated[dict[str, str], or_]


def who(connection: HTTPConnection) -> CallContext | None:
    user = connection.headers.get("x-user")
    return None if user is None else CallContext(user_id=user, session_id=connection.headers.get("x-session"))


class Application:
    """Calls made in every way, each written into the book."""

    def __init__(self, pen: Pen, secrets: str = "") -> None:
        self.pen = pen
        self._secrets = SECRET + secrets if secrets else ""
        self.calls: dict[str, Call] = {}
        self.model = Provider(pen=pen, calls=self.calls)
        self.plain = Plain(pen=pen, calls=self.calls)
        builder = self._make_graph()
        self._graph, self._graph_with_timeout = builder.compile(), builder.compile()
        self._graph_with_timeout.step_timeout = 0.05
        self.http: httpx.AsyncClient | None = None
        """To the application's own server, where there is one."""
        self.ways: dict[str, Callable[[Call], Awaitable[Any]]] = {
            "ainvoke": self._ainvoke,
            "astream": self._astream,
            "to_thread": self._to_thread,
            "thread": self._thread,
            "graph": self._in_graph,
            "sibling": self._in_graph,
            "step": self._in_graph,
            "http": self._http,
            "sse": self._sse,
        }

    def prompt(self, call: Call) -> str:
        return call.prompt + self._secrets

    async def make(self, call: Call) -> None:
        """Make one call, and see that it ends as it must."""
        self.calls[call.run_id] = call
        self.pen.issued(call)
        try:
            told = await self.ways[call.way](call)
        except ProviderDown:
            told = "fail"
        except TimeoutError:
            told = "cancel"
        except asyncio.CancelledError:
            raise
        except BaseException as problem:
            self.pen.harmed(f"{call.way}: {problem!r}")
            told = call.end
        finally:
            if call.end != "cancel" or call.way not in ("http", "sse"):  # the server may come to it later
                del self.calls[call.run_id]
        if told != call.end:
            self.pen.harmed(f"{call.way}: {told!r} instead of {call.end!r}")
        self.pen.ended(call.run_id, time.time())

    def make_here(self, call: Call) -> None:
        """Make one call in this thread, of which nothing else is asked."""
        self.calls[call.run_id] = call
        self.pen.issued(call)
        try:
            with bind(user_id=call.user, session_id=call.session):
                self.plain.invoke(self.prompt(call), {"run_id": call.run_id})
        except ProviderDown:
            pass
        finally:
            del self.calls[call.run_id]
        self.pen.ended(call.run_id, time.time())

    # -- ways -------------------------------------------------------------------------------------------------------

    async def _ainvoke(self, call: Call) -> str:
        with bind(user_id=call.user, session_id=call.session):
            async with _cancelled(call):
                said = await self.plain.ainvoke(self.prompt(call), {"run_id": call.run_id})
        return _judged(call, said.content)

    async def _astream(self, call: Call) -> str:
        said = ""
        with bind(user_id=call.user, session_id=call.session):
            stream = self.model.astream(self.prompt(call), {"run_id": call.run_id})
            async for chunk in stream:
                said += str(chunk.content)
                if call.end == "cancel":
                    await stream.aclose()  # type: ignore[attr-defined]  # it is an async generator
                    return "cancel"
        return _judged(call, said)

    async def _to_thread(self, call: Call) -> str:
        with bind(user_id=call.user, session_id=call.session):
            said = await asyncio.to_thread(self.plain.invoke, self.prompt(call), {"run_id": call.run_id})
        return _judged(call, said.content)

    async def _thread(self, call: Call) -> str:
        """A thread of its own, which knows nobody but whom it binds itself."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        told: list[str] = []

        def work() -> None:
            try:
                with bind(user_id=call.user, session_id=call.session):
                    said = "".join(
                        str(chunk.content) for chunk in self.model.stream(self.prompt(call), {"run_id": call.run_id})
                    )
                told.append(_judged(call, said))
            except ProviderDown:
                told.append("fail")
            except BaseException as problem:
                told.append(repr(problem))
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, daemon=True).start()
        await done.wait()
        return told[0]

    async def _in_graph(self, call: Call) -> str:
        """The thread_id may be anybody's: it is no proof of who one is."""
        given = {"user_id": call.user, "session_id": call.session, "run_id": call.run_id, "prompt": self.prompt(call)}
        config = {"configurable": {"thread_id": f"thread-{int(call.run_id[:2], 16) % 20}"}}
        try:
            async with _cancelled(call):
                graph = self._graph_with_timeout if call.way == "step" else self._graph
                state = await graph.ainvoke({**given, "way": call.way, "answers": {}}, config)
        except SiblingFails:
            return "cancel"
        return _judged(call, state["answers"][call.run_id])

    async def _http(self, call: Call) -> str:
        assert self.http is not None
        patience = call.ms / 2000 if call.end == "cancel" else LONG_S
        try:
            answer = await self.http.post("/chat", timeout=patience, **self._request(call))
        except httpx.TimeoutException:
            return "cancel"
        told = _judged(call, answer.text) if answer.status_code == 200 else answer.text
        return "cancel" if call.end == "cancel" and told == "ok" else told  # answered before we hung up

    async def _sse(self, call: Call) -> str:
        assert self.http is not None
        said = ""
        async with self.http.stream("POST", "/stream", timeout=LONG_S, **self._request(call)) as answer:
            async for piece in answer.aiter_text():
                said += piece
                if call.end == "cancel":
                    return "cancel"
        return said if said == "fail" else _judged(call, said)

    def _request(self, call: Call) -> dict[str, Any]:
        """With headers of a victim's, that nobody asked for."""
        headers = {"x-user": call.user or "", "x-session": call.session or "", "x-user-id": "user-0"}
        return {"json": {"prompt": self.prompt(call), "run_id": call.run_id}, "headers": headers}

    # -- what is called ---------------------------------------------------------------------------------------------

    def _make_graph(self) -> Any:
        async def ask(state: State) -> dict[str, Any]:
            said = await self.plain.ainvoke(state["prompt"], {"run_id": state["run_id"]})
            return {"answers": {state["run_id"]: str(said.content)}}

        async def beside(state: State) -> dict[str, Any]:
            if state["way"] == "sibling":
                await asyncio.sleep(self.calls[state["run_id"]].ms / 1000)
                raise SiblingFails
            return {"answers": {}}

        builder = StateGraph(State)
        builder.add_node("ask", ask)
        builder.add_node("beside", beside)
        builder.add_edge(START, "ask")
        builder.add_edge(START, "beside")
        builder.add_edge("ask", END)
        return wrap_graph(builder)

    def asgi(self) -> Starlette:
        """The application as a server has it."""

        async def chat(request: Request) -> Response:
            told = json.loads(await request.body())
            try:
                said = await self.plain.ainvoke(told["prompt"], {"run_id": told["run_id"]})
            except ProviderDown:
                return Response("fail", status_code=503)
            return Response(str(said.content))

        async def stream(request: Request) -> Response:
            told = json.loads(await request.body())

            async def pieces() -> AsyncIterator[str]:
                try:
                    async for chunk in self.model.astream(told["prompt"], {"run_id": told["run_id"]}):
                        yield str(chunk.content)
                except ProviderDown:
                    yield "fail"

            return StreamingResponse(pieces())

        async def well(request: Request) -> Response:
            return JSONResponse({})

        app = Starlette(
            routes=[
                Route("/chat", chat, methods=["POST"]),
                Route("/stream", stream, methods=["POST"]),
                Route("/", well),
            ]
        )
        app.add_middleware(ContextMiddleware, identify=who)
        return app


class _cancelled:  # noqa: N801  used as a function
    """Cancels what is inside after a moment, if the call is to be cancelled: as a timeout, or as a task."""

    def __init__(self, call: Call) -> None:
        asked = call.end == "cancel" and call.way not in ("sibling", "step")
        self._timeout = asyncio.timeout(call.ms / 1000 if asked else None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *problem: Any) -> None:
        await self._timeout.__aexit__(*problem)


def _judged(call: Call, said: object) -> str:
    return "ok" if said == answer_to(call.run_id) else f"said {said!r}"
