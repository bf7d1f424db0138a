"""CallLog as applications use it: its life, its promises to whoever waits, forks, exits, and its good manners."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

import pytest
from fastapi import FastAPI
from sqlalchemy import make_url
from starlette.testclient import TestClient

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.delivery.memory_sink import MemorySink
from llmctx.middleware import ContextMiddleware
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until

model = Talker()


def test_what_users_type(any_database: str) -> None:
    """start and close: the call is a row in the database."""
    call_log = CallLog(any_database).start()
    with bind(session_id="s", user_id="u"):
        model.invoke("hello")
    assert call_log.close(60) == 0
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
    assert call_log.close(60) == 0
    assert len(sink.records) == 4


async def test_each_close_waits_for_what_has_ended() -> None:
    """A server may end its process behind the lifespan, though the call log was started at import as well."""
    sink = MemorySink()
    with CallLog(sink=sink) as call_log:
        async with call_log:
            model.invoke("one")
        assert len(sink.records) == 1
        with call_log:
            model.invoke("two")
        assert len(sink.records) == 2
        assert call_log.start().close() == 0


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


def test_two_runs_of_asyncio(any_database: str) -> None:
    """Loops come and go; the pipeline has its own."""
    with CallLog(any_database):
        for _ in range(2):
            asyncio.run(_ask())
    assert len(rows_of(any_database)) == 2


def test_two_call_logs_for_one_table_write_each_call_once(any_database: str) -> None:
    """As where a platform imports the application's module twice; the second takes over when the first is closed."""
    before = diagnostics.by_cause().get("second_call_log", 0)
    first, second = CallLog(any_database), CallLog(any_database)
    with second:
        with first:
            model.invoke("one")
        model.invoke("two")
        with second.record(model="m", prompt="three"):
            pass
        first.start()
    model.invoke("four")
    first.close()
    assert [first.stats().written, second.stats().written] == [1, 3]
    assert diagnostics.by_cause()["second_call_log"] == before + 2
    assert len(rows_of(any_database)) == 4


async def _ask() -> None:
    await model.ainvoke("hello")


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
        assert call_log.flush(60) == 0
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
        assert call_log.flush(60) == 0
    assert len(rows_of(sqlite_url)) == 1
