"""Any step of the start that fails once is taken again; children of a fork end when the application ends them."""

from __future__ import annotations

import asyncio.events
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import ROOT
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until


class Once:
    """Raises when it is called for the first time in which `when` is true; then it is what it stands for."""

    def __init__(self, real: Any, problem: BaseException, when: Any = lambda *args, **how: True) -> None:
        self.real, self.problem, self.when, self.raised = real, problem, when, False

    def __call__(self, *args: Any, **how: Any) -> Any:
        if not self.raised and self.when(*args, **how):
            self.raised = True
            raise self.problem
        return self.real(*args, **how)


def _is_called(name: str) -> Any:
    return lambda path, *args, **how: str(path).startswith(name)


def _is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("llmctx")


STEPS: dict[str, tuple[Any, str, BaseException, Any]] = {
    "a thread": (threading.Thread, "start", RuntimeError("can't start new thread"), _is_ours),
    "a loop": (asyncio.events, "new_event_loop", OSError(24, "Too many open files"), lambda: True),
    "a folder": (os, "mkdir", OSError(28, "No space left on device"), lambda *args, **how: True),
    "a file": (
        os,
        "open",
        OSError(5, "Input/output error"),
        lambda path, *args, **how: str(path).startswith("records"),
    ),
    "markers": (os, "open", MemoryError(), _is_called("starts")),
    "a lock": (os, "open", OSError(24, "Too many open files"), _is_called("lock")),
    "a rename": (os, "rename", OSError(5, "Input/output error"), lambda *args, **how: True),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_start_that_fails_once_is_taken_again(
    step: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows flow, the ledger adds up, and nothing is left open or half made."""
    migrate.upgrade(load(database_url=sqlite_url))
    owner, name, problem, when = STEPS[step]
    once = Once(getattr(owner, name), problem, when)
    # a function, so that it is a method where it has to be
    monkeypatch.setattr(owner, name, lambda *args, **how: once(*args, **how))
    diagnostics.reset()
    with CallLog(sqlite_url, linger_ms=0) as call_log:
        Talker().invoke("first")
        assert once.raised
        assert call_log.flush(60) == 0
        Talker().invoke("second")
        wait_until(
            lambda: call_log._worker.sink is not None and call_log._worker.sink._journal is not None, "a journal"
        )
        assert call_log.flush(60) == 0
        stats = call_log.stats()
        assert (stats.started, stats.written, stats.balanced) == (2, 2, True)
    assert len(rows_of(sqlite_url)) == 2
    assert [path.name for path in Path(os.environ["LLMCTX_JOURNAL_DIR"]).glob("*/*") if path.name != "quarantine"] == []


def test_a_hook_that_cannot_be_installed_is_installed_later(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it no call would ever be heard."""
    from llmctx import calllog

    migrate.upgrade(load(database_url=sqlite_url))
    monkeypatch.setattr(calllog, "install", once := Once(calllog.install, MemoryError()))
    with CallLog(sqlite_url) as call_log:
        assert once.raised
        wait_until(lambda: not call_log._not_begun, "the rest of the start")
        Talker().invoke("hello")
        assert call_log.flush(60) == 0
    assert len(rows_of(sqlite_url)) == 1


def test_no_thread_at_all(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What was recorded is in the journal when it is closed, and the log does not claim that a thread was started."""
    migrate.upgrade(load(database_url=sqlite_url))
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if _is_ours(self):
            raise RuntimeError("can't start new thread")
        real(self)

    diagnostics.reset()
    with monkeypatch.context() as no_threads:
        no_threads.setattr(threading.Thread, "start", start)
        with CallLog(sqlite_url, shutdown_timeout_s=0.5):
            for _ in range(3):
                Talker().invoke("hello")
        assert "thread cannot be started" in caplog.text
        assert "was restarted" not in caplog.text
    with CallLog(sqlite_url) as after:
        wait_until(lambda: after.stats().adopted == 3, "the adoption")
    assert {row.status for row in rows_of(sqlite_url)} == {"ok"}


# -- children ---------------------------------------------------------------------------------------------------------


CHILDREN = """
import os, sys, threading, _thread, multiprocessing, time
from tests.kit.support import Talker
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1]).start()
with bind(user_id="parent"):
    Talker().invoke("hello")
call_log.flush(60)

def call():
    with bind(user_id="child"):
        Talker().invoke("hello")

how = sys.argv[2]
pids = []

def fork(end):
    pid = os.fork()
    if pid:
        pids.append(pid)
        return
    call()
    end()

def in_a_thread(end):
    thread = threading.Thread(target=fork, args=(end,))
    thread.start()
    thread.join()

def nothing(): pass
def raising(): raise ValueError("the application's own")

if how == "returns": in_a_thread(nothing)
elif how == "leaves": in_a_thread(sys.exit)
elif how == "raises": in_a_thread(raising)
elif how == "bare":
    _thread.start_new_thread(fork, (nothing,))
    while not pids: time.sleep(0.01)
elif how == "grandchild":
    def again():
        pid = os.fork()
        if not pid:
            call()
        else:
            os.waitpid(pid, 0)
    in_a_thread(again)
elif how == "main":
    fork(lambda: sys.exit(0))
elif how == "multiprocessing":
    def work():
        process = multiprocessing.get_context("fork").Process(target=call)
        process.start()
        process.join(30)
        assert process.exitcode == 0, process.exitcode
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
for pid in pids:
    deadline = time.monotonic() + 40
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            sys.exit("a child did not end")
        time.sleep(0.02)
call_log.close()
"""


@pytest.mark.parametrize("how", ["returns", "bare", "main", "multiprocessing"])
def test_a_child_ends_when_the_application_ends_it(how: str, sqlite_url: str) -> None:
    """Wherever it was forked: with its last thread, and its calls have rows."""
    migrate.upgrade(load(database_url=sqlite_url))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILDREN), sqlite_url, how],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(sqlite_url.partition("///")[2]) as connection:
        users = [user for (user,) in connection.execute("SELECT user_id FROM biz_agent_llm_call_logs ORDER BY 1")]
    assert users == ["child"] * (2 if how == "grandchild" else 1) + ["parent"]
