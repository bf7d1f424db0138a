"""Adopted tables that keep an id in two columns: numbers, or UUIDs, in their own, other ids in the text beside it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.backfill import backfill, undo
from llmctx.ops.erase import Subject, erase
from llmctx.ops.export import export
from llmctx.settings import Settings, load
from llmctx.storage.engine import read_connection
from llmctx.storage.filters import Filters
from llmctx.storage.queries import call, calls, conversation, coverage, sessions, stats, users
from llmctx.storage.queries.calls import _first_of as latest
from llmctx.storage.reflection import reflect
from tests.kit import older
from tests.kit.rows import do, query, record, store

QUOTED = "o'hara \"; DROP TABLE x; --"
SESSION = "0190f0a8-0000-7000-8000-000000000007"
SHAPES = {
    "numbers": (),
    "numbers and uuids": (f"ALTER TABLE {DEFAULT_TABLE} ALTER session_id TYPE uuid USING session_id::uuid",),
    "decimals": (f"ALTER TABLE {DEFAULT_TABLE} ALTER user_id TYPE numeric(12, 0)",),
}


@pytest.fixture(params=SHAPES)
def settings(empty_database: str, request: pytest.FixtureRequest) -> Settings:
    """A table with two rows of user 7 and one of user 8, adopted."""
    from tests.conftest import execute

    rows = [older.row("numbered", n, user_id=7 + n // 3, session_id=SESSION) for n in (1, 2, 3)]
    execute(empty_database, *older.made("numbered"), *SHAPES[request.param], *rows)
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    return settings


async def asked(settings: Settings, question: Any, *given: Any, **more: Any) -> Any:
    async with read_connection(settings) as connection:
        return await question(connection, await reflect(connection, settings), *given, **more)


async def test_each_reader_sees_one_id(settings: Settings, tmp_path: Path) -> None:
    """Whose a row is, whichever column says it: listed, added up, filtered by, handed out. 007 is not 7."""
    ours = [
        record(user_id=QUOTED, session_id="s-text"),
        record(user_id="7", session_id=SESSION),
        record(user_id="007", session_id="s-text"),
        record(user_id=None, session_id=None, identity_reason="no_scope"),
    ]
    await store(settings, *ours)
    for user, count in {"7": 3, "8": 1, QUOTED: 1, "007": 1, "0": 0, "nobody": 0, "7.0": 0, "٧": 0}.items():
        found = await asked(settings, calls, Filters(user=user))
        assert [row["user_id"] for row in found] == [user] * count
    assert {row["session_id"] for row in await asked(settings, calls, Filters(session="s-text"))} == {"s-text"}
    assert len(await asked(settings, conversation, SESSION)) == 4
    assert len(await asked(settings, calls, Filters(unattributed=True))) == 1
    (shown,) = [await asked(settings, call, str(ours[0].call_id))]
    assert (shown["user_id"], shown["session_id"]) == (QUOTED, "s-text")
    assert not any(name.startswith("llmctx_") for name in shown)

    by_user = {row["user"]: row["calls"] for row in await asked(settings, stats, "user")}
    assert by_user == {"7": 3, "8": 1, QUOTED: 1, "007": 1, None: 1}
    assert {row.user_id: row.sessions for row in (await asked(settings, users)).rows} == dict.fromkeys(
        ["7", "8", QUOTED, "007"], 1
    )
    by_session = {row.session_id: (row.users, row.calls) for row in (await asked(settings, sessions)).rows}
    assert by_session == {SESSION: (2, 4), "s-text": (2, 2)}
    covered = await asked(settings, coverage)
    assert (covered.rows, covered.with_both) == (7, 6)
    assert [row["rows"] for row in covered.misses] == [1]

    for form in ("jsonl", "csv", "sqlite"):
        await export(settings, Filters(user=QUOTED), tmp_path / f"x.{form}", form)  # type: ignore[arg-type]
    told = json.loads((tmp_path / "x.jsonl").read_text())
    assert (told["user_id"], told["session_id"]) == (QUOTED, "s-text")
    assert "llmctx_user_id" not in told
    (line,) = csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text()))
    assert line["user_id"] == QUOTED


@pytest.mark.parametrize("settings", ["numbers and uuids"], indirect=True)
async def test_an_index_finds_the_rows_of_a_user(settings: Settings) -> None:
    """Either column's, whatever the id looks like; and the rows that lack one."""
    url = settings.database_url
    side = "llmctx_user_id, llmctx_session_id" if "llmctx_session_id" in await columns(url) else "llmctx_user_id"
    many = "u-' || n % 3000" + (", 's-' || n % 3000" if "," in side else "")
    await do(
        url,
        f"INSERT INTO {DEFAULT_TABLE} (call_id, model, created_at, {side}) "
        f"SELECT 'c-' || n, 'm', now() - n * interval '1 s', '{many} FROM generate_series(1, 30000) n",
        f"INSERT INTO {DEFAULT_TABLE} (call_id, model, created_at, user_id, session_id) SELECT 'd-' || n, 'm', "
        f"now() - n * interval '1 s', n % 3000, '{SESSION}' FROM generate_series(1, 30000) n",
        f"ANALYZE {DEFAULT_TABLE}",
    )
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        for filters in (Filters(user="u-17"), Filters(user="17"), Filters(session="s-17")):
            clause = filters.clause(table).compile(
                dialect=postgresql.asyncpg.dialect(), compile_kwargs={"literal_binds": True}
            )
            plan = await query(url, f"EXPLAIN SELECT * FROM {DEFAULT_TABLE} WHERE {clause}".replace("%%", "%"))
            lines = "\n".join(row[0] for row in plan)
            assert "Seq Scan" not in lines, lines
            assert "Index" in lines
    await does_unattributed_know(settings, table)


async def test_the_latest_calls_of_one_who_has_many_are_not_sorted(settings: Settings) -> None:
    """Each column's index has them in their order, and no row comes twice."""
    url = settings.database_url
    await do(
        url,
        f"INSERT INTO {DEFAULT_TABLE} (call_id, model, created_at, user_id, llmctx_user_id) "
        "SELECT 'c-' || n, 'm', timestamp '2026-01-01' + n * interval '1 s', CASE WHEN n % 2 = 0 THEN 77 END, "
        "CASE WHEN n % 3 = 0 THEN '77' END FROM generate_series(1, 20000) n",
        f"ANALYZE {DEFAULT_TABLE}",
    )
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        found = await calls(connection, table, Filters(user="77"), limit=5)
        assert [row["call_id"] for row in found] == [f"c-{n}" for n in (20000, 19998, 19996, 19995, 19994)]
        assert {row["user_id"] for row in found} == {"77"}
        wanted = latest(table, Filters(user="77").clauses(table), 5, whole=False).compile(
            dialect=postgresql.asyncpg.dialect(), compile_kwargs={"literal_binds": True}
        )
        plan = "\n".join(row[0] for row in await query(url, f"EXPLAIN (COSTS OFF) {wanted}"))
    assert "Bitmap" not in plan, plan
    assert plan.count("Backward") == 2, plan


async def does_unattributed_know(settings: Settings, table: Table) -> None:
    """The index of rows without an id holds those alone, also when the columns have become text."""
    url, name = settings.database_url, f"llmctx_{DEFAULT_TABLE}_unattributed"
    await do(url, f"INSERT INTO {DEFAULT_TABLE} (call_id, model, created_at) VALUES ('nobody', 'm', now())")
    for _ in range(2):
        await do(url, f"REINDEX INDEX {name}", f"ANALYZE {DEFAULT_TABLE}")
        clause = (
            Filters(unattributed=True)
            .clause(table)
            .compile(dialect=postgresql.asyncpg.dialect(), compile_kwargs={"literal_binds": True})
        )
        plan = await query(url, f"EXPLAIN SELECT * FROM {DEFAULT_TABLE} WHERE {clause}")
        assert any(name in row[0] for row in plan), plan
        ((size,),) = await query(url, f"SELECT pg_relation_size('{name}')")
        assert size <= 2 * 8192, "one row of 60,004"
        await asyncio.to_thread(migrate.upgrade, settings, widen=True)
        async with read_connection(settings) as connection:
            table = await reflect(connection, settings)


async def columns(url: str) -> set[str]:
    named = f"SELECT attname FROM pg_attribute WHERE attrelid = '{DEFAULT_TABLE}'::regclass AND attnum > 0"
    return {row[0] for row in await query(url, named)}


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("settings", ["numbers and uuids"], indirect=True)
async def test_a_user_is_forgotten_by_either_column(settings: Settings, blank: bool) -> None:
    """Also the nameless rows of sessions that were his alone; what others have used stays, whichever column says so."""
    eve = "eve '0042'"
    await store(
        settings,
        record(user_id=eve, session_id="s-eve", thread_id="t-eve", prompt_snapshot='"secret"'),
        record(user_id=None, session_id="s-eve", prompt_snapshot='"secret"'),
        record(user_id=None, session_id=None, thread_id="t-eve", prompt_snapshot='"secret"'),
        record(user_id=eve, session_id="s-both"),
        record(user_id="8", session_id="s-both"),
        record(user_id=None, session_id="s-both", prompt_snapshot='"whose?"'),
    )
    done = await erase(settings, Subject(user=eve), do=True, blank=blank)
    assert ({p.name: p.found for p in done.places if p.found}, done.left) == (
        {DEFAULT_TABLE: 2, "rows of nobody": 2},
        0,
    )
    text = str(await query(settings.database_url, f"SELECT * FROM {DEFAULT_TABLE}"))
    assert not any(secret in text for secret in ("eve '", "s-eve", "t-eve", "secret"))
    assert "whose?" in text
    assert len(await asked(settings, calls)) == (9 if blank else 5)
    done = await erase(settings, Subject(user="7"), do=True, blank=blank)
    assert (done.found, done.left) == (2, 0)
    assert await asked(settings, calls, Filters(user="7")) == []
    done = await erase(settings, Subject(session="s-both"), do=True, blank=blank)
    assert (done.found, done.left) == (2, 0)
    covered = await asked(settings, coverage)
    assert (covered.erased, covered.rows) == ((8, 1) if blank else (0, 1))
    assert await asked(settings, calls, Filters(unattributed=True)) == []


async def test_gaps_are_filled_where_there_is_room(settings: Settings, tmp_path: Path) -> None:
    """A row whose id stands beside its column has one; a text goes there, a number where numbers are; and back."""
    gap = {"user_id": None, "session_id": None, "identity_source": "none", "identity_reason": "no_scope"}
    await store(
        settings,
        record(user_id=QUOTED, session_id="s-text", trace_id="t-1"),
        record(**gap, trace_id="t-1", model="text"),
        record(user_id="7", session_id=SESSION, trace_id="t-2"),
        record(**gap, trace_id="t-2", model="number"),
        record(**{**gap, "session_id": "s-text"}, model="session"),
    )
    undo_file = tmp_path / "undo.jsonl"
    done = await backfill(settings, do=True, undo_file=undo_file)
    assert (done.rows, done.filled, done.users, done.sessions) == (3, {"trace": 2, "session": 1}, 3, 2)
    filled = {
        row["model"]: (row["user_id"], row["session_id"], row["identity_source"])
        for row in await asked(settings, calls)
        if row["model"] in ("text", "number", "session")
    }
    assert filled == {
        "text": (QUOTED, "s-text", "backfill:trace"),
        "number": ("7", SESSION, "backfill:trace"),
        "session": (QUOTED, "s-text", "backfill:session"),
    }
    ((number,),) = await query(settings.database_url, f"SELECT user_id FROM {DEFAULT_TABLE} WHERE model = 'number'")
    assert number == 7
    assert (await backfill(settings)).rows == 0
    assert await undo(settings, undo_file, do=True) == 3
    assert len(await asked(settings, calls, Filters(unattributed=True))) == 3


@pytest.mark.parametrize("settings", ["numbers and uuids"], indirect=True)
async def test_the_way_back_leads_over_a_widening(settings: Settings, tmp_path: Path) -> None:
    """What was filled beside a number stands in the column itself since that became text, and is taken back there."""
    gap = {"user_id": None, "session_id": None, "identity_source": "none", "identity_reason": "no_scope"}
    await store(
        settings,
        record(user_id=QUOTED, session_id="s-text", trace_id="t-1"),
        record(**gap, trace_id="t-1"),
        record(user_id="7", session_id=SESSION, trace_id="t-2"),
        record(**gap, trace_id="t-2"),
    )
    await backfill(settings, do=True, undo_file=tmp_path / "undo.jsonl")
    assert await asked(settings, calls, Filters(unattributed=True)) == []
    await asyncio.to_thread(migrate.upgrade, settings, widen=True)
    assert await undo(settings, tmp_path / "undo.jsonl") == 2
    assert await undo(settings, tmp_path / "undo.jsonl", do=True) == 2
    found = await asked(settings, calls, Filters(unattributed=True))
    assert [(row["user_id"], row["session_id"], row["identity_reason"]) for row in found] == [
        (None, None, "no_scope")
    ] * 2
