"""Calls that the application records by hand are rows like any others."""

from __future__ import annotations

import asyncio

import pytest

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.rows import rows_of
from tests.kit.support import ProviderDown, Talker

model = Talker()


def test_a_call_recorded_by_hand(any_database: str) -> None:
    """For vendor SDKs: the same row, with the identity of the scope."""
    with CallLog(any_database) as call_log, bind(user_id="u", session_id="s"):
        with call_log.record(model="gpt", prompt="hi", provider="acme", temperature=0.5) as call:
            call.set(response="hello", prompt_tokens=3, completion_tokens=1, total_tokens=4, finish_reason="stop")
        with call_log.record(model="gpt", identity=CallContext(user_id="nightly", session_id="r")):
            pass
        assert call_log.flush(30) == 0
    row, other = rows_of(any_database)
    assert (row.user_id, row.model, row.provider, row.total_tokens, row.usage_source) == (
        "u", "gpt", "acme", 4, "provider",
    )  # fmt: skip
    assert "hi" in row.prompt_snapshot
    assert "hello" in row.response_snapshot
    assert (other.user_id, other.identity_source) == ("nightly", "explicit")


@pytest.mark.parametrize(
    ("given", "total"), [({}, 7), ({"total_tokens": 9}, 9), ({"completion_tokens": None}, None)], ids=repr
)
def test_prompt_and_completion_make_the_total(given: dict[str, int | None], total: int | None) -> None:
    """Where none was named, as for LangChain's calls: pages and sums show it."""
    with CallLog(sink=(sink := MemorySink())) as call_log, call_log.record(model="m") as call:
        call.set(**{"prompt_tokens": 4, "completion_tokens": 3, **given})
    assert [row.total_tokens for row in sink.records] == [total]


async def test_errors_by_hand() -> None:
    """An exception in the block makes the row an error and passes; cancellation makes it cancelled."""
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        with pytest.raises(ProviderDown), call_log.record(model="m"):
            raise ProviderDown("broken")
        for gone in (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            with pytest.raises(gone), call_log.record(model="m"):
                raise gone
        kept = call_log.record(model="never left").__enter__()
    assert [row.status for row in sink.records] == ["error", *["cancelled"] * 3, "abandoned"]
    assert (sink.records[0].error_code, sink.records[0].error_message) == ("ProviderDown", "broken")
    kept.__exit__(None, None, None)
    assert len(sink.records) == 5


@pytest.mark.parametrize("name", ["usre_id", "user_id", "session_id", "call_id", "run_id", "prompt_snapshot", "status"])
def test_a_name_that_cannot_be_set_is_refused_at_once(name: str) -> None:
    """A typing error is a TypeError, and nobody's identity is set like a column."""
    call_log = CallLog(sink=MemorySink())
    with pytest.raises(TypeError, match=name):
        call_log.record(model="m", **{name: "x"})


def test_content_none_keeps_texts_out() -> None:
    """Also of calls that are recorded by hand."""
    sink = MemorySink()
    with CallLog(sink=sink, content="none") as call_log:
        model.invoke("secret")
        with call_log.record(model="m", prompt="secret") as call:
            call.set(response="secret", reasoning="secret")
    assert len(sink.records) == 2
    assert "secret" not in repr(sink.records)
