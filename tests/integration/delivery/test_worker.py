"""The pipeline's thread at its begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmctx.calllog import CallLog
from llmctx.core import scheduling
from llmctx.core.diagnostics import diagnostics
from llmctx.core.threads import PIPELINE
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Talker

HURRIED = """
import asyncio, os, sys, threading, time
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1])
call_log.start()
if (child := os.fork()):
    os.waitpid(child, 0)
    os._exit(0)

class SlowRunner(asyncio.Runner):
    def __init__(self, **kwargs):
        if threading.current_thread().name == "llmctx-pipeline":
            time.sleep(3)
        super().__init__(**kwargs)

with bind(user_id="u", session_id="s"):
    whole, asyncio.Runner = asyncio.Runner, SlowRunner
    FakeListChatModel(responses=["yes"]).invoke("hello")
END
os._exit(0)
"""

STARVED = """
import asyncio, os, sys, time
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from llmctx import bind
from llmctx.calllog import CallLog

whole = asyncio.Runner
call_log = CallLog(sys.argv[1], shutdown_timeout_s=0.1, redact_functions=[lambda text: time.sleep(0.2) or text])
call_log.start()
with bind(user_id="u", session_id="s"):
    for _ in range(6):
        FakeListChatModel(responses=["yes"]).invoke("hello")
END
os._exit(0)
"""
"""A pipeline that takes seconds for a few calls, as on a machine that is very busy."""

ENDS = {"closed": "call_log.close(0.1)", "awaited": "whole().run(call_log.aclose(0.1))"}


@pytest.mark.parametrize(("script", "calls"), [(HURRIED, 1), (STARVED, 6)], ids=["before it begins", "starved"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_process_that_ends_before_its_thread_is_done_loses_nothing(
    end: str, script: str, calls: int, tmp_path: Path
) -> None:
    """What has not come into the table is in the journal, and the next process writes it."""
    url = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    CallLog(url).migrate()
    subprocess.run([sys.executable, "-c", script.replace("END", end), url], check=True, timeout=120)
    subprocess.run([sys.executable, "-m", "llmctx", "--database-url", url, "journal", "replay", "--yes"], timeout=120)
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as database:
        rows = database.execute("SELECT user_id, session_id, status FROM biz_agent_llm_call_logs").fetchall()
    assert rows == [("u", "s", "ok")] * calls


async def test_a_flush_waits_for_a_thread_that_begins_without_holding_up_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as its caller lets it."""
    whole, may_begin, attempts = asyncio.Runner, threading.Event(), []

    class SlowRunner(whole):  # type: ignore[misc, valid-type]  # the first one fails, so that `start` does not wait
        def __init__(self, **kwargs: Any) -> None:
            if threading.current_thread().name == PIPELINE:
                attempts.append(1)
                if len(attempts) == 1:
                    raise RuntimeError("no loop can be had")
                assert may_begin.wait(60)
            super().__init__(**kwargs)

    monkeypatch.setattr(asyncio, "Runner", SlowRunner)
    sink = MemorySink()
    with CallLog(sink=sink) as call_log:
        Talker().invoke("hello")
        flushes = [asyncio.create_task(flush) for flush in (call_log.aflush(60), asyncio.to_thread(call_log.flush, 60))]
        await asyncio.sleep(0)  # both have begun
        assert await call_log.aflush(0) == 1
        assert not any(flush.done() for flush in flushes)
        may_begin.set()
        assert await asyncio.gather(*flushes) == [0, 0]
    assert len(sink.records) == 1


def test_a_system_that_refuses_to_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does with libfaketime, once the clock was set: the thread goes on without."""
    whole, refused = time.sleep, threading.Event()

    def refuse(seconds: float) -> None:
        if threading.current_thread().name != PIPELINE:
            return whole(seconds)
        refused.set()
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(scheduling.time, "sleep", refuse)
    sink = MemorySink()
    diagnostics.reset()
    with CallLog(sink=sink) as call_log:
        while not refused.is_set():
            Talker().invoke("hello")
        assert call_log.flush(60) == 0
        assert call_log.stats().started == len(sink.records)
    assert diagnostics.counts["pipeline_died"] == 0
