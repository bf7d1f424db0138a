"""Tables that are there already: adopted beside those who write to them, and given back as they were."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.errors import LlmctxError, MigrationsPending, NotACallLog
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import execute
from tests.kit.databases import columns_of
from tests.kit.rows import query
from tests.kit.support import wait_for
from tests.migration.filling import CHILD, SHAPES, OldWriter, connect, digest, fill
from tests.migration.psql import dumped, has_lz4, psql

ROOT = Path(__file__).parents[2]
T = DEFAULT_TABLE
ROWS = 20_000


def adopt(url: str, **how: Any) -> None:
    migrate.upgrade(load(database_url=url), **how)


def call(url: str, **ids: str) -> None:
    """One call of an application that has just been given llmctx, as a row.

    `close` alone waits for four seconds; 35 round trips of a first connection take longer where each waits for 0.12 s.
    """
    with CallLog(url) as call_log:
        with bind(**ids), call_log.record(model="gpt-5", prompt="it's \x00 late") as made:
            made.set(temperature=0.333, prompt_tokens=7, response="it is")
        assert call_log.flush(60) == 0, call_log.stats()


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_table_is_adopted_while_it_is_written_to(empty_database: str, shape: str) -> None:
    """No row is lost or changed, nobody waits, and what llmctx writes stands beside the rest; down leaves no trace."""
    url = empty_database
    await fill(url, shape, ROWS)
    connection = await connect(url)
    before, columns = dumped(url), await columns_of(connection)
    had = await digest(connection, columns)
    async with OldWriter(url, shape) as old:
        await wait_for(lambda: len(old.written) > 20, "the old writer")
        await asyncio.to_thread(adopt, url)
        reached = len(old.written)
        await wait_for(lambda: len(old.written) > reached + 20, "the old writer to go on")
    assert old.failed == []
    assert old.longest_s < 3, "this machine may be busy; `make adopt` wants less than one"
    assert await digest(connection, columns, f"{T} WHERE model <> 'gpt-4o' OR temperature <> 0.5") == had
    known = await connection.fetchval(f"SELECT count(*) FROM {T} WHERE call_id = ANY ($1)", old.written)
    assert known == len(old.written)
    settings = load(database_url=url)
    assert (await asyncio.to_thread(migrate.check, settings)).is_current
    assert (await asyncio.to_thread(migrate.plan, settings)).steps == []

    await asyncio.to_thread(call, url, session_id="s" * 70, user_id="42")
    await asyncio.to_thread(call, url, session_id="s-2", user_id="o'hara")
    rows = await connection.fetch(f"SELECT * FROM {T} WHERE model = 'gpt-5' ORDER BY created_at")
    assert [row["user_id"] for row in rows] == ([42, None] if shape == "numbers" else ["42", "o'hara"])
    if shape == "numbers":
        assert [row["llmctx_user_id"] for row in rows] == [None, "o'hara"]
    assert len(rows[0]["session_id"]) == 64
    assert rows[0]["id"] is not None
    assert rows[0]["call_id"]
    assert '"session_id"' in rows[0]["attributes"]
    assert float(rows[0]["temperature"]) == 0.33
    assert rows[0]["created_at"].tzinfo is None or shape == "unkeyed"
    assert "temperature" in rows[0]["attributes"]

    after = dumped(url)
    await asyncio.to_thread(migrate.downgrade, settings)
    assert dumped(url) == before
    assert await connection.fetchval(f"SELECT count(*) FROM {T}") == had[0] + known + 2
    await asyncio.to_thread(adopt, url)
    assert dumped(url) == after
    await connection.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_stored_once(empty_database: str, shape: str) -> None:
    """The key that is there, or the one that was added, keeps a second delivery out, and no old row."""
    asyncio.run(fill(empty_database, shape, 500))
    adopt(empty_database)
    call(empty_database, session_id="s", user_id="7")
    names = "id, call_id, model, created_at, status"
    again = f"SELECT {names.replace('id,', 'id::text || 1,', 1)} FROM {T} WHERE model = 'gpt-5'"
    if shape == "numbers":
        again = again.replace("id::text || 1", "id + 1000000")
    execute(empty_database, f"INSERT INTO {T} ({names}) {again} ON CONFLICT DO NOTHING")
    ((count,),) = asyncio.run(query(empty_database, f"SELECT count(*) FROM {T} WHERE model = 'gpt-5'"))
    assert count == 1
    if shape == "unkeyed":  # theirs may still be double, as they have arranged it
        execute(empty_database, f"INSERT INTO {T} (id, call_id, model, created_at) VALUES ('a', 'x', 'm', now())")
        execute(empty_database, f"INSERT INTO {T} (id, call_id, model, created_at) VALUES ('b', 'x', 'm', now())")


def test_numbers_that_the_application_gave_out_itself(empty_database: str) -> None:
    """Another role owns the table: the sequence for rows of llmctx is his, and the application may use it."""
    url = empty_database
    owner, application = "llmctx_test_owner", "llmctx_test_app"
    drop = [f"DROP ROLE IF EXISTS {name}" for name in (owner, application)]
    execute(url, *drop, f"CREATE ROLE {owner}", f"CREATE ROLE {application} LOGIN",
            f"CREATE TABLE {T} (id bigint PRIMARY KEY, {PLAIN})", f"ALTER TABLE {T} OWNER TO {owner}",
            f"GRANT INSERT ON {T} TO {application}")  # fmt: skip
    try:
        before = dumped(url)
        adopt(url)
        call(make_url(url).set(username=application).render_as_string(hide_password=False))
        assert psql(url, f"SELECT id FROM {T}").strip() == "-1"
        migrate.downgrade(load(database_url=url))
        assert dumped(url) == before
    finally:
        execute(url, *[f"DROP OWNED BY {name} CASCADE" for name in (owner, application)], *drop)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_empty_table_by_each_way(empty_database: str, shape: str) -> None:
    """`llmctx migrate`, the SQL it prints for this table, and the SQL for a table it has not seen come to the same."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, shape, 0))
    bare = dumped(url)
    printed, unseen = migrate.sql(settings, look=True), migrate.sql(settings, existing=shape)
    adopt(url)
    adopted = dumped(url)
    back = migrate.sql(settings, down=True, look=True)
    psql(url, back)
    assert dumped(url) == bare
    for script in (printed, unseen):
        psql(url, script)
        assert migrate.check(settings).is_current
        migrate.upgrade(settings)  # compression, where the server has it, is no part of the scripts
        assert dumped(url) == adopted
        migrate.downgrade(settings)
        assert dumped(url) == bare


def test_the_sql_for_an_unseen_table_can_be_run_again(empty_database: str) -> None:
    """All but the note of the version, which is there already."""
    asyncio.run(fill(empty_database, "texts", 100))
    script = migrate.sql(load(database_url=empty_database), existing="texts")
    psql(empty_database, script)
    first = dumped(empty_database)
    middle = script[script.index("SET lock_timeout") : script.rindex("RESET lock_timeout")]
    psql(empty_database, middle)
    assert dumped(empty_database) == first


def test_text_ids_where_users_are_numbers(empty_database: str) -> None:
    """Said beforehand with the choices; kept beside, and put together again by --widen."""
    asyncio.run(fill(empty_database, "numbers", 100))
    settings = load(database_url=empty_database)
    (note,) = [note for note in migrate.plan(settings).notes if note.startswith("user_id is integer")]
    assert "llmctx_user_id" in note
    assert "--widen" in note
    adopt(empty_database)
    call(empty_database, session_id="s", user_id="007")
    call(empty_database, session_id="s", user_id="7")
    widening = migrate.plan(settings, widen=True)
    # the index of rows without an id knows of the column beside: it is made anew
    assert [step.lock for step in widening.steps] == ["nobody", "everybody", "nobody"]
    adopt(empty_database, widen=True)
    found = asyncio.run(query(empty_database, f"SELECT user_id FROM {T} WHERE model = 'gpt-5' ORDER BY created_at"))
    assert [row[0] for row in found] == ["007", "7"]
    assert migrate.check(settings).is_current
    call(empty_database, session_id="s", user_id="zoë")
    found = asyncio.run(query(empty_database, f"SELECT llmctx_user_id FROM {T} WHERE user_id = 'zoë'"))
    assert found == [(None,)]


def test_columns_that_must_have_a_value_may_be_null_until_the_downgrade(empty_database: str) -> None:
    """A call without a user is a row too; the way back restores what it can, and says what it cannot."""
    execute(
        empty_database,
        f"CREATE TABLE {T} (id bigint PRIMARY KEY, call_id uuid UNIQUE NOT NULL, user_id text NOT NULL, "
        "error_code text NOT NULL DEFAULT '', session_id bigint, model text NOT NULL, created_at timestamptz NOT NULL)",
    )
    before = dumped(empty_database)
    settings = load(database_url=empty_database)
    adopt(empty_database)
    call(empty_database, session_id="not-a-number", user_id="u")
    ((number, session),) = asyncio.run(query(empty_database, f"SELECT id, llmctx_session_id FROM {T}"))
    assert (number, session) == (-1, "not-a-number")
    execute(empty_database, f"UPDATE {T} SET error_code = ''")
    migrate.downgrade(settings)
    assert dumped(empty_database) == before
    adopt(empty_database)
    call(empty_database, session_id="3")
    assert any("user_id is NULL" in note for note in migrate.plan(settings, down=True).notes)
    migrate.downgrade(settings)
    assert migrate.plan(settings, down=True).steps == []


STEP_BY_STEP = """
import os, signal, sys
from llmctx import migrate
from llmctx.settings import load
deaths = 0
die = lambda _: os.kill(os.getpid(), signal.SIGKILL)
while deaths < 20:
    child = os.fork()
    if not child:
        migrate.upgrade(load(database_url=sys.argv[1]), say=die)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended != -signal.SIGKILL:
        break
    deaths += 1
print(deaths)
sys.exit(ended)
"""


def test_killed_after_each_step_it_goes_on_where_it_was(empty_database: str) -> None:
    """Processes that die as soon as they have done one step come to the same end as one that does not; back as well."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "unkeyed", 1000))
    bare = dumped(url)
    adopt(url)
    whole = dumped(url)

    def broken(_: str) -> None:
        raise KeyboardInterrupt

    breaks = 0
    while migrate.plan(settings, down=True).steps and breaks < 20:
        with pytest.raises(KeyboardInterrupt):
            migrate.downgrade(settings, say=broken)
        breaks += 1
    migrate.downgrade(settings)
    assert breaks == 7 + has_lz4(url)
    assert dumped(url) == bare
    assert migrate.state(settings).current is None
    program = [sys.executable, "-c", STEP_BY_STEP, url]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr
    assert dumped(url) == whole


@contextmanager
def holding(url: str, statement: str) -> Iterator[Any]:
    """Somebody else's transaction, in which `statement` was the last."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(connect(url))
    try:
        loop.run_until_complete(connection.execute(f"BEGIN; {statement}"))
        yield lambda sql: loop.run_until_complete(connection.execute(sql))
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_break_while_an_index_is_built(empty_database: str, how: signal.Signals) -> None:
    """The unfinished index is dropped and made again; rows and writers have noticed nothing."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "texts", 1000))
    environment = {**os.environ, "LLMCTX_DATABASE_URL": url}
    seen = "SELECT count(*) FROM pg_stat_progress_create_index"
    execute(url, f"ALTER TABLE {T} ADD COLUMN host_note text")
    with holding(url, "SELECT 1") as do:
        adding = subprocess.Popen([sys.executable, "-m", "llmctx", "migrate", "--yes"], cwd=ROOT, env=environment,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert adding.stdout is not None
        while "default" not in (adding.stdout.readline() or "default"):
            pass
        do(f"INSERT INTO {T} (id, call_id, model, created_at) VALUES ('h', 'h', 'm', now())")
        asyncio.run(until(url, seen))
        adding.send_signal(how)
        adding.communicate(timeout=60)
        assert adding.returncode == (130 if how is signal.SIGINT else -9)
        mine = f"datname = '{make_url(url).database}'"
        psql(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE {mine}")
        with pytest.raises(MigrationsPending):
            migrate.check(settings)
        do("COMMIT")
    adopt(url)
    assert migrate.check(settings).is_current
    assert psql(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid").strip() == "0"
    assert psql(url, f"SELECT count(*) FROM {T}").strip() == "1001"


async def until(url: str, question: str) -> None:
    """Wait until `question` is answered with something but nothing."""
    connection = await connect(url)
    try:
        async with asyncio.timeout(60):
            while not await connection.fetchval(question):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


def test_somebody_who_holds_the_table_is_named(empty_database: str) -> None:
    """It is tried for as long as one likes, nobody queues behind it for longer than a moment, nothing is half done."""
    url = empty_database
    asyncio.run(fill(url, "texts", 10))
    before = dumped(url)
    with holding(url, f"SELECT * FROM {T} LIMIT 1"), pytest.raises(LlmctxError, match="idle in transaction, for"):
        adopt(url, patience_s=0.5)
    assert dumped(url) == before
    adopt(url)


PLAIN = "call_id varchar(64) UNIQUE, model text, created_at timestamptz NOT NULL"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE {t} (id serial PRIMARY KEY, note text)"], "not a call log: it has no call_id"),
        (["CREATE TABLE other (" + PLAIN + ")", "CREATE VIEW {t} AS SELECT * FROM other"], "is a view, not a table"),
        (["CREATE MATERIALIZED VIEW {t} AS SELECT 1 AS call_id"], "is a materialized view"),
        (["CREATE TABLE {t} (call_id varchar(20), model text, created_at timestamp)"], "cannot hold a UUID"),
        (["CREATE TABLE {t} (call_id integer, model text, created_at timestamp)"], "call_id is integer"),
        (["CREATE TABLE {t} (call_id uuid, model text, created_at date)"], "created_at is date"),
        (["CREATE TABLE {t} (" + PLAIN + ", tenant text NOT NULL)"], "column tenant .text. is NOT NULL"),
        (["CREATE TABLE {t} (call_id uuid UNIQUE DEFERRABLE, model text, created_at timestamp)"], "deferrable"),
        (
            ["CREATE TABLE {t} (" + PLAIN + ", user_id text, PRIMARY KEY (call_id, user_id))"],
            "user_id is part of the primary key",
        ),
    ],
)
def test_what_cannot_be_adopted_is_left_alone(empty_database: str, statements: list[str], said: str) -> None:
    """A clear word, before anything was changed; by plain alembic as well."""
    execute(empty_database, *[statement.format(t=T) for statement in statements])
    before = dumped(empty_database)
    settings = load(database_url=empty_database)
    for attempt in (migrate.plan, migrate.upgrade, migrate.check):
        with pytest.raises(NotACallLog, match=f"(?i){said}"):
            attempt(settings)
    assert dumped(empty_database) == before


def test_what_keeps_an_id_from_becoming_text_is_said_before(empty_database: str) -> None:
    """A view, a policy, a computed column: named, and nothing is changed."""
    asyncio.run(fill(empty_database, "numbers", 10))
    execute(empty_database, f"CREATE VIEW costs AS SELECT user_id FROM {T}",
            f"ALTER TABLE {T} ADD COLUMN twice integer GENERATED ALWAYS AS (user_id * 2) STORED")  # fmt: skip
    before = dumped(empty_database)
    with pytest.raises(NotACallLog, match=r"(?i)column twice.*view costs.*use user_id"):
        adopt(empty_database, widen=True)
    assert dumped(empty_database) == before
    adopt(empty_database)


def test_a_trigger_that_copies_whole_rows(empty_database: str) -> None:
    """With more columns its insert would fail, and the application's with it: so they are named first."""
    asyncio.run(fill(empty_database, "texts", 10))
    body = "BEGIN INSERT INTO copies SELECT now(), {}; RETURN NULL; END"
    define = "CREATE OR REPLACE FUNCTION copied() RETURNS trigger LANGUAGE plpgsql AS '" + body + "'"
    execute(empty_database, f"CREATE TABLE copies AS SELECT now() AS at, * FROM {T}", define.format("NEW.*"),
            f"CREATE TRIGGER copies AFTER INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION copied()")  # fmt: skip
    with pytest.raises(NotACallLog, match="The trigger copies copies whole rows"):
        migrate.plan(load(database_url=empty_database))
    execute(empty_database, define.format("to_jsonb(NEW.*)"))
    migrate.plan(load(database_url=empty_database))
    execute(empty_database, define.format("NEW.id, NEW.call_id"))
    adopt(empty_database)
    call(empty_database, session_id="s")
    assert psql(empty_database, "SELECT count(*) FROM copies").strip() == "11"


def test_a_table_of_another_role(empty_database: str) -> None:
    """Whoever may not change the table is told who may, and what to hand to them; then it is adopted."""
    url = empty_database
    asyncio.run(fill(url, "texts", 50))
    owner, application = "llmctx_test_owner", "llmctx_test_app"
    drop = [f"DROP ROLE IF EXISTS {name}" for name in (owner, application)]
    execute(url, *drop, f"CREATE ROLE {owner} LOGIN PASSWORD 'o'", f"CREATE ROLE {application} LOGIN PASSWORD 'a'",
            f"GRANT CREATE ON SCHEMA public TO {owner}", f"ALTER TABLE {T} OWNER TO {owner}",
            f"GRANT INSERT, SELECT ON {T} TO {application}")  # fmt: skip
    try:
        as_owner, as_application = (
            make_url(url).set(username=name, password=name[12]).render_as_string(hide_password=False)
            for name in (owner, application)
        )
        before = dumped(url)
        settings = load(database_url=as_application)
        for attempt in (migrate.plan, migrate.upgrade):
            with pytest.raises(LlmctxError, match=f"belongs to the role {owner}.*--sql"):
                attempt(settings)
        assert dumped(url) == before
        psql(as_owner, migrate.sql(settings, look=True))
        assert migrate.check(settings).is_current
        call(as_application, session_id="s", user_id="u")
    finally:
        execute(url, *[f"DROP OWNED BY {name} CASCADE" for name in (owner, application)], *drop)


def test_another_name_in_another_schema(empty_database: str) -> None:
    """The table is where the settings say, and bears a name that wants quotes."""
    url = empty_database
    execute(url, "CREATE SCHEMA agents", f'CREATE TABLE agents."Calls" ({PLAIN}, user_id text)')
    settings = load(database_url=url, table="Calls", db_schema="agents")
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
    with CallLog(url, table="Calls", db_schema="agents") as call_log:
        with call_log.record(model="m"):
            pass
        assert call_log.flush(60) == 0, call_log.stats()
    assert psql(url, 'SELECT count(*) FROM agents."Calls"').strip() == "1"
    migrate.downgrade(settings)
    assert "call_id,model,created_at,user_id" in psql(
        url, "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = 'agents.\"Calls\"'::regclass AND attnum > 0 AND NOT attisdropped"
    )  # fmt: skip


def test_a_table_that_was_partitioned_by_its_team(empty_database: str) -> None:
    """Indexes are built on each partition beside its writers, and joined."""
    url = empty_database
    execute(
        url,
        f"CREATE TABLE {T} (call_id varchar(64), model text, created_at timestamptz NOT NULL, user_id text, "
        "session_id text) PARTITION BY RANGE (created_at)",
        f"CREATE TABLE old PARTITION OF {T} FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
        f"CREATE TABLE rest PARTITION OF {T} DEFAULT",
    )
    before, settings = dumped(url), load(database_url=url)
    adopt(url)
    assert migrate.check(settings).is_current
    assert psql(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid").strip() == "0"
    call(url, session_id="s", user_id="u")
    migrate.downgrade(settings)
    assert dumped(url) == before


def test_what_stands_in_an_empty_child_table_is_still_tied(empty_database: str) -> None:
    """The foreign key of the team's messages goes on working after the adoption."""
    asyncio.run(fill(empty_database, "texts", 100))
    adopt(empty_database)
    with pytest.raises(Exception, match="foreign key"):
        execute(empty_database, f"INSERT INTO {CHILD} (call_id) VALUES ('nobody')")
