"""Handlers that run inline cost no other handler its events (langchain#39633)."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler

from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Completer, Talker


class Listener(AsyncCallbackHandler):
    """The application's own handler, which is not inline."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def on_llm_start(self, serialized: Any, prompts: list[str], **kwargs: Any) -> None:
        self.heard += prompts

    async def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.heard.append(messages[0][0].content)


@pytest.mark.parametrize("method", ["ainvoke", "abatch", "astream"])
@pytest.mark.parametrize("model", [Completer(), Talker()], ids=["completion", "chat"])
async def test_every_handler_hears_every_start(model: Any, method: str) -> None:
    """The application's, and ours: one row for each call."""
    listener, sink = Listener(), MemorySink()
    config: Any = {"callbacks": [listener]}
    async with CallLog(sink=sink) as call_log:
        if method == "astream":
            assert [chunk async for chunk in model.astream("one", config)]
        elif method == "abatch":
            await model.abatch(["one", "two"], config)
        else:
            await model.ainvoke("one", config)
        assert await call_log.aflush(60) == 0
    assert sorted(listener.heard) == (["one", "two"] if method == "abatch" else ["one"])
    assert len(sink.records) == len(listener.heard)
