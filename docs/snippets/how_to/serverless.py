from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import bind
from llmctx.calllog import CallLog

model = FakeListChatModel(responses=["It is fine."])  # yours
call_log = CallLog(durability="memory").start()


def handler(event, context):
    with bind(user_id=event["user"], session_id=event["session"]):
        answer = model.invoke(event["question"]).text
    left = call_log.flush(3)  # seconds
    return {"answer": answer, "rows_not_stored": left}
