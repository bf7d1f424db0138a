"""A connection that is lost, slow, hung or refused costs no row, and the server is not pressed."""

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
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.batcher import Batcher
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.batchers import adds_up, troubled
from tests.kit.cluster import Cluster, cluster
from tests.kit.databases import T, by_way_of, healed, holding, put, role
from tests.kit.pooler import Pooler
from tests.kit.proxy import COMMITS, Proxy
from tests.kit.rows import PATIENCE, do, record, stored, writing
from tests.kit.support import wait_for, wait_until


async def test_a_database_that_is_not_there_at_start(gate: Proxy, database: str) -> None:
    """Rows wait, the reason is told, and they are stored once it is up."""
    async with writing(gate.url) as one:
        for _ in range(100):
            one.submit(record())
        await wait_for(lambda: one.last_error is not None, "the writer to notice")
        assert await one.drain(0.2) == 100
        await gate.open()
        assert await one.drain(PATIENCE) == 0
        assert one.last_error is None
    assert await stored(database) == 100


async def test_a_database_that_goes_and_comes_back(gate: Proxy, database: str) -> None:
    """Connections are cut in the middle of the load, several times: nothing is lost, nothing is double."""
    await gate.open()
    async with writing(gate.url, batch_rows=20) as one:
        for number in range(1000):
            one.submit(record())
            if number % 250 == 100:
                await wait_for(lambda: one.written > 0, "a first row")
                await gate.close()
                one.submit(record())
                await wait_for(lambda: one.last_error is not None, "the writer to notice")
                await gate.open()
        assert await one.drain(PATIENCE) == 0
    assert await stored(database) == 1004


async def test_a_database_that_does_not_answer(gate: Proxy, database: str) -> None:
    """A black hole: the deadline lets go of the connection, and a new one is used when it answers again."""
    await gate.open()
    async with writing(gate.url, statement_timeout_s=0.3, connect_timeout_s=0.3) as one:
        one.submit(record())
        assert await one.drain(PATIENCE) == 0
        gate.flowing.clear()
        one.submit(record())
        await wait_for(lambda: one.last_error is not None, "the deadline")
        gate.flowing.set()
        assert await one.drain(PATIENCE) == 0
    assert await stored(database) == 2


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


@pytest.mark.parametrize("careful", [False, True], ids=["copy", "insert"])
async def test_the_reply_to_a_commit_is_lost(proxy: Proxy, database: str, careful: bool) -> None:
    """The server has stored the batch, nobody knows, it is sent again: each row once."""
    async with writing(proxy.url) as one:
        first = put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        if careful:  # a row that is there already
            one.submit(first[0])
            assert await one.drain(PATIENCE) == 0, one.last_error
        proxy.cut_reply_to = COMMITS[1:2] if not careful else COMMITS[2:]
        put(one, 100)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert proxy.cuts == 1
        assert adds_up(one, 101 + careful)
    assert await stored(database) == 101


async def test_a_slow_way(proxy: Proxy, database: str) -> None:
    """A few tenths of a second for each packet: slow, and nothing worse. Nor is the server connected to twice."""
    proxy.delay_s = 0.1
    async with writing(proxy.url) as one:
        put(one, 200)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert one.last_error is None
    assert proxy.accepted == 1
    assert await stored(database) == 200


async def test_of_several_hosts_the_first_is_off(database: str) -> None:
    """Nothing answers there, not even with a refusal: the next one has as long as the first one had."""
    url = make_url(database)
    host, port = url.query.get("host", url.host), url.port or 5432
    with socket.create_server(("127.0.0.1", 0)) as off:
        both = by_way_of(url, host=f"127.0.0.1,{host}", port=f"{off.getsockname()[1]},{port}")
        async with writing(both, connect_timeout_s=1.0) as one:
            put(one, 3)
            assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(database) == 3


async def test_while_the_database_is_away_it_is_asked_at_most_once_a_second(proxy: Proxy, database: str) -> None:
    """And the first row is there five seconds after its return, however long it was away."""
    async with writing(proxy.url) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
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
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(database) == 11


async def test_the_log_says_what_keeps_connections_away_not_that_one_was_lost(
    proxy: Proxy, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is lost and made again is counted, and no line in the log."""
    diagnostics.reset()
    async with writing(proxy.url) as one:
        for _ in range(2):
            put(one, 1)
            assert await one.drain(PATIENCE) == 0, one.last_error
            proxy.abort()
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        # asyncio of Python 3.12.1 writes to a transport that has failed, and then watches a socket that is closed:
        # it says so, and the next connection of that number cannot be made
        slips = sum(line.name == "asyncio" for line in caplog.records)
        assert diagnostics.counts["database_away"] == 2 + slips
        assert slips or "cannot be reached" not in caplog.text
        await proxy.close()
        put(one, 1)
        await wait_for(lambda: "cannot be reached" in caplog.text, "the reason")
        assert "Errno" in caplog.text
        await proxy.open()
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(database) == 4


async def test_a_server_that_hangs(server: Cluster) -> None:
    """All its processes are stopped: the deadline lets go, and all is stored once they go on."""
    async with writing(server.url, statement_timeout_s=0.5, connect_timeout_s=0.5) as one:
        put(one, 10)
        assert await one.drain(PATIENCE) == 0, one.last_error
        with server.stopped():
            put(one, 100)
            await troubled(one)
            assert adds_up(one, 110)
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(server.url) == 110


async def test_a_server_that_does_not_answer_in_the_end(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever leaves then leaves in silence: nobody's log has a word of ours that is not llmctx's."""
    async with writing(proxy.url) as one:
        put(one, 5)
        assert await one.drain(PATIENCE) == 0, one.last_error
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
        assert await one.drain(PATIENCE) == 0, one.last_error
        await do(own, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await do(own, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'llmctx'")
        put(one, 10)
        await wait_for(lambda: "25006" in (one.last_error or ""), "a server that only reads")
        reset = f'SET default_transaction_read_only = off; ALTER DATABASE "{name}" RESET default_transaction_read_only'
        for statement in reset.split("; ")[1:]:
            await asyncio.to_thread(_writable, own, statement)
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(own) == 11


def _writable(url: str, statement: str) -> None:
    async def run() -> None:
        engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text("SET default_transaction_read_only = off"))
            await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


async def test_no_connection_is_left(database: str) -> None:
    """53300: rows wait until there is one, and two are never asked for at once."""
    limit = role(database, "CONNECTION LIMIT 1")
    async with limit as (limited, name), holding(limited, "SELECT 1"), writing(limited) as one:
        put(one, 10)
        await wait_for(lambda: "53300" in (one.last_error or ""), "the limit")
        await do(database, f"ALTER ROLE {name} CONNECTION LIMIT 2")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
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
        assert await one.drain(PATIENCE) == 0, one.last_error
        await do(server.url, "ALTER ROLE app PASSWORD 'new'")
        await do(server.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        put(one, 10)
        await wait_for(lambda: "28P01" in (one.last_error or ""), "the refusal")
        file.write_text("*:*:*:*:new\n")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(server.url) == 11


async def test_a_password_that_was_changed_in_the_environment(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the URL was read there, it is read again once the database refuses the password."""
    await do(server.url, "CREATE ROLE app LOGIN PASSWORD 'old'", f"GRANT INSERT ON {T} TO app")
    server.allow("local all llmctx trust", "local all app scram-sha-256")
    url = make_url(server.url).set(username="app", password="old")
    monkeypatch.setenv("LLMCTX_DATABASE_URL", url.render_as_string(hide_password=False))
    async with writing(load().database_url) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        await do(server.url, "ALTER ROLE app PASSWORD 'new'")
        await do(server.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        put(one, 10)
        await wait_for(lambda: "28P01" in (one.last_error or ""), "the refusal")
        monkeypatch.setenv("LLMCTX_DATABASE_URL", url.set(password="new").render_as_string(hide_password=False))
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
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
            assert await one.drain(PATIENCE) == 0, one.last_error
        assert await stored(database) == 10
    finally:
        await way.remove()


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
def pgbouncer(program: str, database: str, mode: str = "transaction") -> Iterator[str]:
    url = make_url(database)
    where = url.query.get("host", url.host)
    folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
    (folder / "ini").write_text(
        f"[databases]\n{url.database} = host={where} port={url.port or 5432} user={url.username}\n"
        f"[pgbouncer]\npool_mode = {mode}\nauth_type = any\nlisten_port = 6432\nlisten_addr =\n"
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
        yield by_way_of(url, host=str(folder), port="6432")
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)


async def test_a_pooler_that_gives_each_transaction_another_server(pooler: str, database: str) -> None:
    """Nothing is prepared, no setting stays behind: eight writers share three servers without an error."""

    async def one_of_eight() -> tuple[int, str | None]:
        async with writing(pooler, batch_rows=20) as one:
            put(one, 400)
            await one.drain(PATIENCE)
            return one.attempts, one.last_error

    assert await asyncio.gather(*(one_of_eight() for _ in range(8))) == [(20, None)] * 8
    assert await stored(database) == 3200


async def test_a_pooler_that_lends_by_session(pooler: str, database: str) -> None:
    """Writers that always have rows do not keep its three servers for themselves."""
    with contextlib.ExitStack() as until_end:
        if (program := shutil.which("pgbouncer")) is not None:
            pooler = until_end.enter_context(pgbouncer(program, database, "session"))
        async with contextlib.AsyncExitStack() as running, asyncio.TaskGroup() as work:
            writers = [await running.enter_async_context(writing(pooler)) for _ in range(6)]
            busy = [work.create_task(_keep_busy(one)) for one in writers]
            await wait_for(lambda: all(one.written for one in writers), "each to have its turn", PATIENCE)
            for one in busy:
                one.cancel()


async def _keep_busy(one: Batcher) -> None:
    while True:
        one.submit(record())
        await asyncio.sleep(0.05)


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
