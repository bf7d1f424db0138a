"""Calls are listed, narrowed and found by id, the same on PostgreSQL and SQLite."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import MigrationsPending
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import engine, read_connection
from llmctx.storage.queries import AmbiguousCall, Cursor, Filters, NoSuchCall
from tests.kit.calls import NOON, TABLE, insert, row


async def test_a_row_comes_back_as_it_was_written(connection: AsyncConnection) -> None:
    """Ids, aware UTC times, exact money, JSON and text in many scripts survive the way there and back."""
    written = row(
        1,
        created_at=datetime(2026, 11, 20, 23, 59, 59, 999999, tzinfo=UTC).astimezone(),
        cost_usd=Decimal("0.000123457"),
        attributes={"tags": ["ü", "量"], "n": 1.5, "deep": {"null": None}},
        prompt_snapshot='[{"role": "user", "content": "你好 👋"}]',
        temperature=0.7,
        run_id=UUID(int=7),
        cached=False,
    )
    await insert(connection, written)
    found = await queries.call(connection, TABLE, str(written["call_id"]))
    assert found == written
    assert found["created_at"].utcoffset() == timedelta(0)
    assert type(found["cost_usd"]) is Decimal


async def test_a_time_without_a_zone_is_refused(connection: AsyncConnection) -> None:
    """A naive time would silently be taken for local time."""
    with pytest.raises(Exception, match="without a time zone"):
        await insert(connection, row(1, created_at=datetime(2026, 11, 20)))


async def test_unknown_attributes_are_null_and_not_the_json_word(connection: AsyncConnection) -> None:
    """`WHERE attributes IS NULL` finds rows without attributes."""
    await insert(connection, row(1))
    found = await connection.scalar(text(f"SELECT count(*) FROM {TABLE.name} WHERE attributes IS NULL"))
    assert found == 1


async def test_calls_are_listed_newest_first_without_their_texts(connection: AsyncConnection) -> None:
    """A list is light: prompts are fetched only when asked for."""
    await insert(connection, *(row(n, prompt_snapshot="secret") for n in range(5)))
    listed = await queries.calls(connection, TABLE, limit=3)
    assert [found["latency_ms"] for found in listed] == [4000, 3000, 2000]
    assert not {"prompt_snapshot", "response_snapshot", "reasoning_snapshot", "attributes"} & set(listed[0])
    (whole,) = await queries.calls(connection, TABLE, limit=1, whole=True)
    assert whole["prompt_snapshot"] == "secret"


@pytest.mark.parametrize(
    "spelling",
    [
        str,
        lambda call_id: call_id.hex.upper(),
        lambda call_id: str(call_id)[:18],
        lambda call_id: call_id.hex[:8],
        queries.handle,
    ],
)
async def test_a_call_is_found_by_its_id_in_any_spelling(
    connection: AsyncConnection, spelling: Callable[[UUID], str]
) -> None:
    """With dashes or without, its beginning, or the short form of the list."""
    rows = [row(1), row(2), row(3)]
    await insert(connection, *rows)
    wanted: UUID = rows[1]["call_id"]
    assert (await queries.call(connection, TABLE, spelling(wanted)))["call_id"] == wanted


async def test_calls_of_one_millisecond_are_told_apart_by_their_ends(connection: AsyncConnection) -> None:
    """A fan-out starts several calls at once, whose ids begin alike."""
    ids = [UUID("01a2053d-12dc-7000-8000-0000000aaaaa"), UUID("01a2053d-12dc-7000-8000-0000000bbbbb")]
    await insert(connection, *(row(n, call_id=call_id) for n, call_id in enumerate(ids)))
    with pytest.raises(AmbiguousCall, match="01a2053d-12dc-7000-8000-0000000aaaaa"):
        await queries.call(connection, TABLE, "01a2053d-12dc-7000")
    for call_id in ids:
        assert (await queries.call(connection, TABLE, queries.handle(call_id)))["call_id"] == call_id


@pytest.mark.parametrize("nonsense", ["", "01a", "xyz0", "%%%%", "01a2' OR 1=1", "0" * 33, "01a2..zz", "ffff"])
async def test_what_is_no_id_of_a_call_gets_a_plain_answer(connection: AsyncConnection, nonsense: str) -> None:
    """Neither a wrong row nor a driver's error."""
    await insert(connection, row(1))
    with pytest.raises(NoSuchCall):
        await queries.call(connection, TABLE, nonsense)


@pytest.mark.parametrize("question", [queries.calls, queries.coverage])
async def test_without_the_table_the_error_names_the_command(any_empty_database: str, question: Any) -> None:
    """A database that was never migrated is told apart from one that is not there."""
    settings = load(database_url=any_empty_database)
    if not settings.is_postgresql:
        source = engine(settings)
        async with source.begin() as made:  # a file that is there, without our table
            await made.execute(text("CREATE TABLE other (x integer)"))
        await source.dispose()
    with pytest.raises(MigrationsPending, match="llmctx migrate"):
        async with read_connection(settings) as opened:
            await question(opened, TABLE)


async def test_reading_cannot_write(database: str) -> None:
    """The reading side's transactions are read-only, so that no command can change a row by accident."""
    with pytest.raises(Exception, match="read-only transaction"):
        async with read_connection(load(database_url=database)) as opened:
            await opened.execute(text(f"DELETE FROM {TABLE.name}"))


async def test_an_error_never_repeats_the_row(connection: AsyncConnection) -> None:
    """Prompts do not end up in logs by way of the driver's message."""
    with pytest.raises(Exception, match=r"(?i)null") as caught:
        await insert(connection, row(1, model=None, prompt_snapshot="a secret"))
    assert "a secret" not in str(caught.value)


async def test_what_came_in_since_is_seen_once(connection: AsyncConnection) -> None:
    """By the end of the call: it may have begun long before."""
    late = row(1, finished_at=NOON + timedelta(minutes=9))
    await insert(connection, late, row(2), row(8, call_id=UUID(int=8)))
    since = NOON + timedelta(minutes=5)
    found = await queries.calls_ended_since(connection, TABLE, Filters(), since, set())
    assert [each["latency_ms"] for each in found] == [8000, 1000]
    assert (
        await queries.calls_ended_since(connection, TABLE, Filters(), since, {each["call_id"] for each in found}) == []
    )
    (first,) = await queries.calls_ended_since(connection, TABLE, Filters(), since, set(), limit=1)
    (second,) = await queries.calls_ended_since(connection, TABLE, Filters(), since, {first["call_id"]}, limit=1)
    assert [first, second] == found


async def test_a_large_table_is_read_by_its_indexes(database: str) -> None:
    """100,000 calls of three days: no question about few of them reads them all. Found with EXPLAIN."""
    settings = load(database_url=database)
    source = engine(settings)
    async with source.begin() as made:
        await made.execute(
            text(
                f"INSERT INTO {TABLE.name} (call_id, created_at, model, session_id, user_id, success, status) SELECT "
                "(lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '7000' || "
                "'8' || substr(md5(n::text), 1, 15))::uuid, t, 'm', 's-' || n % 9999, "
                "CASE WHEN n % 999 > 0 THEN 'u-' || n % 999 END, n % 50 > 0, 'ok' "
                "FROM (SELECT n, now() - n * interval '3 seconds' AS t FROM generate_series(1, 100000) n) AS made"
            )
        )
    async with source.connect() as vacuum:
        await vacuum.execution_options(isolation_level="AUTOCOMMIT")
        await vacuum.execute(text(f"VACUUM ANALYZE {TABLE.name}"))
    await source.dispose()
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    questions: list[Callable[[AsyncConnection], Any]] = [
        lambda c: queries.calls(c, TABLE),
        lambda c: queries.calls(c, TABLE, Filters(errors=True)),
        lambda c: queries.calls(c, TABLE, Filters(user="u-42")),
        lambda c: queries.calls(c, TABLE, Filters(session="s-42")),
        lambda c: queries.calls(c, TABLE, Filters(unattributed=True)),
        lambda c: queries.calls(c, TABLE, Filters(since=now - hour)),
        lambda c: queries.calls(c, TABLE, Filters(until=now - 9 * hour, errors=True)),
        lambda c: queries.conversation(c, TABLE, "s-42"),
        lambda c: queries.transcript(c, TABLE, "s-42"),
        lambda c: queries.call_page(c, TABLE, before=Cursor(now - 60 * hour)),
        lambda c: queries.call_page(c, TABLE, after=Cursor(now - 60 * hour)),
        lambda c: queries.call_page(c, TABLE, Filters(user="u-42"), before=Cursor(now - 60 * hour, str(UUID(int=7)))),
        lambda c: queries.sessions(c, TABLE),
        lambda c: queries.sessions(c, TABLE, before=Cursor(now - 60 * hour, "s-42")),
        lambda c: queries.sessions(c, TABLE, after=Cursor(now - 60 * hour)),
        lambda c: queries.users(c, TABLE, Filters(since=now - 60 * hour), before=Cursor(now - 59 * hour)),
        lambda c: queries.errors(c, TABLE, Filters(since=now - hour)),
        lambda c: queries.stats(c, TABLE, "model", Filters(since=now - hour)),
        lambda c: queries.stats(c, TABLE, "day", Filters(user="u-42")),
        lambda c: queries.sessions(c, TABLE, Filters(since=now - hour)),
        lambda c: queries.users(c, TABLE, Filters(user="u-42")),
        lambda c: queries.coverage(c, TABLE, Filters(since=now - hour)),
    ]
    async with read_connection(settings) as opened:
        some = await queries.calls(opened, TABLE)
        questions.append(lambda c: queries.call(c, TABLE, queries.handle(some[0]["call_id"])))
        few = "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples < 25000"
        small = set(await opened.scalars(text(few)))  # rightly read whole: a month that has just begun
        for number, question in enumerate(questions):
            for statement in await explained(opened, question):
                scans = re.findall(r"Seq Scan on (\S+) .*?rows=(\d+)", statement)
                read = [int(rows) for partition, rows in scans if partition not in small]
                assert max(read, default=0) < 1000, (number, statement)
                assert "Limit" in statement, (number, statement)
        for by in ("day", "model", "agent", "node", "status"):
            (plan,) = await explained(opened, lambda c, by=by: queries.stats(c, TABLE, by))  # type: ignore[misc]
            sorted_rows = [int(rows) for rows in re.findall(r"(?<!Merge )Sort  \(.*?rows=(\d+)", plan)]
            assert max(sorted_rows) < 50_000, f"by {by} every row is sorted:\n{plan}"


async def explained(opened: AsyncConnection, question: Callable[[AsyncConnection], Any]) -> list[str]:
    """The plans of all statements of a question that look at the table."""
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if f"FROM {TABLE.name}" in statement:
            asked.append((statement, parameters))

    event.listen(opened.engine.sync_engine, "before_cursor_execute", note)
    try:
        await question(opened)
    finally:
        event.remove(opened.engine.sync_engine, "before_cursor_execute", note)
    assert asked
    plans = [await opened.exec_driver_sql(f"EXPLAIN {statement}", parameters) for statement, parameters in asked]
    return ["\n".join(line[0] for line in plan) for plan in plans]
