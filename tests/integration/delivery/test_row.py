"""What cannot be read costs itself, and never the row."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.outputs import ChatResult

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery import row as recording
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Talker

model = Talker()


async def test_content_that_cannot_be_read_costs_the_texts_and_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says at least whose call it was, when, and how it ended."""

    def broken(**_: object) -> Any:
        raise ValueError

    monkeypatch.setattr(recording, "fields_of", broken)
    sink = MemorySink()
    async with CallLog(sink=sink):
        with bind(user_id="u", session_id="s"):
            await model.ainvoke("hello")
    (row,) = sink.records
    assert (row.user_id, row.status, row.model) == ("u", "ok", "talker")


class Mute(str):
    """Text of somebody's own kind, which fails whoever looks at it."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("not a word")

    def __len__(self) -> int:
        return -1


async def test_what_has_no_words_costs_itself_alone() -> None:
    """An error without them leaves the prompt; a model's name without them leaves the row."""
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        for odd in (Mute("x"), 10**5000):
            with call_log.record(model="m", prompt="how are you?", error_message=odd):
                pass
        await model.ainvoke("hello", {"metadata": {"ls_model_name": Mute("m")}})
        with bind(user_id="u"):
            await NamedMute().ainvoke("hello")
    assert [row.model for row in sink.records[:2]] == ["m", "m"]
    assert all("how are you?" in str(row.prompt_snapshot) for row in sink.records[:2])
    assert len(sink.records) == 4
    assert (sink.records[3].user_id, sink.records[3].status) == ("u", "ok")


class NamedMute(Talker):
    """Its name has no words."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop, **kwargs), "ls_model_name": Mute("m")}


class Uncountable(int):
    """A figure that fails whoever compares it."""

    def __le__(self, other: object) -> bool:
        raise RuntimeError("no figure")

    __ge__ = __lt__ = __gt__ = __le__


class Miscounting(Talker):
    """Its answer's usage cannot be read."""

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        result = await super()._agenerate(*args, **kwargs)
        result.generations[0].message.__dict__["usage_metadata"] = {"input_tokens": Uncountable(1)}
        return result


async def test_an_answer_that_cannot_be_read_costs_itself_alone() -> None:
    """The prompt stays, and so do the parameters."""
    sink = MemorySink()
    async with CallLog(sink=sink):
        await Miscounting().ainvoke("how are you?", tag="mine", temperature=0.5)
    (row,) = sink.records
    assert (row.status, row.model, row.response_snapshot) == ("ok", "talker", None)
    assert "how are you?" in str(row.prompt_snapshot)


@pytest.mark.parametrize("session", ["scope", "thread"])
async def test_the_thread_is_the_session_where_the_team_says_so(session: str) -> None:
    """Most applications use LangGraph's thread_id as their session: one setting fills the column. A known one stays."""
    sink = MemorySink()
    async with CallLog(sink=sink, session=session):
        with bind(user_id="u"):
            await model.ainvoke("hello", {"metadata": {"thread_id": "t-1"}})
        with bind(user_id="u", session_id="s"):
            await model.ainvoke("hello", {"metadata": {"thread_id": "t-2"}})
        await model.ainvoke("hello", {"metadata": {"thread_id": "t-unknown"}})
        await model.ainvoke("hello")
    filled, named, unknown, neither = sink.records
    is_thread = session == "thread"
    assert (filled.session_id, filled.identity_reason) == (("t-1", None) if is_thread else (None, "partial"))
    assert (named.user_id, named.session_id) == ("u", "s")
    assert (unknown.user_id, unknown.session_id) == (None, "t-unknown" if is_thread else None)
    assert (neither.user_id, neither.session_id) == (None, None)
