from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware

model = FakeListChatModel(responses=["Drink some water."])  # yours
call_log = CallLog()
app = FastAPI(lifespan=call_log.lifespan)
app.add_middleware(
    ContextMiddleware, identify=lambda conn: CallContext(user_id=conn.headers.get("x-user"), session_id="v-1")
)


@app.get("/stream")
async def stream(question: str):
    async def body():
        async for chunk in model.astream(question):
            yield chunk.text

    return StreamingResponse(body(), media_type="text/plain")
