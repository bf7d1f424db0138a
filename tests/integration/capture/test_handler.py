"""The handler hears what it is given, and a failure in it costs no call."""

from __future__ import annotations

from typing import Any

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import ProviderDown, Talker

model = Talker()


def test_never_started() -> None:
    """Its handler hears nothing, waits for nothing, and disturbs nobody."""
    sink = MemorySink()
    call_log = CallLog(sink=sink)
    assert model.invoke("hello", {"callbacks": [call_log.handler]}).content == "heard hello"
    with call_log.record(model="m") as call:
        call.set(response="x")
    assert call_log.flush(0.1) == 0
    assert call_log.close(60) == 0
    assert call_log.stats().started == 0
    assert not sink.records
    assert "not started" in repr(call_log)


def test_explicit_capture() -> None:
    """Only calls that are given the handler are recorded."""
    sink = MemorySink()
    with CallLog(sink=sink, capture="explicit") as call_log, bind(user_id="u", session_id="s"):
        model.invoke("unseen")
        model.invoke("seen", {"callbacks": [call_log.handler]})
        Talker(callbacks=[call_log.handler]).invoke("seen too")
        call_log.flush()
    assert [row.user_id for row in sink.records] == ["u", "u"]


@pytest.mark.parametrize("problem", [ValueError, RecursionError, MemoryError])
async def test_a_failure_inside_of_the_handler(problem: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in there is counted, and the call goes on."""
    from llmctx.capture import handler

    def broken(*_: object, **__: object) -> Any:
        raise problem

    for name in ("gather", "decide", "prompt_of_messages", "answer_of", "failure_of"):
        sink = MemorySink()
        before = diagnostics.counts["handler_failed"]
        with monkeypatch.context() as patch:
            patch.setattr(handler, name, broken)
            async with CallLog(sink=sink):
                assert (await model.ainvoke("hello")).content == "heard hello"
                assert model.invoke("hello").content == "heard hello"
                with pytest.raises(ProviderDown):
                    await model.ainvoke("[fail]")
        assert diagnostics.counts["handler_failed"] > before, name


async def test_an_end_that_cannot_be_read_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row without the answer is better than a call that stays open."""
    from llmctx.capture import handler

    def broken(*_: object, **__: object) -> Any:
        raise ValueError

    monkeypatch.setattr(handler, "answer_of", broken)
    monkeypatch.setattr(handler, "failure_of", broken)
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        await model.ainvoke("hello")
        with pytest.raises(ProviderDown):
            await model.ainvoke("[fail]")
        await call_log.aflush()
        assert [row.status for row in sink.records] == ["ok", "error"]
