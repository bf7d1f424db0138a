"""The service: answers questions, and lets a worker summarise each conversation later."""

import os

from fastapi import FastAPI
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.graph import START, MessagesState, StateGraph
from redis import Redis
from rq import Queue

from llmctx import CallContext, hand_over
from llmctx.calllog import CallLog
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from llmctx.prometheus import metrics_app

model = FakeListChatModel(responses=["Drink some water, and rest."])  # yours
jobs = Queue(connection=Redis.from_url(os.environ["JOBS_URL"]))
call_log = CallLog()
app = FastAPI(lifespan=call_log.lifespan)
app.mount("/metrics", metrics_app(call_log))


async def who(conn):
    """Return whose request it is; your own authentication decides this."""
    user, _, visit = conn.headers.get("authorization", "").removeprefix("Bearer ").partition(":")
    return CallContext(user_id=user, session_id=visit or None) if user else None


app.add_middleware(ContextMiddleware, identify=who)


async def answer(state: MessagesState):
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = wrap_graph(builder).compile()


@app.get("/healthz")
async def healthy():
    return {"pid": os.getpid()}


@app.post("/chat")
async def chat(question: str):
    state = await graph.ainvoke({"messages": [("user", question)]})
    text = state["messages"][-1].text
    jobs.enqueue("jobs.summarise", text, identity=hand_over())
    return {"answer": text, "pid": os.getpid()}
