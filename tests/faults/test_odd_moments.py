"""What else happens to a process: reports out of order, signals, clocks that jump, threads that outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.capture.open_calls import OpenCalls
from llmctx.delivery.memory_sink import MemorySink
from tests.conftest import ROOT
from tests.faults.kit import MODEL
from tests.kit.rows import rows_of
from tests.kit.support import Talker, kept_by, wait_until

RESULT = LLMResult(generations=[[ChatGeneration(message=AIMessage("heard"))]])


# -- reports --------------------------------------------------------------------------------------------------------


def _report(call_log: CallLog, rng: random.Random, run_ids: list[UUID]) -> bool:
    """One report of LangChain's, of any run. Returns whether it was a start."""
    handler = call_log.handler
    run_id, parent = rng.choice(run_ids), rng.choice(run_ids)
    told: dict[str, Any] = {"run_id": run_id, "parent_run_id": parent}
    lot = rng.randrange(8)
    if lot < 3:
        handler.on_chat_model_start({}, [[HumanMessage("hello")]], invocation_params={"model": "m"}, **told)
    elif lot == 3:
        handler.on_llm_new_token("x", chunk=ChatGenerationChunk(message=AIMessageChunk("x")), **told)
    elif lot == 4:
        handler.on_llm_end(RESULT, **told)
    elif lot == 5:
        handler.on_llm_error(ValueError("broken"), **told)
    elif lot == 6:
        handler.on_llm_error(asyncio.CancelledError(), **told)
    else:
        handler.on_chain_error(ValueError("broken"), **told)
    return lot < 3


def _swept(open_calls: OpenCalls) -> list[str]:
    """What is left in the tables when everything that is open has been given up."""
    for _ in range(3):  # the second one mends what was cut short, the third sees that there is nothing left
        open_calls.sweep(0.0)
    return kept_by(open_calls)


@pytest.mark.parametrize("seed", range(5))
def test_reports_in_any_order(seed: int) -> None:
    """Ends before starts, two of a kind, runs that are each other's parents; in threads, tasks and scopes that end."""
    sink = MemorySink()
    rng = random.Random(seed)
    run_ids = [UUID(int=rng.getrandbits(128), version=4) for _ in range(12)]
    reports: list[bool] = []
    with CallLog(sink=sink, capture="explicit", linger_ms=0) as call_log:

        def some(own: random.Random) -> None:
            reports.extend(_report(call_log, own, run_ids) for _ in range(own.randrange(20)))

        async def task(own: random.Random) -> None:
            with bind(user_id="u") if own.random() < 0.7 else contextlib.nullcontext():
                for _ in range(3):
                    some(own)
                    await asyncio.sleep(0)
                await (asyncio.Event().wait() if own.random() < 0.3 else asyncio.sleep(0))

        async def main(own: random.Random) -> None:
            tasks = [asyncio.create_task(task(random.Random(own.random()))) for _ in range(20)]
            await asyncio.wait(tasks, timeout=0.05)
            for one in tasks:
                one.cancel()

        def work(own: random.Random) -> None:
            some(own)
            asyncio.run(main(own))
            some(own)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, [random.Random(rng.random()) for _ in range(4)]))
        assert _swept(call_log._recorder.open_calls) == []
        assert call_log.flush(60) == 0
        stats = call_log.stats()
        assert stats.balanced
        assert stats.started == len(sink.records) <= sum(reports)
        assert len({record.call_id for record in sink.records}) == stats.started > 20
    assert {record.status for record in sink.records} >= {"ok", "error", "cancelled"}


# -- signals and executors ------------------------------------------------------------------------------------------


def test_a_storm_of_signals() -> None:
    """A profiler's, say: its handler runs between any two steps of ours, and changes nothing."""
    seen: list[None] = []
    sink = MemorySink()
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(None))
    try:
        with CallLog(sink=sink, linger_ms=0) as call_log:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            for _ in range(300):
                with bind(user_id="ada"):
                    assert MODEL.invoke("of ada: hello").content == "heard of ada: hello"
            assert call_log.flush(60) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 20
    assert Counter((record.user_id, record.status) for record in sink.records) == {("ada", "ok"): 300}


async def test_an_executor_in_which_everybody_is_busy() -> None:
    """The application's default one: neither a call nor start, flush and close wait for a thread of it."""
    loop = asyncio.get_running_loop()
    released = threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(2))
    blocked = [loop.run_in_executor(None, released.wait, 60) for _ in range(10)]
    sink = MemorySink()
    try:
        async with asyncio.timeout(30), CallLog(sink=sink, linger_ms=0) as call_log:
            for _ in range(20):
                with bind(user_id="ada"):
                    await MODEL.ainvoke("of ada: hello")
            assert await call_log.aflush(60) == 0
    finally:
        released.set()
        await asyncio.gather(*blocked)
    assert Counter((record.user_id, record.status) for record in sink.records) == {("ada", "ok"): 20}


# -- the clock ------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour forth or back in the middle of a call, or a year: each call has its row and lasts what it lasted."""
    clock = time.time
    with CallLog(database, linger_ms=0) as call_log:
        for jump in (3600.0, -3600.0, 400 * 86_400.0, -400 * 86_400.0):
            with call_log.record(model="m", prompt="hello"):
                monkeypatch.setattr(time, "time", lambda jump=jump: clock() + jump)
            with call_log.record(model="m", prompt="hello"):
                monkeypatch.setattr(time, "time", clock)
        assert call_log.flush(60) == 0
        assert call_log.stats().balanced
    rows = rows_of(database)
    assert len(rows) == 8
    for row in rows:
        assert 0 <= row.latency_ms < 20_000
        assert 0 <= (row.finished_at - row.created_at).total_seconds() < 20


# -- the end of the process -----------------------------------------------------------------------------------------


ENDS = """
import asyncio, sys, threading, time
from tests.kit.support import Talker
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1]).start()
begun = threading.Barrier(9)

def work(number):
    with bind(user_id="u", session_id="s"):
        Talker().invoke("hello")
        begun.wait()
        while True:
            if number % 2:
                list(Talker().stream("again"))
            else:
                asyncio.run(Talker().ainvoke("again"))

for number in range(8):
    threading.Thread(target=work, args=(number,), daemon=True).start()
begun.wait()
"""


def test_daemon_threads_that_call_until_the_very_end(database: str) -> None:
    """The interpreter ends below them: quietly, in time, and what they had begun has its row."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ENDS), database],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LLMCTX_SHUTDOWN_TIMEOUT_S": "2"},
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr, done.stderr
    assert time.monotonic() - began < 30
    with CallLog(database):
        wait_until(lambda: len(rows_of(database)) >= 8, "the rows that were left")
    rows = rows_of(database)
    assert {row.user_id for row in rows} == {"u"}
    assert {row.status for row in rows} <= {"ok", "cancelled", "abandoned", "lost", "error"}


async def test_a_fork_in_the_middle_of_a_flush(database: str) -> None:
    """Neither waits for the other: the child has nothing to write, and leaves with what it calls itself."""
    with CallLog(database, linger_ms=50) as call_log:
        for number in range(10):
            with bind(user_id="parent", session_id="s"):
                for _ in range(5):
                    Talker().invoke("hello")
            flushing = asyncio.create_task(asyncio.to_thread(call_log.flush, 20.0))
            await asyncio.sleep(0.005 * number)
            child = os.fork()
            if not child:
                status = 1
                with contextlib.suppress(BaseException), bind(user_id="child", session_id="s"):
                    Talker().invoke("hello")
                    status = 0 if call_log.flush(60) == 0 else 2
                os._exit(status)
            assert await flushing == 0
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
    rows = await asyncio.to_thread(rows_of, database)
    assert Counter(row.user_id for row in rows) == {"parent": 50, "child": 10}
