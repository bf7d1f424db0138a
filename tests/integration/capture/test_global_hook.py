"""Every call log hears every call of its process, as long as it runs."""

from __future__ import annotations

import threading

from llmctx import CallContext, current
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Talker

model = Talker()


def test_two_call_logs_in_one_process() -> None:
    """Each has its own row of every call; one that ends takes nothing from the other."""
    one, other = MemorySink(), MemorySink()
    with CallLog(sink=one):
        with CallLog(sink=other):
            model.invoke("hello")
        model.invoke("hello again")
    assert (len(one.records), len(other.records)) == (2, 1)
    assert not {row.call_id for row in one.records} & {row.call_id for row in other.records}


def test_many_call_logs_one_after_the_other() -> None:
    """Their hooks in langchain-core are used again: the process does not slow down with each."""
    from langchain_core.tracers import context

    before = len(context._configure_hooks)
    for _ in range(10):
        sink = MemorySink()
        with CallLog(sink=sink):
            model.invoke("hello")
        assert len(sink.records) == 1
    assert len(context._configure_hooks) <= before + 1


def test_nothing_is_left_of_a_call_log() -> None:
    """After close: no thread, no scope, no handler that hears."""
    before = {thread.name for thread in threading.enumerate()}
    with CallLog(sink=MemorySink()):
        model.invoke("hello")
    assert {thread.name for thread in threading.enumerate()} == before
    assert current() == CallContext()
