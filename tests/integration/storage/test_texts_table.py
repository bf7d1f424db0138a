"""Texts that stand in a table of their own: each is stored once, found by every reader, and dropped by the day."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from llmctx import cli
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import LlmctxError
from llmctx.core.record import DEFAULT_TABLE as T
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor.table_checks import table as doctor
from llmctx.ops.erase import Subject, erase
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import read_connection
from llmctx.storage.filters import Filters
from llmctx.storage.reflection import reflect
from llmctx.storage.retention import Policy, retain
from llmctx.storage.texts_table import name_of
from tests.conftest import ROOT
from tests.kit import lives
from tests.kit.databases import holding, refuse_while, role
from tests.kit.pooler import Pooler
from tests.kit.rows import do, query, record, store, stored, writing
from tests.kit.support import wait_until

TEXTS = name_of(T)
WHOLE = {"prompt_snapshot": '"p"', "response_snapshot": '"r"', "reasoning_snapshot": '"t"'}
PARTS = f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{TEXTS}'::regclass"


async def held(url: str) -> tuple[int, int, int]:
    """Return how many rows there are, how many of them hold texts themselves, and how many texts stand apart."""
    ((rows, own),) = await query(url, f"SELECT count(*), count(prompt_snapshot) FROM {T}")
    ((apart,),) = await query(url, f"SELECT count(*) FROM {TEXTS}")
    return rows, own, apart


async def days(url: str) -> set[str]:
    return {row[0].removeprefix(f"{TEXTS}_p") for row in await query(url, PARTS)} - {f"{TEXTS}_default"}


# -- storing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_pooled", [False, True], ids=["direct", "through a pooler"])
async def test_texts_are_stored_apart_and_found(texts_apart: str, is_pooled: bool) -> None:
    """Each with its row, by a role that may only insert; a row without texts has none there."""
    whole, bare, other = record(**WHOLE), record(), record(response_snapshot='"answer"')
    async with role(texts_apart, "") as (limited, name):
        await do(texts_apart, f"GRANT INSERT ON {TEXTS} TO {name}")
        pooler = Pooler(limited, servers=2)
        await pooler.open()
        try:
            await store(load(database_url=pooler.url if is_pooled else limited), whole, bare, other)
        finally:
            await pooler.close()
    assert await held(texts_apart) == (3, 0, 2)
    async with read_connection(load(database_url=texts_apart)) as connection:
        table = await reflect(connection, load(database_url=texts_apart))
        found = await queries.call(connection, table, str(whole.call_id))
        assert {name: found[name] for name in WHOLE} == WHOLE
        found = await queries.call(connection, table, str(bare.call_id))
        assert {found[name] for name in WHOLE} == {None}
        (one,) = await queries.calls(connection, table, Filters(text="ANSWER"), whole=True)
        assert (one["call_id"], one["prompt_snapshot"], one["response_snapshot"]) == (other.call_id, None, '"answer"')


async def test_older_and_newer_writers(texts_apart: str) -> None:
    """An older one stores texts in the row; rows that come twice, from either, stand there once with their texts."""
    settings = load(database_url=texts_apart)
    rows = [record(prompt_snapshot=f'"{number}"') for number in range(6)]
    await store(settings, *rows[:3])
    await do(texts_apart, f"ALTER TABLE {TEXTS} RENAME TO away")  # from a writer that knows of no such table
    await store(settings, *rows[3:], rows[0])
    await do(texts_apart, f"ALTER TABLE away RENAME TO {TEXTS}")
    assert await held(texts_apart) == (6, 3, 3)
    await store(settings, *rows)
    assert await held(texts_apart) == (6, 3, 3)
    async with read_connection(settings) as connection:
        found = await queries.calls(connection, await reflect(connection, settings), whole=True, limit=10)
    assert sorted(one["prompt_snapshot"] for one in found) == [one.prompt_snapshot for one in rows]


async def test_a_text_does_not_come_back(texts_apart: str) -> None:
    """A row whose texts were taken out, and that is delivered once more, stays without."""
    settings, one = load(database_url=texts_apart), record(**WHOLE)
    await store(settings, one)
    await erase(settings, Subject(user="u"), do=True, blank=True)
    await store(settings, one, record(**WHOLE))
    assert await held(texts_apart) == (2, 1, 0)


@pytest.mark.parametrize(
    "harm", [f"DROP TABLE {TEXTS}", f"ALTER TABLE {TEXTS} ADD CHECK (prompt_snapshot IS NULL) NOT VALID"],
    ids=["gone", "refusing"],
)  # fmt: skip
async def test_a_row_is_stored_whatever_becomes_of_the_table_of_texts(empty_database: str, harm: str) -> None:
    """Its texts are in the row then, and it is counted. A row that is to blame for itself is set aside as ever."""
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database), texts_apart=True)
    await do(empty_database, f"ALTER TABLE {T} ADD CHECK (model <> 'bad')")
    diagnostics.reset()
    async with writing(empty_database) as writer:
        assert writer.submit(record(**WHOLE))
        assert await writer.drain(60) == 0
        await do(empty_database, harm)
        assert writer.submit(record(**WHOLE))
        assert await writer.drain(60) == 0
        assert diagnostics.counts["texts_not_apart"] == 1
        assert all(writer.submit(record(**WHOLE, model=model)) for model in ("m", "bad", "m"))
        assert await writer.drain(60) == 0
        assert (writer.written, writer.quarantined) == (4, 1)
    assert await query(empty_database, f"SELECT count(*), count(prompt_snapshot) FROM {T}") == [(4, 3)]


async def test_a_trigger_of_the_hosts_sees_the_texts(empty_database: str) -> None:
    """It may redact them, or keep the row out: so they are stored as it would have them."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings, texts_apart=True)
    await refuse_while(empty_database, "NEW.prompt_snapshot LIKE '%secret%'", "22000")
    async with writing(empty_database) as writer:
        assert all(writer.submit(record(prompt_snapshot=text)) for text in ('"secret"', '"fine"'))
        assert await writer.drain(60) == 0
        assert writer.quarantined == 1
    assert await held(empty_database) == (1, 1, 0)
    await do(empty_database, f"DROP TABLE {TEXTS}", f"DROP INDEX ix_{T}_texts")
    with pytest.raises(LlmctxError, match="host_trigger"):
        await asyncio.to_thread(migrate.upgrade, settings, texts_apart=True)


def test_a_kill_between_row_and_text(texts_apart: str) -> None:
    """The writer dies when the row is in and its text is not: the next one stores both, once."""
    waiting = f"SELECT count(*) FROM pg_locks WHERE relation = '{TEXTS}'::regclass AND NOT granted"
    body = 'with bind(user_id="u", session_id="s"):\n    Talker().invoke("hello")\npause()'

    async def die_waiting() -> None:
        async with holding(texts_apart, f"LOCK TABLE {TEXTS} IN SHARE MODE"):
            process = await asyncio.to_thread(lives.start, body, texts_apart)
            async with asyncio.timeout(120):  # or, on a busy machine, it has waited already, and gone another way
                while await query(texts_apart, waiting) == [(0,)] and await stored(texts_apart) == 0:
                    await asyncio.sleep(0)
            process.kill()
            await asyncio.to_thread(process.communicate)

    asyncio.run(die_waiting())
    call_log = CallLog(texts_apart)
    call_log.start()
    try:
        wait_until(lambda: call_log.stats().adopted == 1, "the adoption", 60)
        assert call_log.flush(60) == 0
    finally:
        call_log.close()
    rows, own, apart = asyncio.run(held(texts_apart))
    assert (rows, own + apart) == (1, 1)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_every_verb(texts_apart: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Says the same of texts that stand apart and of those in their rows."""
    settings = load(database_url=texts_apart)
    said = {"prompt_snapshot": '[{"role": "human", "content": "question"}]', "response_snapshot": '"the answer"'}
    rows = [record(**said, user_id="ada", session_id="s-1"), record(user_id=None, session_id="s-1")]
    asyncio.run(store(settings, *rows))
    shown = []
    verbs = [
        ["calls"], ["calls", "--text", "ANSWER", "--json"], ["show", str(rows[0].call_id)], ["sessions", "s-1"],
        ["export", "--user", "ada"], ["stats", "--by", "user"], ["recompute"], ["backfill"],
        ["erase", "--user", "ada", "--mentions"], ["migrate", "check"],
    ]  # fmt: skip
    for layout in ("apart", "in their rows"):
        assert asyncio.run(held(texts_apart)) == ((2, 0, 1) if layout == "apart" else (2, 1, 0))
        answers = []
        for verb in verbs:
            capsys.readouterr()
            code = cli.run(["--database-url", texts_apart, *verb])
            answers.append((verb, code, capsys.readouterr().out))
        shown.append(answers)
        asyncio.run(
            do(
                texts_apart,
                f"UPDATE {T} l SET prompt_snapshot = t.prompt_snapshot, response_snapshot = t.response_snapshot "
                f"FROM {TEXTS} t WHERE t.call_id = l.call_id",
                f"TRUNCATE {TEXTS}",
            )
        )
    for (verb, code, out), (_, other_code, other) in zip(*shown, strict=True):
        assert (code, out) == (other_code, other), verb
        if verb[0] in ("show", "sessions", "export"):
            assert "the answer" in out, verb
    assert len(json.loads(shown[0][1][2])) == 1


async def test_texts_are_fetched_for_what_is_output_alone(texts_apart: str) -> None:
    """Of twenty calls out of thousands, by their keys, in the days of their own; and never where none are asked for."""
    settings = load(database_url=texts_apart)
    many = (
        f"INSERT INTO {T} (call_id, created_at, model) SELECT gen_random_uuid(), now() - n * interval '1 minute', 'm'"
    )
    await do(
        texts_apart, f"{many} FROM generate_series(1, 3000) n",
        f"INSERT INTO {TEXTS} (call_id, created_at, prompt_snapshot) SELECT call_id, created_at, 'p' FROM {T}",
        f"ANALYZE {T}", f"ANALYZE {TEXTS}",
    )  # fmt: skip
    plans: list[str] = []
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        statements: list[tuple[str, Any]] = []
        sa.event.listen(
            connection.sync_connection, "before_cursor_execute",
            lambda connection, cursor, statement, parameters, context, many: statements.append((statement, parameters)),
        )  # fmt: skip
        page = await queries.call_page(connection, table, limit=20, whole=True)
        assert [row["prompt_snapshot"] for row in page.rows] == ["p"] * 20
        listing = len(statements)
        await queries.call_page(connection, table, limit=20)
        assert TEXTS not in " ".join(statement for statement, _ in statements[listing:])
        for statement, parameters in statements[:listing]:
            if TEXTS in statement:
                found = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, TIMING OFF) {statement}", parameters)
                plans.append("\n".join(found.scalars()))
    assert plans
    for plan in plans:
        scans = [line for line in plan.splitlines() if re.search(rf"Scan .*on {TEXTS}_p", line)]
        loops = [int(found) for line in scans for found in re.findall(r"loops=(\d+)", line)]
        assert sum(loops) <= 3 * 21, plan
        assert any("never executed" in line for line in scans), plan


# -- the end of texts -------------------------------------------------------------------------------------------------


async def test_retain_drops_texts_by_the_day(empty_database: str) -> None:
    """Rows stay; days ahead are made; texts in rows are taken out of them; rows' own end takes their texts along."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings, texts_apart=True)
    now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    made = await days(empty_database)
    assert len(made) == 16
    later = now + timedelta(days=20)
    planned = await retain(settings, Policy(), now=later)
    assert sum("make partition" in step and TEXTS in step for step in planned.steps) == 15
    await retain(settings, Policy(), do=True, now=later)
    assert (await retain(settings, Policy(), do=True, now=later)).steps == []
    rows = [record(created_at=now + timedelta(days=number), **WHOLE) for number in (-3, 0, 1, 10, 20)]
    await store(settings, *rows)
    inline = record(created_at=now, **WHOLE)
    await do(
        empty_database, f"INSERT INTO {T} (call_id, created_at, model, success, prompt_snapshot) "
        f"VALUES ('{inline.call_id}', '{inline.created_at}', 'm', true, 'older')",
    )  # fmt: skip
    assert await held(empty_database) == (6, 1, 5)
    report = await retain(settings, Policy(snapshots=10), do=True, now=later)
    assert sum(step.startswith(f"drop partition {TEXTS}_p") for step in report.steps) == 11, report.steps
    assert report.snapshots == 2  # of the default partition, and of the row
    assert await held(empty_database) == (6, 0, 2)
    assert (await retain(settings, Policy(snapshots=10), do=True, now=later)).steps == []
    report = await retain(settings, Policy(rows=5, exact=True), do=True, now=later)
    assert await held(empty_database) == (1, 0, 1)
    assert (await retain(settings, Policy(rows=5, exact=True), do=True, now=later)).steps == []


async def test_rows_that_are_deleted_one_by_one_take_their_texts_along(empty_database: str) -> None:
    """Of days whose failed calls are kept, these keep what they said. What is left can go into the rows again."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings, texts_apart=True)
    now = datetime.now(UTC)
    old = {"created_at": now - timedelta(days=40), **WHOLE}
    await store(settings, record(**old), record(**old, success=False, status="error"), record(**WHOLE))
    await retain(settings, Policy(rows=30, errors=90, exact=True), do=True, now=now)
    assert await held(empty_database) == (2, 0, 2)
    back = (ROOT / "docs/snippets/how_to/texts_into_rows.sql").read_text().split(";")
    await do(empty_database, *filter(str.strip, back))
    columns = ", ".join(f"count({name})" for name in WHOLE)
    assert await query(empty_database, f"SELECT {columns}, to_regclass('{TEXTS}') FROM {T}") == [(2, 2, 2, None)]


# -- making it, and taking it away ------------------------------------------------------------------------------------


def test_on_the_command_line(empty_database: str, sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Planned, made with the table or for one that is there, once; gone with it; and refused where it cannot be."""

    def llmctx(*arguments: str, url: str = empty_database) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(["--database-url", url, "migrate", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    assert "SQLite" in llmctx("--texts-apart", url=sqlite_url)[1]
    code, out = llmctx("--texts-apart", "--plan")
    assert (code, TEXTS in out) == (0, True)
    assert asyncio.run(query(empty_database, f"SELECT to_regclass('{T}')")) == [(None,)]
    assert llmctx()[0] == 0
    assert TEXTS not in llmctx("--plan")[1]
    asyncio.run(do(empty_database, "DROP ROLE IF EXISTS llmctx_reader", "CREATE ROLE llmctx_reader"))
    try:
        asyncio.run(do(empty_database, f"GRANT SELECT ON {T} TO llmctx_reader"))
        assert llmctx("--texts-apart")[0] == 0
        assert asyncio.run(
            query(empty_database, f"SELECT has_table_privilege('llmctx_reader', '{TEXTS}', 'SELECT')")
        ) == [(True,)]
    finally:
        asyncio.run(do(empty_database, "DROP OWNED BY llmctx_reader", "DROP ROLE llmctx_reader"))
    assert "Nothing to do" in llmctx("--texts-apart")[1]
    assert llmctx("check")[0] == 0
    assert not migrate.include_object(None, f"{TEXTS}_p2026_11_30", "table", True, None)  # for a host's autogenerate
    valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_{T}_texts'::regclass"
    assert asyncio.run(query(empty_database, valid)) == [(True,)]
    assert (
        "cannot be distributed" in llmctx("--distribute", "--yes")[1] or "Citus" in llmctx("--distribute", "--yes")[1]
    )
    assert llmctx("--downgrade", "--yes")[0] == 0
    assert asyncio.run(query(empty_database, f"SELECT to_regclass('{TEXTS}'), to_regclass('{T}')")) == [(None, None)]


def test_only_a_table_of_our_own(empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An adopted table, and a table of the team's that has the name, stay as they are."""
    from tests.kit import older

    asyncio.run(do(empty_database, *older.made("named")))
    assert cli.run(["--database-url", empty_database, "migrate", "--texts-apart", "--yes"]) == 1
    assert "not made by llmctx" in capsys.readouterr().err
    asyncio.run(do(empty_database, f"DROP TABLE {T} CASCADE", f"CREATE TABLE {TEXTS} (call_id text, content text)"))
    migrate.upgrade(load(database_url=empty_database))
    assert cli.run(["--database-url", empty_database, "migrate", "--texts-apart", "--yes"]) == 1
    assert "another table" in capsys.readouterr().err
    migrate.downgrade(load(database_url=empty_database))
    assert asyncio.run(query(empty_database, f"SELECT count(*) FROM {TEXTS}")) == [(0,)]


async def test_doctor_looks_at_it(empty_database: str) -> None:
    """Days without a partition, texts whose rows have been deleted, a role that may not store there: each with SQL."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings, texts_apart=True)
    await store(settings, *(record(**WHOLE) for _ in range(3)))
    today = f"{TEXTS}_p{datetime.now(UTC) + timedelta(days=1):%Y_%m_%d}"
    await do(empty_database, f"DELETE FROM {T}", f"DROP TABLE {today}")
    found = {one.name: one for one in await doctor(settings) if not one.ok}
    assert set(found) == {"texts' partitions", "texts' rows"}, found
    mended = [found["texts' partitions"].fix.partition("As SQL: ")[2], found["texts' rows"].fix]
    await do(empty_database, *mended)
    assert all(one.ok for one in await doctor(settings))
    async with role(empty_database, "") as (limited, name):
        await do(empty_database, f"GRANT SELECT ON {T}, {TEXTS} TO {name}")
        found = {one.name: one for one in await doctor(load(database_url=limited)) if not one.ok}
        await do(empty_database, found["texts' rights"].fix)
        assert "texts' rights" not in {one.name for one in await doctor(load(database_url=limited)) if not one.ok}
