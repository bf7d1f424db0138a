from contextlib import asynccontextmanager

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from mcp.server.fastmcp import FastMCP

from llmctx.calllog import CallLog
from llmctx.identity.handover import read
from llmctx.middleware import ContextMiddleware

model = FakeListChatModel(responses=["Dear Ann, …"])  # yours
call_log = CallLog()
server = FastMCP("letters", stateless_http=True)


@server.tool()
async def draft_letter(text: str) -> str:
    """Draft a letter to the patient."""
    return (await model.ainvoke(f"Draft a letter: {text}")).text


async def who(conn):
    token = conn.headers.get("x-llmctx")
    return read(token) if token else None


app = server.streamable_http_app()
app.add_middleware(ContextMiddleware, identify=who)
serve = app.router.lifespan_context


@asynccontextmanager
async def lifespan(app):
    async with call_log, serve(app):
        yield


app.router.lifespan_context = lifespan
