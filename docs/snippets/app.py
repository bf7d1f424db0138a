from fastapi import FastAPI
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware

call_log = CallLog()  # 1: LLMCTX_DATABASE_URL, or CallLog("postgresql+asyncpg://…")
app = FastAPI(lifespan=call_log.lifespan)


async def who(conn):
    """Return whose request it is, from whatever authenticates your users; None for an anonymous request."""
    token = conn.headers.get("authorization", "").removeprefix("Bearer ")
    user, _, visit = token.partition(":")
    return CallContext(user_id=user, session_id=visit or None) if user else None


app.add_middleware(ContextMiddleware, identify=who)  # 2

model = ChatOpenAI(model="gpt-4o-mini")


async def answer(state: MessagesState):
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = wrap_graph(builder).compile()  # 3


@app.post("/chat")
async def chat(question: str):
    state = await graph.ainvoke({"messages": [("user", question)]})
    return {"answer": state["messages"][-1].text}
