import queue
import threading
from contextlib import asynccontextmanager

from fastapi import FastAPI
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.graph import START, MessagesState, StateGraph

from llmctx.calllog import CallLog

call_log = CallLog()
model = FakeListChatModel(responses=["Drink some water, and rest."])  # or ChatOpenAI(model="gpt-4o-mini")


async def answer(state: MessagesState):
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile()

jobs: queue.Queue = queue.Queue()


def work():
    """Summarise conversations, one after another, in a thread of its own."""
    while (job := jobs.get()) is not None:
        model.invoke(f"Summarise: {job['text']}")
        jobs.task_done()


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with call_log:
        worker = threading.Thread(target=work)
        worker.start()
        yield
        jobs.put(None)
        worker.join()


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(question: str):
    state = await graph.ainvoke({"messages": [("user", question)]})
    text = state["messages"][-1].text
    jobs.put({"text": text})
    return {"answer": text}
