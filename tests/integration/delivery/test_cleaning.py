"""Whatever is cut or replaced on the way from a call to its row, the row says so; and two dirty ids stay two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.storage.sanitize import clean

SINK = MemorySink()
LONG = "x" * 100_000


@pytest.fixture(scope="module")
def call_log() -> Iterator[CallLog]:
    with CallLog(sink=SINK, linger_ms=0, content="full", snapshot_bytes=4096) as started:
        yield started


def cleaned(call_log: CallLog) -> tuple[set[str], CallRecord]:
    """The columns of the one row of which it says that they were cleaned."""
    assert call_log.flush(60) == 0
    (row,), SINK.records = SINK.records, []
    row = clean(row)
    return set((row.attributes or {}).get("llmctx_cleaned", ())), row


class Model(FakeListChatModel):
    """A model whose answer, metadata and parameters are what a test says."""

    message: Any = None
    given: dict[str, Any] = {}  # noqa: RUF012  a field of pydantic's

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.message or AIMessage("x"))])

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.given

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": "fake", "ls_model_type": "chat", **self.given.get("ls", {})}


def meta(**more: Any) -> AIMessage:
    return AIMessage("x", response_metadata=more)


@pytest.mark.parametrize(
    ("message", "given", "prompt", "config", "columns"),
    [
        (None, {}, "x", {}, set()),
        (None, {}, "x\0", {}, {"prompt_snapshot"}),
        (None, {}, "x\ud800", {}, {"prompt_snapshot"}),
        (None, {}, LONG, {}, {"prompt_snapshot"}),
        (None, {}, [HumanMessage(str(n) * 200) for n in range(200)], {}, {"prompt_snapshot"}),
        (None, {}, [HumanMessage([{"type": "text", "text": "x", "n": math.nan}])], {}, {"prompt_snapshot"}),
        (None, {}, [HumanMessage([{"deep": [[[[[[[[[[[[[[[[["x"]]]]]]]]]]]]]]]]]}])], {}, {"prompt_snapshot"}),
        (None, {}, [HumanMessage([{f"k{n}": n for n in range(2000)}])], {}, {"prompt_snapshot"}),
        (AIMessage("x\0"), {}, "x", {}, {"response_snapshot"}),
        (AIMessage(LONG), {}, "x", {}, {"response_snapshot"}),
        (AIMessage("x", additional_kwargs={"reasoning_content": LONG}), {}, "x", {}, {"reasoning_snapshot"}),
        (meta(finish_reason="stop\0"), {}, "x", {}, {"finish_reason"}),
        (meta(finish_reason=LONG), {}, "x", {}, {"finish_reason"}),
        (meta(model_name="m\ud800"), {}, "x", {}, {"model", "response_model"}),
        (meta(id=LONG), {}, "x", {}, {"response_id"}),
        (meta(service_tier="a\0b"), {}, "x", {}, {"service_tier"}),
        (None, {"temperature": math.inf}, "x", {}, {"temperature"}),
        (None, {"temperature": "hot", "max_tokens": -1}, "x", {}, {"temperature", "max_tokens"}),
        (None, {"top_p": 1e99}, "x", {}, {"top_p"}),
        (None, {"ls": {"ls_provider": "p\0"}}, "x", {}, {"provider"}),
        (None, {"ls": {"ls_model_name": "m\0"}}, "x", {}, {"model"}),
        (None, {}, "x", {"tags": ["t\0"]}, {"attributes"}),
        (None, {}, "x", {"tags": [LONG]}, {"attributes"}),
        (None, {}, "x", {"tags": [str(n) for n in range(40)]}, {"attributes"}),
        (None, {}, "x", {"metadata": {"langgraph_node": "n\0"}}, {"node", "agent_key"}),
        (None, {}, "x", {"metadata": {"langgraph_node": LONG}}, {"node", "agent_key"}),
        (None, {}, "x", {"metadata": {"thread_id": "t\n1"}}, {"thread_id"}),
        (AIMessage("x", usage_metadata={"input_tokens": -3, "output_tokens": 2**40, "total_tokens": 5}), {}, "x", {},
         {"prompt_tokens", "completion_tokens"}),
    ],
)  # fmt: skip
def test_what_langchain_reports(
    message: Any, given: Any, prompt: Any, config: Any, columns: set[str], call_log: CallLog
) -> None:
    """Each column, each way in which it may not fit."""
    with bind(user_id="u", session_id="s"):
        Model(responses=["x"], message=message, given=given).invoke(prompt, config)
    assert cleaned(call_log)[0] == columns


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({"error_code": "e\0"}, {"error_code"}),
        ({"error_message": "e\ud800"}, {"error_message"}),
        ({"error_message": LONG}, {"error_message"}),
        ({"attributes": {"a": math.nan}}, {"attributes"}),
        ({"attributes": {"a": object()}}, {"attributes"}),
        ({"attributes": {"a": [LONG, LONG]}}, {"attributes"}),
        ({"response": LONG}, {"response_snapshot"}),
        ({"response": "x\0"}, {"response_snapshot"}),
        ({"reasoning": "x\0"}, {"reasoning_snapshot"}),
        ({"prompt_tokens": 2**40, "temperature": "hot"}, {"prompt_tokens", "temperature"}),
    ],
)
def test_what_is_recorded_by_hand(fields: dict[str, Any], columns: set[str], call_log: CallLog) -> None:
    """The same, with the redaction that is on by default."""
    with bind(user_id="u", session_id="s"), call_log.record(model="m", **fields):
        pass
    assert cleaned(call_log)[0] == columns


@pytest.mark.parametrize("attributes", [{"a": object()}, {"a": math.nan}, {"a": LONG}])
def test_what_the_team_binds(attributes: dict[str, Any], call_log: CallLog) -> None:
    """Attributes of a scope."""
    with bind(user_id="u", session_id="s", attributes=attributes):
        Model(responses=["x"]).invoke("x")
    assert cleaned(call_log)[0] == {"attributes"}


def test_the_error_of_a_call(call_log: CallLog) -> None:
    """Its words may be anything."""
    for text in (LONG, "\0"):
        with bind(user_id="u", session_id="s"), pytest.raises(ValueError, match=text[:9]), call_log.record(model="m"):
            raise ValueError(text)
        assert cleaned(call_log)[0] == {"error_message"}


@pytest.mark.parametrize("ends", [("\0", "\0\0"), (LONG + "a", LONG + "b"), ("\ud800", "\ud801"), ("\0", "\ufffd")])
@pytest.mark.parametrize(
    "name", ["user_id", "session_id", "conversation_id", "agent_key", "trace_id", "langgraph_node"]
)
def test_two_dirty_ids_stay_two(name: str, ends: tuple[str, str], call_log: CallLog) -> None:
    """They end with a mark of the whole, and the row says that they were cleaned."""
    column = "agent_key" if name == "langgraph_node" else name
    stored = set()
    for end in ends:
        ids = {"user_id": "u", "session_id": "s"} | ({} if name == "langgraph_node" else {name: f"id-{end}"})
        with bind(**ids):
            Model(responses=["x"]).invoke("x", {"metadata": {name: f"id-{end}"} if name == "langgraph_node" else {}})
        columns, row = cleaned(call_log)
        stored.add(getattr(row, column))
        assert column in columns or end == "\ufffd"
    assert len(stored) == 2
