"""How a call was made, read off the stack: where LangChain's methods usually stand, and where they do not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig, RunnableLambda

from llmctx.capture import callstack as stack
from llmctx.capture.callstack import Origin, origin

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t-1"}}


class Looking(BaseCallbackHandler):
    """Reads the stack at each start: as the handler does, and by a search."""

    run_inline = True

    def __init__(self) -> None:
        self.found: list[tuple[Origin, Origin]] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.found.append((origin(1), stack._searched(sys._getframe(1))))


class Vendors(FakeListChatModel):
    """With a method of its own around LangChain's."""

    async def agenerate(self, *args: Any, **kwargs: Any) -> Any:
        return await super().agenerate(*args, **kwargs)

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from super()._stream(messages, *args, **kwargs)


async def _ways(model: FakeListChatModel, config: RunnableConfig) -> None:
    model.invoke("hi", config)
    await model.ainvoke("hi", config)
    for _ in model.stream("hi", config):
        pass
    async for _ in model.astream("hi", config):
        pass
    await RunnableLambda(model.ainvoke).ainvoke("hi", config)
    model.batch(["hi"], [config])


@pytest.mark.parametrize("kind", [FakeListChatModel, Vendors])
async def test_the_short_way_finds_what_a_search_finds(kind: type[FakeListChatModel]) -> None:
    looking = Looking()
    await _ways(kind(responses=["hello"]), {**CONFIG, "callbacks": [looking]})
    assert [short.method for short, _ in looking.found] == [
        *("generate", "agenerate", "stream", "astream", "agenerate", "generate")
    ]
    for short, searched in looking.found:
        assert short.method == searched.method
        assert short.config is not None
        assert searched.config is not None
        assert short.config["configurable"] == searched.config["configurable"] == CONFIG["configurable"]


async def test_nearly_every_call_goes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise LangChain has changed, and each call costs some microseconds more than it need."""
    looking = Looking()
    searched: list[object] = []
    search = stack._searched
    monkeypatch.setattr(stack, "_searched", lambda frame: (searched.append(frame), search(frame))[1])
    await _ways(FakeListChatModel(responses=["hello"]), {**CONFIG, "callbacks": [looking]})
    assert len(looking.found) == 6
    assert len(searched) == 6  # all of them by `Looking` itself
