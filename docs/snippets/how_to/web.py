from datetime import date
from typing import Annotated

from fastapi import Depends, FastAPI, Header, WebSocket
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from pydantic import BaseModel

from llmctx import amend, bind
from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware

model = FakeListChatModel(responses=["It is fine."])  # yours
call_log = CallLog()
app = FastAPI(lifespan=call_log.lifespan)
app.add_middleware(ContextMiddleware)  # no `identify`: the code further in says who it is


def user_of(token: str) -> str:
    return token.removeprefix("Bearer ")  # yours: jwt.decode(token, KEY, algorithms=["HS256"])["sub"]


def signed_in(authorization: Annotated[str, Header()]) -> str:
    user = user_of(authorization)
    amend(user_id=user)
    return user


class Question(BaseModel):
    text: str
    session_id: str


@app.post("/chat")
async def chat(question: Question, user: Annotated[str, Depends(signed_in)]):
    amend(session_id=question.session_id)  # after your own check that the session is this user's
    return {"answer": (await model.ainvoke(question.text)).text}


@app.websocket("/live")
async def live(socket: WebSocket, token: str):
    amend(user_id=user_of(token))
    await socket.accept()
    async for message in socket.iter_json():
        amend(session_id=message["session_id"])  # from here on
        await socket.send_text((await model.ainvoke(message["text"])).text)


async def digest():  # scheduler.add_job(digest, "cron", hour=3)
    with bind(user_id="job:digest", session_id=f"digest-{date.today()}"):
        return (await model.ainvoke("Sum up the day.")).text
