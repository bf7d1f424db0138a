"""Locks that a failure cannot leave closed for ever."""

from __future__ import annotations

import threading

from llmctx.core.diagnostics import diagnostics
from llmctx.core.locks import ForkGate, ForkLock, RecoverableLock


def in_another_thread(work: threading.Thread) -> None:
    work.start()
    work.join(60)
    assert not work.is_alive()


def test_a_lock_that_was_never_released_is_replaced() -> None:
    """Its owner is gone: after the deadline there is a new one, and it is counted."""
    lock = RecoverableLock(lost_s=0.01)
    in_another_thread(threading.Thread(target=lock.__enter__))
    before = diagnostics.counts["lock_lost"]
    with lock, lock:
        assert diagnostics.counts["lock_lost"] == before + 1
    in_another_thread(threading.Thread(target=lambda: lock.__enter__() or lock.__exit__()))
    assert diagnostics.counts["lock_lost"] == before + 1


def test_a_child_does_not_inherit_who_held_a_lock() -> None:
    """The thread that held it is not there any more; what it would release then is nobody's."""
    lock = ForkLock()
    in_another_thread(threading.Thread(target=lock.acquire))
    assert not lock.acquire(timeout=0)
    lock.reset()
    with lock, lock:
        pass
    lock.release()


def test_a_fork_that_waits_comes_before_the_next_piece_of_work() -> None:
    """The gate is entered in the order fork, work, whoever asked first."""
    gate = ForkGate()
    order: list[str] = []
    asked = threading.Event()

    def fork() -> None:
        asked.set()
        assert gate.acquire(10)
        order.append("fork")
        gate.release()

    thread = threading.Thread(target=fork)
    with gate:
        thread.start()
        assert asked.wait(60)
        while not gate._wanted:
            assert thread.is_alive()
    with gate:
        order.append("work")
    thread.join()
    assert order == ["fork", "work"]
