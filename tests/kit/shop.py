"""A small application that can be varied, for `llmctx doctor --app`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from llmctx.ops.doctor import Finding

numbers = itertools.count(1)


GRAPH = """
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from langgraph.graph import START, MessagesState, StateGraph

    from llmctx.graph import wrap_graph

    model = FakeListChatModel(responses=["yes"])


    async def answer(state: MessagesState):
        raise AssertionError("doctor calls no node")


    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = wrap_graph(builder).compile()
"""


MAIN = """
    import asyncio
    import functools
    import queue
    import threading
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from contextlib import asynccontextmanager, contextmanager
    from contextvars import ContextVar, copy_context

    from fastapi import APIRouter, Depends, FastAPI, WebSocket
    from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
    from langchain_core.language_models.fake import FakeListLLM
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from starlette.authentication import AuthenticationBackend
    from starlette.middleware.authentication import AuthenticationMiddleware
    from starlette.middleware.base import BaseHTTPMiddleware

    from llmctx import CallContext, amend, bind, carry, current, take_over
    from llmctx.calllog import CallLog
    from llmctx.middleware import ContextMiddleware
    from SHOP.graphs import graph, model

    CALL_LOG
    BEFORE


    def who(conn):
        return CallContext(user_id=conn.headers["x-user"], session_id="s")


    app = FastAPI(lifespan=call_log.lifespan)


    @app.post("/chat")
    async def chat(question: str):
        raise AssertionError("doctor calls no endpoint")


    AFTER
    MIDDLEWARE
"""


CALL_LOG = 'call_log = CallLog("sqlite+aiosqlite:///never.db")'


MIDDLEWARE = "app.add_middleware(ContextMiddleware, identify=who)"


Check = Callable[..., list[Finding]]


def only(findings: list[Finding], name: str) -> Finding:
    """The one finding, which is called `name` and says what to do about it."""
    assert [finding.name for finding in findings] == [name], findings
    (finding,) = findings
    assert finding.cause
    assert finding.consequence
    assert finding.fix
    return finding


def line(finding: Finding) -> str:
    """The line of source that the finding points to."""
    assert finding.where is not None
    file, _, number = finding.where.split(",")[0].rpartition(":")
    return Path(file).read_text(encoding="utf-8").splitlines()[int(number) - 1].strip()


SUMMARISE = """
    pool = ThreadPoolExecutor(2)


    def summarise(text):
        return model.invoke(text)
"""
