"""The application with llmctx in it: three lines, whichever way its table was adopted.

uvicorn app:app
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.requests import HTTPConnection

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware

call_log = CallLog(os.environ["DATABASE_URL"])
app = FastAPI(lifespan=call_log.lifespan)


async def who(conn: HTTPConnection) -> CallContext:
    return CallContext(user_id=conn.headers["x-patient"], session_id=conn.headers["x-visit"])


app.add_middleware(ContextMiddleware, identify=who)


@app.post("/ask")
def ask(question: str) -> dict[str, str]:
    with call_log.record(model="gpt-4o-mini", prompt=question) as call:  # or any LangChain model
        call.set(response="Rest, and drink enough.")
    return {"answer": "Rest, and drink enough."}
