"""What the worker does."""

from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import take_over
from llmctx.calllog import CallLog

model = FakeListChatModel(responses=["The patient was told to rest."])  # yours


def summarise(text: str, identity: str) -> str:
    with CallLog(), take_over(identity):  # RQ forks a process for each job: it starts, and flushes, its own
        return model.invoke(f"Summarise: {text}").text
