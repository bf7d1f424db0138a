"""Every failure is counted; one line a minute and cause reaches the log."""

from __future__ import annotations

import asyncio
import logging

import pytest

from llmctx.core.diagnostics import Diagnostics


def test_a_cause_is_logged_once_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """Another cause has a line of its own; after a reset it begins anew."""
    kept = Diagnostics()
    with caplog.at_level(logging.WARNING, "llmctx"):
        for number in range(3):
            kept.count("a", "broke at %s", number, exc=ValueError("why") if number == 0 else None)
        kept.count("b", "100 %")
        assert [record.getMessage().splitlines()[0] for record in caplog.records] == [
            "llmctx: broke at 0",
            "llmctx: 100 %",
        ]
        assert "ValueError: why" in caplog.records[0].getMessage()
        assert kept.by_cause() == {"a": 3, "b": 1}
        kept.reset()
        kept.count("a", "again")
    assert caplog.records[-1].getMessage() == "llmctx: again"
    assert kept.by_cause() == {"a": 1}


def test_a_line_is_redacted_and_a_broken_log_handler_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Neither raises."""
    kept = Diagnostics()
    kept.redact = lambda line: line.replace("sk-1", "[gone]")
    with caplog.at_level(logging.WARNING, "llmctx"):
        kept.count("a", "key sk-1")
        assert caplog.records[-1].getMessage() == "llmctx: key [gone]"
        kept.redact = lambda line: line[99]
        kept.count("b", "short")
    assert kept.counts["log_failed"] == 1


async def test_a_failure_that_only_the_loop_sees_is_counted() -> None:
    """By `loop.set_exception_handler`."""
    kept = Diagnostics()
    asyncio.get_running_loop().set_exception_handler(kept.count_loop_failure)
    asyncio.get_running_loop().call_soon(lambda: 1 // 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert kept.counts["loop_failed"] == 1
