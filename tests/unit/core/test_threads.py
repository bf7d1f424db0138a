"""Threads that cannot begin: whoever starts them goes on."""

from __future__ import annotations

import threading
import time

import pytest

from llmctx.core import threads


def test_a_thread_that_dies_before_it_runs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is room for a thread, and no memory for its first steps; it must not run when given up."""
    may_begin, has_run = threading.Event(), threading.Event()
    bootstrap = threads._Thread._bootstrap  # type: ignore[attr-defined]  # Python's own

    def held_up(thread: threading.Thread) -> None:
        may_begin.wait(60)
        bootstrap(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threads, "_START_S", 0.01)
        patched.setattr(threads._Thread, "_bootstrap", held_up)
        thread = threads.daemon_thread(has_run.set, name="late")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            thread.start()
        may_begin.set()
        deadline = time.monotonic() + 60
        while not thread._started.is_set() or thread.is_alive():  # type: ignore[union-attr]  # until it has ended
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert not has_run.is_set()
    following = threads.daemon_thread(has_run.set, name="following")
    following.start()
    following.join(60)
    assert has_run.is_set()
