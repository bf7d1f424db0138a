import httpx
from fastapi import FastAPI
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import hand_over
from llmctx.identity.handover import read
from llmctx.middleware import ContextMiddleware

model = FakeListChatModel(responses=["It is fine."])  # yours
inner = FastAPI()


async def who(conn):
    """Return the identity that another service of ours has signed."""
    token = conn.headers.get("x-llmctx")
    return read(token) if token else None


inner.add_middleware(ContextMiddleware, identify=who)


@inner.post("/summaries")
async def summarise(text: str):
    return {"summary": (await model.ainvoke(text)).text}


async def ask(client: httpx.AsyncClient, text: str):
    """Call the inner service, in a request of the outer one."""
    return await client.post("/summaries", params={"text": text}, headers={"x-llmctx": hand_over(ttl_s=60)})
