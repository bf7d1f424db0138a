"""CallLog as applications use it: its life, its promises to whoever waits, forks, exits, and its good manners."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from langchain_core.outputs import ChatResult
from sqlalchemy import make_url, text
from starlette.testclient import TestClient

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery import row as recording
from llmctx.delivery.memory_sink import MemorySink
from llmctx.middleware import ContextMiddleware
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import ROOT
from tests.kit.support import Completer, PlainTalker, ProviderDown, Talker, wait_until

model = Talker()


def rows_of(url: str) -> list[Any]:
    """All rows, oldest first, read without llmctx."""

    async def read() -> list[Any]:
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        engine = create_async_engine(url, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return list(await connection.execute(text(f"SELECT * FROM {DEFAULT_TABLE} ORDER BY created_at")))
        finally:
            await engine.dispose()

    return asyncio.run(read())


# -- life -----------------------------------------------------------------------------------------------------------


def test_what_users_type(any_database: str) -> None:
    """start and close: the call is a row in the database."""
    call_log = CallLog(any_database).start()
    with bind(session_id="s", user_id="u"):
        model.invoke("hello")
    assert call_log.close() == 0
    (row,) = rows_of(any_database)
    assert (row.session_id, row.user_id, row.status, row.model, row.success) == ("s", "u", "ok", "talker", True)


def test_with_lifespan(any_database: str) -> None:
    """FastAPI starts and ends it."""
    call_log = CallLog(any_database)
    app = FastAPI(lifespan=call_log.lifespan)
    app.add_middleware(ContextMiddleware, identify=lambda connection: CallContext(user_id="u", session_id="s"))

    @app.get("/")
    async def ask() -> str:
        return str((await model.ainvoke("hello")).content)

    with TestClient(app) as http:
        assert http.get("/").json() == "heard hello"
    (row,) = rows_of(any_database)
    assert (row.user_id, row.identity_source) == ("u", "context")


async def test_nested_and_repeated_starts() -> None:
    """Each start wants its close; the last one stops recording."""
    sink = MemorySink()
    call_log = CallLog(sink=sink)
    async with call_log:
        with call_log:
            model.invoke("one")
        model.invoke("two")
        async with call_log.lifespan(None):
            model.invoke("three")
        model.invoke("four")
    model.invoke("after the end")
    assert call_log.close() == 0
    assert len(sink.records) == 4


def test_started_again_after_its_end() -> None:
    """A call log may live twice; its ledger goes on."""
    sink = MemorySink()
    call_log = CallLog(sink=sink)
    for _ in range(3):
        with call_log:
            model.invoke("hello")
    stats = call_log.stats()
    assert (stats.started, stats.written, stats.waiting) == (3, 3, 0)
    assert stats.balanced


def test_started_again_with_a_database(database: str) -> None:
    """The writer's count goes on as well, and so do its connections."""
    call_log = CallLog(database)
    for _ in range(3):
        with call_log:
            model.invoke("hello")
    stats = call_log.stats()
    assert (stats.started, stats.written, stats.waiting) == (3, 3, 0)
    assert len(rows_of(database)) == 3


def test_never_started() -> None:
    """Its handler hears nothing, waits for nothing, and disturbs nobody."""
    sink = MemorySink()
    call_log = CallLog(sink=sink)
    assert model.invoke("hello", {"callbacks": [call_log.handler]}).content == "heard hello"
    with call_log.record(model="m") as call:
        call.set(response="x")
    assert call_log.flush(0.1) == 0
    assert call_log.close() == 0
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


def test_two_runs_of_asyncio(any_database: str) -> None:
    """Loops come and go; the pipeline has its own."""
    with CallLog(any_database):
        for _ in range(2):
            asyncio.run(_ask())
    assert len(rows_of(any_database)) == 2


async def _ask() -> None:
    await model.ainvoke("hello")


# -- waiting --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """A database that is never there."""
    return f"postgresql+asyncpg://u@/d?host={tmp_path}"


def test_flush_says_what_is_left_and_always_returns(nowhere: str) -> None:
    """The database is away: calls wait, nobody else does."""
    call_log = CallLog(nowhere, shutdown_timeout_s=0.2)
    assert call_log.flush(0.1) == 0
    with call_log:
        for _ in range(7):
            model.invoke("hello")
        assert call_log.flush(0.1) == 7
        assert call_log.flush(0) == 7
        assert asyncio.run(call_log.aflush(0.1)) == 7
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(call_log.flush, [0.2] * 8)) == {7}
        stats = call_log.stats()
        assert (stats.started, stats.waiting, stats.written) == (7, 7, 0)
        assert stats.trouble
        assert stats.balanced
    assert call_log.flush(0.1) == 7
    assert call_log.close(0.1) == 0


def test_a_long_linger_does_not_hold_up_a_flush() -> None:
    """Rows may wait for company, but not while somebody waits for them."""
    sink = MemorySink()
    with CallLog(sink=sink, linger_ms=60_000) as call_log:
        model.invoke("hello")
        assert call_log.flush(5) == 0
        assert len(sink.records) == 1
        model.invoke("hello")
    assert len(sink.records) == 2


def test_a_flush_in_the_middle_of_the_load(any_database: str) -> None:
    """What had ended before the flush is in the database after it."""
    with CallLog(any_database) as call_log:
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                Completer().invoke("hello")

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: call_log.stats().started > 50, "some load")
        stop.set()
        for thread in threads:
            thread.join()
        assert call_log.flush() == 0
        started = call_log.stats().started
    assert len(rows_of(any_database)) == started


# -- by hand --------------------------------------------------------------------------------------------------------


def test_a_call_recorded_by_hand(any_database: str) -> None:
    """For vendor SDKs: the same row, with the identity of the scope."""
    with CallLog(any_database) as call_log, bind(user_id="u", session_id="s"):
        with call_log.record(model="gpt", prompt="hi", provider="acme", temperature=0.5) as call:
            call.set(response="hello", prompt_tokens=3, completion_tokens=1, total_tokens=4, finish_reason="stop")
        with call_log.record(model="gpt", identity=CallContext(user_id="nightly", session_id="r")):
            pass
    row, other = rows_of(any_database)
    assert (row.user_id, row.model, row.provider, row.total_tokens, row.usage_source) == (
        "u", "gpt", "acme", 4, "provider",
    )  # fmt: skip
    assert "hi" in row.prompt_snapshot
    assert "hello" in row.response_snapshot
    assert (other.user_id, other.identity_source) == ("nightly", "explicit")


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


# -- processes ------------------------------------------------------------------------------------------------------


SCRIPT = """
import asyncio, sys
from tests.kit.support import Talker
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1])
call_log.start()
with bind(user_id="u", session_id="s"):
    Talker().invoke("one")
    asyncio.run(Talker().ainvoke("two"))
    kept = Talker().stream("three")
    next(kept)
{end}
"""


def run_script(end: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(end=textwrap.dedent(end)), url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import threading; threading.Thread(target=print).start()", 0),
    ],
    ids=["plain", "exit", "exception", "thread"],
)
def test_a_script_that_ends_without_close(any_database: str, end: str, code: int) -> None:
    """Its rows are written all the same."""
    done = run_script(end, any_database)
    assert done.returncode == code, done.stderr
    assert [row.status for row in rows_of(any_database)] == ["ok", "ok", "abandoned"], done.stderr
    if not code:
        assert not done.stderr


def test_a_script_whose_threads_outlive_the_main_one(any_database: str) -> None:
    """Calls that are made after the last line of the script, in threads that it waits for."""
    end = """
    import threading, time
    def later():
        threading.main_thread().join()
        with bind(user_id="u", session_id="s"):
            Talker().invoke("four")
    threading.Thread(target=later).start()
    """
    done = run_script(end, any_database)
    assert done.returncode == 0, done.stderr
    assert sorted(row.status for row in rows_of(any_database)) == ["abandoned", "ok", "ok", "ok"], done.stderr


def test_a_script_whose_database_is_away_ends_in_time(nowhere: str) -> None:
    """The end of a process waits for the database, but not for long."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end="import time; print(time.time())"), nowhere],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LLMCTX_SHUTDOWN_TIMEOUT_S": "0.5"},
    )
    assert done.returncode == 0
    assert "3 calls have not reached the database" in done.stderr
    assert time.time() - float(done.stdout) < 5.0


def _child(call_log: CallLog, prompt: str, how: str) -> None:
    with bind(user_id="child", session_id="c"):
        Talker().invoke(prompt)
        asyncio.run(PlainTalker().ainvoke(prompt))
    if how == "flush":
        assert call_log.flush(30) == 0  # ten processes write to one SQLite file: each has to get its turn
        assert call_log.stats().balanced
    elif how == "close":
        assert call_log.close() == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("how", ["flush", "close", "nothing"])
def test_forks(any_database: str, how: str) -> None:
    """A child's calls are written once by the child, the parent's by the parent, whatever waited at the fork."""
    fork = multiprocessing.get_context("fork")
    with CallLog(any_database, linger_ms=300) as call_log, bind(user_id="parent", session_id="p"):
        for number in range(3):
            model.invoke(f"before {number}")
            child = fork.Process(target=_child, args=(call_log, f"child {number}", how))
            child.start()
            model.invoke(f"after {number}")
            child.join(30)
            assert child.exitcode == 0
        assert call_log.flush() == 0
        assert call_log.stats().balanced
    rows = rows_of(any_database)
    assert sorted(row.user_id for row in rows) == ["child"] * 6 + ["parent"] * 6
    assert len({row.call_id for row in rows}) == 12


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_at_any_moment(any_database: str) -> None:
    """While threads register and record: no child inherits a lock, or a row."""
    fork = multiprocessing.get_context("fork")
    with CallLog(any_database, linger_ms=1) as call_log:
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                with bind(user_id="parent", session_id="p"):
                    Completer().invoke("hello", {"configurable": {"thread_id": "t"}})

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(10):
            wait_until(lambda number=number: call_log.stats().started > 10 * number, "some load")  # type: ignore[misc]
            children.append(fork.Process(target=_child, args=(call_log, f"child {number}", "flush")))
            children[-1].start()
        for child in children:
            child.join(60)
        stop.set()
        for thread in threads:
            thread.join()
        assert [child.exitcode for child in children] == [0] * 10
        assert call_log.flush(30) == 0
        started = call_log.stats().started
    rows = rows_of(any_database)
    assert len(rows) == started + 20
    assert sum(row.user_id == "child" for row in rows) == 20


# -- manners --------------------------------------------------------------------------------------------------------


class Hostile:
    """A sink that fails in a way of its own each time."""

    problems = (RuntimeError, ValueError, MemoryError, RecursionError)

    def __init__(self) -> None:
        self.seen = 0

    def submit(self, record: CallRecord) -> bool:
        self.seen += 1
        raise self.problems[self.seen % 4]


def test_a_sink_that_raises_or_refuses() -> None:
    """The application does not notice; the calls are counted as dropped, and the next ones come through."""
    hostile = Hostile()
    with CallLog(sink=hostile) as call_log:
        for _ in range(8):
            assert model.invoke("hello").content == "heard hello"
        assert call_log.flush() == 0
        assert hostile.seen == 8
        assert (call_log.stats().dropped, call_log.stats().balanced) == (8, True)
    with CallLog(sink=MemorySink(full=True)) as call_log:
        model.invoke("hello")
        assert call_log.flush() == 0
        assert (call_log.stats().dropped, call_log.stats().balanced) == (1, True)


class Dying(MemorySink):
    """Takes the pipeline's thread along, once."""

    def submit(self, record: CallRecord) -> bool:
        if not self.records:
            super().submit(record)
            raise SystemExit
        return super().submit(record)


class Patient(MemorySink):
    """Lets whoever drains it wait, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    async def drain(self, timeout: float) -> int:
        self.asked.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.001)
        return 0


def test_started_again_while_it_closes() -> None:
    """By another thread, or a signal's handler: it records, whoever was first."""
    sink = Patient()
    call_log = CallLog(sink=sink).start()
    closing = threading.Thread(target=call_log.close)
    closing.start()
    assert sink.asked.wait(10)
    call_log.start()
    sink.go_on.set()
    closing.join(20)
    with bind(user_id="u"):
        model.invoke("hello")
    assert call_log.close() == 0
    assert [row.user_id for row in sink.records] == ["u"]
    assert call_log.stats().balanced


class Careless(MemorySink):
    """Leaves a failure behind that nobody waits for, as a driver does whose connection is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.been = threading.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("refused: o.hara@example.com"))
        self.been.set()
        await asyncio.Event().wait()


def test_what_fails_in_its_loop_unseen_is_told_in_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    """Once, under its own name, and without what must not be in a log; asyncio has nothing to say."""
    sink = Careless()
    diagnostics.reset()
    with CallLog(sink=sink):
        assert sink.been.wait(10)
        wait_until(lambda: diagnostics.counts["loop_failed"] > 0, "the failure to be noted")
    assert {line.name for line in caplog.records} == {"llmctx"}
    assert "refused" in caplog.text
    assert "o.hara" not in caplog.text


def test_a_pipeline_that_dies_is_started_again() -> None:
    """Whatever ends the thread, the calls after it are recorded."""
    sink = Dying()
    with CallLog(sink=sink) as call_log:
        model.invoke("one")
        wait_until(lambda: len(sink.records) == 1, "the end of the thread")
        model.invoke("two")
        wait_until(lambda: len(sink.records) == 2, "its new beginning")
        assert call_log.flush() == 0


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


def test_ids_of_every_kind(any_database: str) -> None:
    """Control characters, ten kilobytes, other scripts, numbers: rows as any others, and two stay two."""
    ids = [
        "a\x00b",
        "a\x01b",
        "a\nb",
        "x" * 10_000,
        "x" * 10_001,
        "王小明",
        42,
        "' OR 1=1 --",
        "\ud800",
        "💥",
        "\u202eabc",
    ]
    with CallLog(any_database) as call_log:
        for one in ids:
            with bind(user_id=one, session_id=one):
                model.invoke("hello", {"configurable": {"thread_id": str(one)}})
        assert call_log.flush() == 0
        assert call_log.stats().quarantined == 0
    rows = rows_of(any_database)
    assert len(rows) == len(ids)
    assert len({row.user_id for row in rows}) == len(ids)
    assert all(row.user_id.isprintable() and len(row.user_id) <= 256 for row in rows)
    assert {"王小明", "42", "' OR 1=1 --", "💥"} <= {row.user_id for row in rows}


@pytest.mark.parametrize("bad", ["mysql://x/y", "postgresql://", "nonsense", " ", "sqlite://", "postgresql+psycopg2:/"])
def test_a_wrong_database_url(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error at once, which names the setting and shows no password."""
    with pytest.raises(ConfigError, match="LLMCTX_DATABASE_URL"):
        CallLog(bad)
    monkeypatch.setenv("LLMCTX_DATABASE_URL", bad)
    with pytest.raises(ConfigError, match="LLMCTX_DATABASE_URL"):
        CallLog()


def test_passwords_do_not_show(caplog: pytest.LogCaptureFixture, nowhere: str) -> None:
    """Not in a repr, not in the log when the database is away."""
    url = make_url(nowhere).set(password="hunter2").render_as_string(hide_password=False)
    diagnostics.reset()
    with caplog.at_level(logging.DEBUG), CallLog(url, shutdown_timeout_s=0.1) as call_log:
        model.invoke("hello")
        wait_until(lambda: call_log.stats().trouble is not None, "the writer to notice")
        assert "hunter2" not in repr(call_log)
        assert "hunter2" not in repr(call_log.settings)
        assert "hunter2" not in repr(call_log.stats())
    assert "cannot be reached" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_missing_table_says_what_to_do(any_empty_database: str, caplog: pytest.LogCaptureFixture) -> None:
    """The application works, and the log names the command."""
    diagnostics.reset()
    with caplog.at_level(logging.WARNING), CallLog(any_empty_database, shutdown_timeout_s=0.1) as call_log:
        assert model.invoke("hello").content == "heard hello"
        wait_until(lambda: call_log.stats().trouble is not None, "the writer to notice")
    assert "llmctx migrate" in caplog.text


def test_nothing_is_left_of_a_call_log() -> None:
    """After close: no thread, no scope, no handler that hears."""
    before = {thread.name for thread in threading.enumerate()}
    with CallLog(sink=MemorySink()):
        model.invoke("hello")
    assert {thread.name for thread in threading.enumerate()} == before
    assert current() == CallContext()


def test_a_file_that_somebody_else_has_locked(sqlite_url: str) -> None:
    """The application may write to the same file: rows wait for it."""
    migrate.upgrade(load(database_url=sqlite_url))
    theirs = sqlite3.connect(make_url(sqlite_url).database or "", isolation_level=None)
    with CallLog(sqlite_url) as call_log:
        theirs.execute("BEGIN IMMEDIATE")
        model.invoke("hello")
        assert call_log.flush(0.2) == 1
        theirs.execute("COMMIT")
        theirs.close()
        assert call_log.flush(20) == 0
    assert len(rows_of(sqlite_url)) == 1


class Broken:
    """A registry that fails, in its own way."""

    def put(self, *_: Any, **__: Any) -> None:
        raise ValueError

    def get(self, *_: Any, **__: Any) -> Any:
        raise ValueError

    def forget(self, *_: Any, **__: Any) -> int:
        raise ValueError


async def test_a_registry_that_fails_costs_ids_and_no_rows() -> None:
    """It may be the team's own, or a Redis that is away."""
    sink = MemorySink()
    async with CallLog(sink=sink, registry=Broken()):
        await model.ainvoke("hello", {"configurable": {"thread_id": "t"}})
        with bind(user_id="u", session_id="s"):
            await model.ainvoke("hello")
    assert [(row.user_id, row.status) for row in sink.records] == [(None, "ok"), ("u", "ok")]
    assert all(row.identity_reason for row in sink.records if row.user_id is None)


async def test_content_that_cannot_be_read_costs_the_texts_and_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says at least whose call it was, when, and how it ended."""

    def broken(**_: object) -> Any:
        raise ValueError

    monkeypatch.setattr(recording, "fields_of", broken)
    sink = MemorySink()
    async with CallLog(sink=sink):
        with bind(user_id="u", session_id="s"):
            await model.ainvoke("hello")
    (row,) = sink.records
    assert (row.user_id, row.status, row.model) == ("u", "ok", "talker")


class Mute(str):
    """Text of somebody's own kind, which fails whoever looks at it."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("not a word")

    def __len__(self) -> int:
        return -1


async def test_what_has_no_words_costs_itself_alone() -> None:
    """An error without them leaves the prompt; a model's name without them leaves the row."""
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        for odd in (Mute("x"), 10**5000):
            with call_log.record(model="m", prompt="how are you?", error_message=odd):
                pass
        await model.ainvoke("hello", {"metadata": {"ls_model_name": Mute("m")}})
        with bind(user_id="u"):
            await NamedMute().ainvoke("hello")
    assert [row.model for row in sink.records[:2]] == ["m", "m"]
    assert all("how are you?" in str(row.prompt_snapshot) for row in sink.records[:2])
    assert len(sink.records) == 4
    assert (sink.records[3].user_id, sink.records[3].status) == ("u", "ok")


class NamedMute(Talker):
    """Its name has no words."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop, **kwargs), "ls_model_name": Mute("m")}


class Uncountable(int):
    """A figure that fails whoever compares it."""

    def __le__(self, other: object) -> bool:
        raise RuntimeError("no figure")

    __ge__ = __lt__ = __gt__ = __le__


class Miscounting(Talker):
    """Its answer's usage cannot be read."""

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        result = await super()._agenerate(*args, **kwargs)
        result.generations[0].message.__dict__["usage_metadata"] = {"input_tokens": Uncountable(1)}
        return result


async def test_an_answer_that_cannot_be_read_costs_itself_alone() -> None:
    """The prompt stays, and so do the parameters."""
    sink = MemorySink()
    async with CallLog(sink=sink):
        await Miscounting().ainvoke("how are you?", tag="mine", temperature=0.5)
    (row,) = sink.records
    assert (row.status, row.model, row.response_snapshot) == ("ok", "talker", None)
    assert "how are you?" in str(row.prompt_snapshot)
