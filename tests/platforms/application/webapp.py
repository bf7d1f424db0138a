"""The custom app: `http.app` of langgraph.json."""

import os
from collections.abc import Mapping
from typing import Any

from agent import model, wrapped
from fastapi import FastAPI

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware

call_log = CallLog()
app = FastAPI(lifespan=call_log.lifespan)


def who(connection: Any) -> CallContext | None:
    user = connection.headers.get("x-user")
    return CallContext(user_id=user, session_id=connection.headers.get("x-session")) if user else None


app.add_middleware(ContextMiddleware, identify=who)


@app.get("/quick")
async def quick(question: str) -> Mapping[str, Any]:
    return {"answer": (await model.ainvoke(question)).text, "process": os.getpid()}


@app.get("/graph")
async def graph(question: str) -> Mapping[str, Any]:
    return {"answer": (await wrapped.ainvoke({"messages": [("user", question)]}))["messages"][-1].text}


@app.get("/thread")
def thread(question: str) -> Mapping[str, Any]:
    return {"answer": model.invoke(question).text}


@app.get("/process")
async def process() -> Mapping[str, Any]:
    return {"process": os.getpid()}
