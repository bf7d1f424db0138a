"""The writer against databases that fail: away, slow, full, read-only, locked, changed, or with opinions about rows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery.writer import writer
from llmctx.delivery.writer.writer import Writer
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.storage.sanitize import CLEANED
from tests.kit.cluster import Cluster, cluster
from tests.kit.pooler import Pooler
from tests.kit.proxy import COMMITS, Proxy
from tests.kit.rows import PATIENCE, do, query, record, stored, writing
from tests.kit.support import wait_for, wait_until

HEALED_S = 5.0 + 1.5  # five are promised; the rest is for a busy machine
T = DEFAULT_TABLE


@pytest.fixture
def own(empty_database: str) -> str:
    """A migrated PostgreSQL database of this test's own."""
    migrate.upgrade(load(database_url=empty_database))
    return empty_database


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    made = Proxy(database)
    await made.open()
    try:
        yield made
    finally:
        await made.remove()


@pytest.fixture
def server() -> Iterator[Cluster]:
    """A PostgreSQL of this test's own, with the table."""
    for made in cluster():
        migrate.upgrade(load(database_url=made.url))
        yield made


def put(one: Writer, count: int, **fields: Any) -> list[CallRecord]:
    rows = [record(**fields) for _ in range(count)]
    assert all(map(one.submit, rows))
    return rows


def adds_up(one: Writer, started: int) -> bool:
    return started == one.written + one.waiting + one.quarantined + one.dropped


async def troubled(one: Writer) -> None:
    await wait_for(lambda: one.trouble is not None, "the writer to notice")


async def healed(one: Writer, seconds: float = HEALED_S) -> None:
    """Without hurrying it, the first new row comes within the time that is promised."""
    before, start = one.written, time.monotonic()
    await wait_for(lambda: one.written > before, "a first new row", seconds)
    assert time.monotonic() - start < seconds


@contextlib.asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[None]:
    """Somebody else's open transaction."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
            yield
            await connection.rollback()
    finally:
        await engine.dispose()


# -- the connection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("careful", [False, True], ids=["copy", "insert"])
async def test_the_reply_to_a_commit_is_lost(proxy: Proxy, database: str, careful: bool) -> None:
    """The server has stored the batch, nobody knows, it is sent again: each row once."""
    async with writing(proxy.url) as one:
        first = put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        if careful:  # a row that is there already
            one.submit(first[0])
            assert await one.drain(PATIENCE) == 0, one.trouble
        proxy.cut_reply_to = COMMITS[1:2] if not careful else COMMITS[2:]
        put(one, 100)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert proxy.cuts == 1
        assert adds_up(one, 101 + careful)
    assert await stored(database) == 101


async def test_a_slow_way(proxy: Proxy, database: str) -> None:
    """A few tenths of a second for each packet: slow, and nothing worse."""
    proxy.delay_s = 0.1
    async with writing(proxy.url) as one:
        put(one, 200)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert one.trouble is None
    assert await stored(database) == 200


async def test_while_the_database_is_away_it_is_asked_at_most_once_a_second(proxy: Proxy, database: str) -> None:
    """And the first row is there five seconds after its return, however long it was away."""
    async with writing(proxy.url) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        proxy._target = ("/nowhere", 1)
        proxy.abort()
        put(one, 10)
        await troubled(one)
        begun = proxy.accepted
        await wait_for(lambda: proxy.accepted - begun >= 5, "the first tries, which come sooner after one another")
        before, start = proxy.accepted, time.monotonic()
        await wait_for(lambda: time.monotonic() - start > 8, "an outage of some length")
        assert proxy.accepted - before <= time.monotonic() - start + 1
        await proxy.close()
        target = make_url(database)
        host = target.query.get("host", target.host)
        assert isinstance(host, str)
        proxy._target = (host, target.port or 5432)
        await proxy.open()
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(database) == 11


async def test_a_server_that_hangs(server: Cluster) -> None:
    """All its processes are stopped: the deadline lets go, and all is stored once they go on."""
    async with writing(server.url, statement_timeout_s=0.5, connect_timeout_s=0.5) as one:
        put(one, 10)
        assert await one.drain(PATIENCE) == 0, one.trouble
        with server.stopped():
            put(one, 100)
            await troubled(one)
            assert adds_up(one, 110)
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(server.url) == 110


async def test_a_server_that_does_not_answer_in_the_end(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever leaves then leaves in silence: nobody's log has a word of ours that is not llmctx's."""
    async with writing(proxy.url) as one:
        put(one, 5)
        assert await one.drain(PATIENCE) == 0, one.trouble
        proxy.flowing.clear()
    assert [line.getMessage() for line in caplog.records if line.name != "llmctx"] == []


async def test_a_server_that_crashes_twenty_times(server: Cluster) -> None:
    """In the middle of batches: nothing is lost, nothing is double."""
    started = 0
    async with writing(server.url, batch_rows=20) as one:
        for _ in range(20):
            started += len(put(one, 200))
            before = one.written
            await wait_for(lambda before=before: one.written > before, "a batch")  # type: ignore[misc]
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start_again)
        assert await one.drain(60) == 0
        assert adds_up(one, started)
    assert await stored(server.url) == started


async def test_a_server_that_may_only_be_read(own: str) -> None:
    """As after a failover: the pool goes, and a new connection finds the server that takes rows."""
    name = make_url(own).database
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        await do(own, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await do(own, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'llmctx'")
        put(one, 10)
        await wait_for(lambda: "25006" in (one.trouble or ""), "a server that only reads")
        reset = f'SET default_transaction_read_only = off; ALTER DATABASE "{name}" RESET default_transaction_read_only'
        for statement in reset.split("; ")[1:]:
            await asyncio.to_thread(_writable, own, statement)
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(own) == 11


def _writable(url: str, statement: str) -> None:
    async def run() -> None:
        engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text("SET default_transaction_read_only = off"))
            await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def role(url: str, options: str) -> AsyncIterator[tuple[str, str]]:
    """A role that may insert and nothing else: its URL and its name."""
    name = f"llmctx_{time.monotonic_ns()}"
    await do(url, f"CREATE ROLE {name} LOGIN PASSWORD 'w' {options}", f"GRANT INSERT ON {T} TO {name}")
    try:
        yield make_url(url).set(username=name, password="w").render_as_string(hide_password=False), name
    finally:
        await do(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
        await do(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_no_connection_is_left(database: str) -> None:
    """53300: rows wait until there is one, and two are never asked for at once."""
    limit = role(database, "CONNECTION LIMIT 1")
    async with limit as (limited, name), holding(limited, "SELECT 1"), writing(limited) as one:
        put(one, 10)
        await wait_for(lambda: "53300" in (one.trouble or ""), "the limit")
        await do(database, f"ALTER ROLE {name} CONNECTION LIMIT 2")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(database) == 10


async def test_a_password_that_was_changed(server: Cluster, tmp_path: Path) -> None:
    """A password file is read again by each attempt: rotation needs no restart."""
    await do(server.url, "CREATE ROLE app LOGIN PASSWORD 'old'", f"GRANT INSERT ON {T} TO app")
    server.allow("local all llmctx trust", "local all app scram-sha-256")
    file = tmp_path / "pgpass"
    file.write_text("*:*:*:*:old\n")
    file.chmod(0o600)
    url = make_url(server.url).set(username="app").update_query_dict({"passfile": str(file)})
    async with writing(url.render_as_string(hide_password=False)) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        await do(server.url, "ALTER ROLE app PASSWORD 'new'")
        await do(server.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        put(one, 10)
        await wait_for(lambda: "28P01" in (one.trouble or ""), "the refusal")
        file.write_text("*:*:*:*:new\n")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(server.url) == 11


async def test_a_password_that_was_changed_in_the_environment(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the URL was read there, it is read again once the database refuses the password."""
    await do(server.url, "CREATE ROLE app LOGIN PASSWORD 'old'", f"GRANT INSERT ON {T} TO app")
    server.allow("local all llmctx trust", "local all app scram-sha-256")
    url = make_url(server.url).set(username="app", password="old")
    monkeypatch.setenv("LLMCTX_DATABASE_URL", url.render_as_string(hide_password=False))
    async with writing(load().database_url) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        await do(server.url, "ALTER ROLE app PASSWORD 'new'")
        await do(server.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        put(one, 10)
        await wait_for(lambda: "28P01" in (one.trouble or ""), "the refusal")
        monkeypatch.setenv("LLMCTX_DATABASE_URL", url.set(password="new").render_as_string(hide_password=False))
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(server.url) == 11


async def test_a_name_that_is_not_known(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS fails, and then does not."""
    way = Proxy(database, tcp=True)
    await way.open()
    known = False
    resolve = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "db.test":
            return resolve(host, *args, **kwargs)
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    try:
        url = make_url(way.url).set(host="db.test").update_query_dict({"ssl": "disable"})
        async with writing(url.render_as_string(hide_password=False)) as one:
            put(one, 10)
            await troubled(one)
            known = True
            await healed(one)
            assert await one.drain(PATIENCE) == 0, one.trouble
        assert await stored(database) == 10
    finally:
        await way.remove()


# -- a server that is busy, full or locked --------------------------------------------------------------------------


async def refuse_while(url: str, condition: str, code: str) -> None:
    """A trigger of the host's that raises for rows of which `condition` is true."""
    await do(
        url,
        f"CREATE OR REPLACE FUNCTION host_opinion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} "
        f"THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$",
        f"DROP TRIGGER IF EXISTS host_trigger ON {T}",
        f"CREATE TRIGGER host_trigger BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION host_opinion()",
    )


@pytest.mark.parametrize("code", ["53100", "57014", "40P01", "40001", "53200", "58030"])
async def test_a_busy_server_loses_nothing_and_is_not_pressed(own: str, code: str) -> None:
    """Disk full, deadlock, statement_timeout: rows wait, are tried seldom, and are stored when it is over."""
    await refuse_while(own, "true", code)
    async with writing(own) as one:
        put(one, 300)
        await troubled(one)
        tries, start = one.tries, time.monotonic()
        await wait_for(lambda: time.monotonic() - start > 3, "some time to pass")
        assert one.tries - tries <= 5
        assert (one.waiting, one.quarantined) == (300, 0)
        await do(own, f"DROP TRIGGER host_trigger ON {T}")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert adds_up(one, 300)
    assert await stored(own) == 300


async def test_a_locked_table(own: str) -> None:
    """A migration holds it: we give up our place in the queue, and come back."""
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        async with holding(own, f"LOCK TABLE {T} IN ACCESS EXCLUSIVE MODE"):
            put(one, 10)
            await wait_for(lambda: "55P03" in (one.trouble or ""), "the lock's timeout")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(own) == 11


async def slow_rows(url: str, condition: str, seconds: float) -> None:
    await do(
        url,
        f"CREATE FUNCTION host_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} "
        f"THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END $$",
        f"CREATE TRIGGER host_trigger BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION host_slow()",
    )


async def test_a_server_that_is_too_slow_for_a_batch(own: str) -> None:
    """It is given less at once."""
    await slow_rows(own, "true", 0.01)
    async with writing(own, statement_timeout_s=1.0) as one:
        put(one, 400)
        assert await one.drain(60) == 0
    assert await stored(own) == 400


async def test_a_row_that_never_ends_lets_the_others_pass(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits by itself, and is stored when it can be."""
    monkeypatch.setattr(writer, "_ASIDE_S", 1.0)
    await slow_rows(own, "NEW.model = 'slow'", 60)
    async with writing(own, statement_timeout_s=0.3) as one:
        put(one, 1, model="slow")
        put(one, 9)
        await wait_for(lambda: one.written == 9, "the others")
        assert one.waiting == 1
        await do(own, f"DROP TRIGGER host_trigger ON {T}")
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(own) == 10


async def test_a_row_that_ends_its_connection_lets_the_others_pass(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is tried: an extension of the host's that falls over it, say."""
    monkeypatch.setattr(writer, "_ASIDE_S", 1.0)
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        ends = "IF NEW.model = 'bad' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW;"
        await do(
            own,
            f"CREATE FUNCTION host_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {ends} END $$",
            f"CREATE TRIGGER host_trigger BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION host_trigger()",
        )
        put(one, 1, model="bad")
        put(one, 20)
        await wait_for(lambda: one.written == 21, "the others")
        assert (one.waiting, one.quarantined) == (1, 0)
        await do(own, f"DROP TRIGGER host_trigger ON {T}")
        assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(own) == 22


# -- rows that somebody objects to ----------------------------------------------------------------------------------

OBJECTIONS = {
    "LX001": "trigger LX001",
    "45000": "trigger 45000",
    "P0001": "trigger P0001",
    "42703": "trigger 42703",  # a trigger's own mistake, in a branch that few rows take
    "XX000": "trigger XX000",
    "check": "ALTER TABLE {t} ADD CONSTRAINT later CHECK (model <> 'bad')",
    "at commit": "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {t} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "WHEN (NEW.model = 'bad') EXECUTE FUNCTION host_opinion()",
}


async def object_to(url: str, how: str) -> None:
    statement = OBJECTIONS[how]
    if statement.startswith("trigger"):
        await refuse_while(url, "NEW.model = 'bad'", how)
        return
    await do(
        url,
        "CREATE FUNCTION host_opinion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'late'; END $$",
        statement.format(t=T),
    )


@pytest.mark.parametrize("how", OBJECTIONS)
async def test_whatever_objects_to_a_row_hurts_only_that_row(own: str, how: str) -> None:
    """Any code may come from a trigger: the good rows are stored within a second, the bad ones kept with the reason."""
    told: Counter[object] = Counter()
    async with writing(own) as one:
        one.on_done = lambda rows: told.update(row.call_id for row in rows)
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        await object_to(own, how)
        rows = [record(model="bad" if number % 125 == 7 else "good") for number in range(500)]
        start = time.monotonic()
        assert all(map(one.submit, rows))
        await wait_for(lambda: one.written >= 497, "the good ones")
        took = time.monotonic() - start
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined, one.dropped) == (497, 4, 0)
        assert took < 3  # one is promised, on an idle machine
        assert {kept.call_id for kept, _, _ in one.refused} == {row.call_id for row in rows if row.model == "bad"}
        assert all(code and reason for _, code, reason in one.refused)
        assert len(told) == 501
        assert set(told.values()) == {1}
    assert await stored(own) == 497


@pytest.mark.parametrize("code", ["LX001", "P0001", "23514", "22023", "42501"])
@pytest.mark.parametrize("known", [True, False], ids=["after good rows", "from the start"])
async def test_what_hits_every_row_is_not_the_rows_fault(own: str, code: str, known: bool) -> None:
    """All are kept, and stored when somebody has mended it."""
    async with writing(own) as one:
        if known:
            put(one, 20)
            assert await one.drain(PATIENCE) == 0, one.trouble
        await refuse_while(own, "true", code)
        put(one, 300)
        await troubled(one)
        assert (one.waiting, one.quarantined, one.dropped) == (300, 0, 0)
        assert one.tries < 100
        await do(own, f"DROP TRIGGER host_trigger ON {T}")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.quarantined, one.trouble) == (0, None)
    assert await stored(own) == 300 + 20 * known


async def test_a_quarantine_that_cannot_keep_a_row(own: str) -> None:
    """It is counted as dropped, and its caller is told that nobody needs it."""
    await refuse_while(own, "NEW.model = 'bad'", "LX001")
    done: list[CallRecord] = []

    def broken(row: CallRecord, code: str, reason: str) -> bool:
        raise OSError(28, "No space left on device")

    async with writing(own) as one:
        one.on_rejected, one.on_done = broken, done.extend
        put(one, 5)
        put(one, 1, model="bad")
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined, one.dropped, one.given_up) == (5, 0, 1, 1)
    assert len(done) == 6


async def test_row_level_security(own: str) -> None:
    """A role with INSERT alone, and a policy for inserts alone: its rows are stored, others' set aside."""
    await do(
        own,
        f"ALTER TABLE {T} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY ours ON {T} FOR INSERT WITH CHECK (user_id <> 'forbidden')",
    )
    async with role(own, "") as (limited, _), writing(limited) as one:
        rows = put(one, 50)
        put(one, 1, user_id="forbidden")
        put(one, 49)
        one.submit(rows[0])
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined) == (100, 1)
        assert one.refused[0][1] == "42501"
    assert await stored(own) == 99


async def test_a_table_with_a_rule(own: str) -> None:
    """PostgreSQL allows no ON CONFLICT there, and COPY would pass the rule by: rows wait, and the log says why."""
    await do(own, f"CREATE RULE host_rule AS ON INSERT TO {T} DO ALSO NOTIFY host")
    async with writing(own) as one:
        put(one, 10)
        await wait_for(lambda: "rule" in (one.trouble or ""), "the refusal")
        assert (one.waiting, one.quarantined) == (10, 0)
        await do(own, f"DROP RULE host_rule ON {T}")
        await healed(one)
    assert await stored(own) == 10


async def test_no_right_to_insert(own: str) -> None:
    """Everything waits for the grant."""
    async with role(own, "") as (limited, name):
        await do(own, f"REVOKE INSERT ON {T} FROM {name}")
        async with writing(limited) as one:
            put(one, 50)
            await wait_for(lambda: "42501" in (one.trouble or ""), "the refusal")
            assert (one.waiting, one.quarantined) == (50, 0)
            await do(own, f"GRANT INSERT ON {T} TO {name}")
            await healed(one)
            assert await one.drain(PATIENCE) == 0, one.trouble
    assert await stored(own) == 50


async def test_rows_that_have_no_partition_wait_alone(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another month than the table is ready for; the others are stored."""
    monkeypatch.setattr(writer, "_ASIDE_S", 0.5)
    now = datetime.now(UTC)
    tomorrow, before = now.date() + timedelta(days=2), now.date() - timedelta(days=2)
    parts = await query(own, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{T}'::regclass")
    await do(
        own,
        *(f"DROP TABLE {name}" for (name,) in parts),
        f"CREATE TABLE only_now PARTITION OF {T} FOR VALUES FROM ('{before}') TO ('{tomorrow}')",
    )
    async with writing(own) as one:
        put(one, 50)
        put(one, 3, created_at=now - timedelta(days=400))
        put(one, 50)
        await wait_for(lambda: one.written == 100, "those that have a place")
        assert (one.waiting, one.quarantined) == (3, 0)
        await do(own, f"CREATE TABLE rest PARTITION OF {T} DEFAULT")
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert adds_up(one, 103)
    assert await stored(own) == 103


# -- a table that changes, or is somebody's own ---------------------------------------------------------------------

TYPES = {
    "user_id": ("integer", "u7", None),
    "session_id": ("varchar(20)", "s" * 40, "?"),
    "prompt_tokens": ("text", 12, "12"),
    "latency_ms": ("smallint", 100_000, None),
    "temperature": ("numeric(4,2)", 0.7, Decimal("0.70")),
    "top_p": ("real", 0.5, 0.5),
    "finished_at": ("timestamp", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2)),
    "error_message": ("varchar(10)", "e" * 50, "e" * 10),
    "run_id": ("varchar(64)", None, None),
    "prompt_snapshot": ("jsonb", '{"a": "\\u0000"}', {"a": "\ufffd"}),
}


@pytest.mark.parametrize("column", TYPES)
async def test_a_type_that_changes_under_load(own: str, column: str) -> None:
    """The insert is compiled for it, values are cast or left out, and the row says what did not fit."""
    kind, value, there = TYPES[column]
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.trouble
        await do(own, f"ALTER TABLE {T} ALTER COLUMN {column} TYPE {kind} USING NULL")
        put(one, 50, **{column: value})
        put(one, 50)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined) == (101, 0)
    rows = await query(own, f"SELECT {column}, attributes FROM {T} WHERE attributes IS NOT NULL LIMIT 1")
    if there == "?":
        assert len(rows[0][0]) == 20
    elif there != value and (there is None or column == "error_message"):
        assert rows[0][0] == there
        assert rows[0][1]["llmctx_cleaned"] == [column]
    else:
        found = await query(own, f"SELECT {column} FROM {T} WHERE {column} IS NOT NULL")
        assert {repr(row[0]) for row in found} <= {repr(there)}


async def test_two_long_ids_stay_two(own: str) -> None:
    """In a column that is too short for either; the whole stands in the attributes."""
    await do(own, f"ALTER TABLE {T} ALTER COLUMN session_id TYPE varchar(32)")
    async with writing(own) as one:
        for end in "ab":
            put(one, 1, session_id="s" * 60 + end)
        assert await one.drain(PATIENCE) == 0, one.trouble
    rows = await query(own, f"SELECT session_id, attributes FROM {T}")
    assert len({row[0] for row in rows}) == 2
    assert {row[1]["llmctx_unfit"]["session_id"] for row in rows} == {"s" * 60 + "a", "s" * 60 + "b"}


async def test_somebody_elses_table(empty_database: str) -> None:
    """Numbered users, times without a zone, short texts, columns that we do not know, some of ours missing."""
    await do(
        empty_database,
        f"CREATE TABLE {T} (id serial PRIMARY KEY, call_id varchar(64) UNIQUE, trace_id varchar(64), "
        "session_id varchar(64), user_id integer, agent_key varchar(100), model varchar(100) NOT NULL, "
        "temperature numeric(4,2), max_tokens integer, latency_ms integer, success boolean, error_code varchar(50), "
        "prompt_snapshot text, created_at timestamp NOT NULL, finished_at timestamp)",
    )
    async with writing(empty_database) as one:
        rows = put(one, 10, user_id="42", temperature=0.31, agent_key="a" * 200)
        put(one, 10, user_id="nobody", temperature=1e9)
        one.submit(rows[0])
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined) == (21, 0)
    found = await query(empty_database, f"SELECT user_id, temperature, length(agent_key), call_id FROM {T} ORDER BY id")
    assert len(found) == 20
    assert found[0] == (42, Decimal("0.31"), 100, str(rows[0].call_id))
    assert found[10][:3] == (None, None, None)


async def test_a_column_of_a_type_that_we_do_not_know(own: str) -> None:
    """The database reads the text itself; of an enumerated type, what it does not know is left out."""
    await do(own, "CREATE TYPE host_mood AS ENUM ('ok', 'sad')")
    await do(own, f"ALTER TABLE {T} ALTER COLUMN status TYPE host_mood USING NULL")
    async with writing(own) as one:
        put(one, 20)
        put(one, 1, status="furious")
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined) == (21, 0)
    ((said,),) = await query(own, f"SELECT attributes FROM {T} WHERE status IS NULL")
    assert said == {CLEANED: ["status"]}


async def test_a_name_that_wants_quotes(empty_database: str) -> None:
    """In a schema of its own, both ways of storing."""
    await do(empty_database, 'CREATE SCHEMA "Host"')
    given = {"db_schema": "Host", "table": "Calls"}
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database, **given))
    async with writing(empty_database, **given) as one:
        rows = put(one, 10)
        assert await one.drain(PATIENCE) == 0, one.trouble
        for row in [*rows, record()]:
            one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.trouble
    ((count,),) = await query(empty_database, 'SELECT count(*) FROM "Host"."Calls"')
    assert count == 11


async def test_a_refusal_does_not_show_the_row(own: str, caplog: pytest.LogCaptureFixture) -> None:
    """Drivers and databases quote the value that they refuse: that stays with the row, and out of the log."""
    secret = "sk-canary-4711"
    await do(own, f"ALTER TABLE {T} ADD CONSTRAINT later CHECK (model::bigint > 0) NOT VALID")
    diagnostics.reset()
    async with writing(own) as one:
        put(one, 1, model=secret)
        put(one, 5, model="7")
        put(one, 1, model="7", top_p=secret)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined) == (5, 2)
        assert any(secret in reason for _, _, reason in one.refused)
    assert "22P02" in caplog.text
    assert secret not in caplog.text


# -- sizes ----------------------------------------------------------------------------------------------------------


async def test_huge_rows_go_one_by_one(database: str) -> None:
    """No statement grows beyond the bytes of a batch, but for a single row that is bigger."""
    async with writing(database, batch_bytes=1_000_000, memory_bytes=64 * 1024 * 1024) as one:
        put(one, 12, prompt_snapshot="x" * 900_000)
        put(one, 1, prompt_snapshot="x" * 3_000_000)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert one.tries == 13
    assert await stored(database) == 13


# -- a pooler between -----------------------------------------------------------------------------------------------


@pytest.fixture
async def pooler(database: str) -> AsyncIterator[str]:
    """A pooler in transaction mode with fewer servers than there are writers: pgbouncer, where it is installed."""
    program = shutil.which("pgbouncer")
    if program is not None:
        with pgbouncer(program, database) as url:
            yield url
        return
    one = Pooler(database, servers=3)
    await one.open()
    try:
        yield one.url
    finally:
        await one.close()


@contextlib.contextmanager
def pgbouncer(program: str, database: str) -> Iterator[str]:
    url = make_url(database)
    where = url.query.get("host", url.host)
    folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
    (folder / "ini").write_text(
        f"[databases]\n{url.database} = host={where} port={url.port or 5432} user={url.username}\n"
        "[pgbouncer]\npool_mode = transaction\nauth_type = any\nlisten_port = 6432\nlisten_addr =\n"
        f"unix_socket_dir = {folder}\ndefault_pool_size = 3\nlogfile = {folder}/log\n"
    )
    borrowed: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        borrowed = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    process = subprocess.Popen([program, str(folder / "ini")], stderr=subprocess.DEVNULL, **borrowed)
    try:
        wait_until((folder / ".s.PGSQL.6432").exists, "pgbouncer")
        query = {"host": str(folder), "port": "6432"}
        yield url.set(host=None, port=None, query=query).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


async def test_a_pooler_that_gives_each_transaction_another_server(pooler: str, database: str) -> None:
    """Nothing is prepared, no setting stays behind: eight writers share three servers without an error."""

    async def one_of_eight() -> tuple[int, str | None]:
        async with writing(pooler, batch_rows=20) as one:
            put(one, 400)
            await one.drain(PATIENCE)
            return one.tries, one.trouble

    assert await asyncio.gather(*(one_of_eight() for _ in range(8))) == [(20, None)] * 8
    assert await stored(database) == 3200


async def test_the_pooler_of_these_tests_forgets_what_was_prepared(database: str) -> None:
    """As pgbouncer does: else it would prove nothing."""
    one = Pooler(database, servers=2)
    await one.open()
    connection = await asyncpg.connect(make_url(one.url).set(drivername="postgresql").render_as_string(False))
    try:
        async with connection.transaction():
            prepared = await connection.prepare("SELECT 1", name="mine")
            assert await prepared.fetchval() == 1
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await prepared.fetchval()
    finally:
        connection.terminate()
        await one.close()
