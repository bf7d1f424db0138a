from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import take_over
from llmctx.calllog import CallLog

model = FakeListChatModel(responses=["It is fine."])  # yours


def summarise(text, identity):
    with CallLog(), take_over(identity):  # RQ forks a process for each job: it starts, and flushes, its own
        return model.invoke(text).text
