"""The reading side, the same on PostgreSQL and SQLite."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import MigrationsPending
from llmctx.identity.explanation import KEY
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import engine, reading
from llmctx.storage.queries import AmbiguousCall, Filters, NoSuchCall
from llmctx.storage.reflection import reflect
from llmctx.storage.table import call_log_table

TABLE = call_log_table()
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOBODY = dict.fromkeys(column.name for column in TABLE.columns)


def row(number: int, **values: Any) -> dict[str, Any]:
    """A row of call `number`: a minute after the one before, a second longer, Ada's unless said otherwise."""
    usual = {
        "call_id": UUID(int=(0x01A20000 + number << 96) + number),
        "created_at": NOON + timedelta(minutes=number),
        "model": "small",
        "session_id": "s-1",
        "user_id": "ada",
        "status": "ok",
        "success": True,
        "identity_source": "context",
        "latency_ms": 1000 * number,
    }
    return {**NOBODY, **usual, **values}


@pytest.fixture
async def connection(any_database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to an empty call log."""
    source = engine(load(database_url=any_database))
    async with source.connect() as opened:
        yield opened
    await source.dispose()


async def insert(connection: AsyncConnection, *rows: dict[str, Any]) -> None:
    await connection.execute(TABLE.insert(), rows)
    await connection.commit()


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
    with pytest.raises(Exception, match="without a zone"):
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


FILTERS: list[tuple[Filters, set[int]]] = [
    (Filters(), {1, 2, 3, 4, 5, 6}),
    (Filters(user="ada"), {1, 4, 6}),
    (Filters(user="o'hara; --"), {2}),
    (Filters(session="s-1", user="ada"), {1, 6}),
    (Filters(agent="triage"), {3}),
    (Filters(model="large"), {4}),
    (Filters(node="clarify"), {3}),
    (Filters(status="cancelled"), {5}),
    (Filters(errors=True), {4, 5}),
    (Filters(unattributed=True), {3, 4}),
    (Filters(unattributed=True, errors=True), {4}),
    (Filters(since=NOON + timedelta(minutes=5)), {5, 6}),
    (Filters(until=NOON + timedelta(minutes=2)), {1}),
    (Filters(since=(NOON + timedelta(minutes=2)).astimezone(), until=NOON + timedelta(minutes=4)), {2, 3}),
    (Filters(text='He said "Hi"\nTwice'), {6}),
    (Filters(text="LIMIT"), {4}),
    (Filters(text="100%"), {5}),
    (Filters(text="100_"), set()),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=[str(n) for n in range(len(FILTERS))])
async def test_each_filter_finds_its_rows(connection: AsyncConnection, filters: Filters, expected: set[int]) -> None:
    """Each alone and some together; quotes and wildcards are only text."""
    await insert(
        connection,
        row(1),
        row(2, user_id="o'hara; --"),
        row(3, user_id=None, agent_key="triage", node="clarify"),
        row(4, session_id=None, model="large", success=False, status="error", error_message="rate limit"),
        row(5, user_id="bob", success=False, status="cancelled", response_snapshot='"100% sure"'),
        row(6, prompt_snapshot='[{"role":"user","content":"he said \\"hi\\"\\ntwice"}]'),
    )
    found = await queries.calls(connection, TABLE, filters)
    assert {each["latency_ms"] // 1000 for each in found} == expected


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


async def test_coverage_counts_by_witness_and_says_what_the_misses_share(connection: AsyncConnection) -> None:
    """Both ids or it is a miss; misses are grouped by reason, node, agent and route."""
    await insert(
        connection,
        *(row(n) for n in range(6)),
        row(6, identity_source="thread", identity_reason="partial", session_id=None),
        row(7, identity_source="none", identity_reason="no_scope", session_id=None, user_id=None, node="summarise"),
        row(8, identity_source="none", identity_reason="no_scope", session_id=None, user_id=None, node="summarise"),
    )
    found = await queries.coverage(connection, TABLE)
    assert (found.rows, found.with_both) == (9, 6)
    assert found.share == pytest.approx(66.667, abs=0.01)
    assert found.by_source == [
        {"identity_source": "context", "rows": 6, "with_both": 6},
        {"identity_source": "none", "rows": 2, "with_both": 0},
        {"identity_source": "thread", "rows": 1, "with_both": 0},
    ]
    assert {each["identity_reason"]: each["rows"] for each in found.by_reason} == {None: 6, "no_scope": 2, "partial": 1}
    first = found.misses[0]
    assert (first["identity_reason"], first["node"], first["rows"]) == ("no_scope", "summarise", 2)
    assert first["last"] == NOON + timedelta(minutes=8)
    only_ada = await queries.coverage(connection, TABLE, Filters(user="ada"))
    assert (only_ada.rows, only_ada.with_both) == (7, 6)


def told(**values: Any) -> dict[str, Any]:
    """Attributes of a row that keeps what was said of its call, and one of the team's own."""
    return {"plan": "gold", KEY: {"witnesses": [], **values}}


async def test_misses_are_grouped_by_route_and_place(connection: AsyncConnection) -> None:
    """The route and the line come out of the attributes; rows that do not say are a group like any other."""
    lost = {"identity_source": "none", "identity_reason": "no_scope", "session_id": None, "user_id": None}
    chat = told(route="POST /chat", where="shop/answers.py:42")
    await insert(
        connection,
        row(1, attributes=chat),  # it has its ids
        row(2, **lost, attributes=chat),
        row(3, **lost, attributes=told(route="POST /chat", where="shop/answers.py:50")),
        row(4, **lost, attributes=told(route="GET /'quoted\"/{id}")),
        row(5, **lost, attributes={KEY: "a team of its own"}),
        row(6, **lost, attributes=[1, 2]),
        row(7, **lost),
    )
    found = await queries.coverage(connection, TABLE)
    assert [(each["route"], each["rows"]) for each in found.misses] == [
        *((None, 3), ("POST /chat", 2), ("GET /'quoted\"/{id}", 1)),
    ]
    assert found.misses[1]["last"] == NOON + timedelta(minutes=3)
    places = {(each["route"], each["where"]): each["rows"] for each in found.by_place}
    assert places["POST /chat", "shop/answers.py:42"] == places["POST /chat", "shop/answers.py:50"] == 1
    assert sum(each["rows"] for each in found.by_place) == 6


async def test_a_table_without_attributes_has_its_coverage(any_empty_database: str) -> None:
    """An older table is counted as well, without routes."""
    settings = load(database_url=any_empty_database)
    kinds = {"call_id": "char(32)", "created_at": "timestamp"}
    if settings.is_postgresql:
        kinds = {"call_id": "uuid", "created_at": "timestamptz"}
    columns = [name for name in TABLE.c.keys() if name != "attributes"]  # noqa: SIM118  not a dict
    source = engine(settings)
    async with source.begin() as made:
        fields = ", ".join(f"{name} {kinds.get(name, 'text')}" for name in columns)
        await made.execute(text(f"CREATE TABLE {TABLE.name} ({fields})"))
        values = "'01a2000000000000000000000000000a', '2026-11-20 12:00:00', 'm'"
        await made.execute(text(f"INSERT INTO {TABLE.name} (call_id, created_at, model) VALUES ({values})"))
    await source.dispose()
    async with reading(settings) as opened:
        found = await queries.coverage(opened, await reflect(opened, settings))
    assert (found.rows, found.with_both) == (1, 0)
    assert (found.misses[0]["route"], found.misses[0]["rows"]) == (None, 1)


async def test_coverage_of_nothing_has_no_share(connection: AsyncConnection) -> None:
    """An empty table is neither 0 nor 100 %."""
    found = await queries.coverage(connection, TABLE)
    assert (found.rows, found.share, found.misses) == (0, None, [])


async def test_stats_add_up_and_leave_the_unknown_unknown(connection: AsyncConnection) -> None:
    """Sums of what is known, None where nothing is, the 95th percentile by rank on both databases."""
    slow = [row(n, model="large", latency_ms=n, prompt_tokens=10, cost_usd=Decimal("0.1")) for n in range(1, 21)]
    failed = row(30, model="large", latency_ms=None, success=False, status="error")
    await insert(connection, *slow, failed, row(40, latency_ms=7), row(41, latency_ms=8))
    large, small = await queries.stats(connection, TABLE, "model")
    assert large == {
        "model": "large",
        "calls": 21,
        "errors": 1,
        "prompt_tokens": 200,
        "completion_tokens": None,
        "total_tokens": None,
        "cost_usd": Decimal("2.000000000"),
        "avg_ms": 10,
        "p95_ms": 19,
    }
    assert (small["calls"], small["cost_usd"], small["avg_ms"], small["p95_ms"]) == (2, None, 8, 8)


async def test_percentiles_are_right_to_a_hundredth(connection: AsyncConnection) -> None:
    """Of every group never less than 95 % of its latencies, and at most 1 % above the smallest such."""
    chance = random.Random(95)
    typical = {"a": 3, "b": 8, "c": 14}
    made = {name: [int(chance.lognormvariate(mean, 1)) for _ in range(150)] for name, mean in typical.items()}
    every = [(name, ms) for name, some in made.items() for ms in some]
    await insert(connection, *(row(n, model=name, latency_ms=ms) for n, (name, ms) in enumerate(every)))
    for group in await queries.stats(connection, TABLE, "model"):
        exact = sorted(made[group["model"]])[-(-150 * 95 // 100) - 1]
        assert exact <= group["p95_ms"] <= exact * 1.01
        assert group["p95_ms"] in made[group["model"]]


@pytest.mark.parametrize("by", list(queries.GROUPS))
async def test_stats_group_by_each_dimension(connection: AsyncConnection, by: queries.Group) -> None:
    """Every group holds every row once; rows without the value are a group of their own."""
    await insert(connection, row(1), row(2, user_id=None, session_id=None, agent_key="a", node="n"), row(3))
    found = await queries.stats(connection, TABLE, by)
    assert sum(each["calls"] for each in found) == 3
    assert all(by in each for each in found)


async def test_days_are_utc_and_newest_first(connection: AsyncConnection) -> None:
    """A call a second before midnight UTC belongs to the day that ends."""
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    await insert(connection, row(1, created_at=midnight - timedelta(seconds=1)), row(2, created_at=midnight))
    found = await queries.stats(connection, TABLE, "day")
    assert [each["day"] for each in found] == ["2026-11-21", "2026-11-20"]


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
        async with reading(settings) as opened:
            await question(opened, TABLE)


async def test_reading_cannot_write(database: str) -> None:
    """The reading side's transactions are read-only, so that no command can change a row by accident."""
    with pytest.raises(Exception, match="read-only transaction"):
        async with reading(load(database_url=database)) as opened:
            await opened.execute(text(f"DELETE FROM {TABLE.name}"))


async def test_an_error_never_repeats_the_row(connection: AsyncConnection) -> None:
    """Prompts do not end up in logs by way of the driver's message."""
    with pytest.raises(Exception, match=r"(?i)null") as caught:
        await insert(connection, row(1, model=None, prompt_snapshot="a secret"))
    assert "a secret" not in str(caught.value)


async def test_sessions_and_users_say_who_was_there_last(connection: AsyncConnection) -> None:
    """Newest first; a session that two have used names how many, a user how many sessions."""
    await insert(
        connection,
        row(1, total_tokens=10, cost_usd=Decimal("0.5")),
        row(2, user_id="bob"),
        row(3, session_id="s-2", success=False, total_tokens=5),
        row(4, session_id=None, user_id=None),
        row(5, user_id=None),
    )
    sessions = await queries.sessions(connection, TABLE)
    assert [(each["session_id"], each["users"], each["calls"], each["errors"]) for each in sessions] == [
        ("s-1", 2, 3, 0),
        ("s-2", 1, 1, 1),
    ]
    assert (sessions[0]["cost_usd"], sessions[0]["first"], sessions[0]["last"]) == (
        Decimal("0.5"), NOON + timedelta(minutes=1), NOON + timedelta(minutes=5),
    )  # fmt: skip
    users = await queries.users(connection, TABLE)
    assert [(each["user_id"], each["sessions"], each["calls"], each["total_tokens"]) for each in users] == [
        ("ada", 2, 2, 15),
        ("bob", 1, 1, None),
    ]
    said = await queries.conversation(connection, TABLE, "s-1", limit=2)
    assert [each["latency_ms"] for each in said] == [2000, 5000]


async def test_what_came_in_since_is_seen_once(connection: AsyncConnection) -> None:
    """By the end of the call: it may have begun long before."""
    late = row(1, finished_at=NOON + timedelta(minutes=9))
    await insert(connection, late, row(2), row(8, call_id=UUID(int=8)))
    since = NOON + timedelta(minutes=5)
    found = await queries.news(connection, TABLE, Filters(), since, set())
    assert [each["latency_ms"] for each in found] == [8000, 1000]
    assert await queries.news(connection, TABLE, Filters(), since, {each["call_id"] for each in found}) == []


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
        lambda c: queries.stats(c, TABLE, "model", Filters(since=now - hour)),
        lambda c: queries.stats(c, TABLE, "day", Filters(user="u-42")),
        lambda c: queries.sessions(c, TABLE, Filters(since=now - hour)),
        lambda c: queries.users(c, TABLE, Filters(user="u-42")),
        lambda c: queries.coverage(c, TABLE, Filters(since=now - hour)),
    ]
    async with reading(settings) as opened:
        some = await queries.calls(opened, TABLE)
        questions.append(lambda c: queries.call(c, TABLE, queries.handle(some[0]["call_id"])))
        for number, question in enumerate(questions):
            for statement in await explained(opened, question):
                read = [int(rows) for rows in re.findall(r"Seq Scan on \S+ .*?rows=(\d+)", statement)]
                assert max(read, default=0) < 1000, (number, statement)  # a partition may be empty
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
