"""With `carry=True` threads and pools take the scope along; without it nothing is touched."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.propagation import threads as carrying
from tests.kit.carried import A, B, call, owners


def run_in_thread(user: str) -> None:
    thread = threading.Thread(target=call, args=(user,))
    thread.start()
    thread.join()


def test_a_bare_thread_carries_the_scope(call_log: CallLog, sink: MemorySink) -> None:
    """Nothing is handed on, and still the call is its request's; a thread of nobody's is nobody's."""
    for who in (A, B):
        with bind(who):
            run_in_thread(str(who.user_id))
    run_in_thread("nobody")
    assert owners(call_log, sink) == [("a", "a"), ("b", "b"), ("nobody", None)]


def test_a_pooled_thread_works_for_whoever_submits(call_log: CallLog, sink: MemorySink) -> None:
    """The thread was started by A's first job; it keeps nothing of it."""
    with ThreadPoolExecutor(1) as pool:
        for who in (A, B, CallContext()):
            with bind(who):
                pool.submit(call, who.user_id or "nobody").result()
        pool.submit(call, "later").result()
    assert owners(call_log, sink) == [("a", "a"), ("b", "b"), ("later", None), ("nobody", None)]


def test_it_is_undone_when_the_last_call_log_closes(sink: MemorySink) -> None:
    """The standard library is as it was; installing twice is installing once."""
    before = (threading.Thread.start, ThreadPoolExecutor.submit, queue.Queue._put, asyncio.Queue._get)  # type: ignore[attr-defined]
    one, two = CallLog(sink=sink, carry=True), CallLog(sink=sink, carry=True)
    with one:
        with two, one:
            assert carrying.is_installed()
        assert carrying.is_installed()
    assert not carrying.is_installed()
    after = (threading.Thread.start, ThreadPoolExecutor.submit, queue.Queue._put, asyncio.Queue._get)  # type: ignore[attr-defined]
    assert after == before


def test_without_it_nothing_is_touched(sink: MemorySink) -> None:
    """Off by default: a bare thread is nobody's, never somebody else's."""
    with CallLog(sink=sink) as call_log:
        with bind(A):
            run_in_thread("a")
        assert owners(call_log, sink) == [("a", None)]
