"""Sessions and users, page by page: each once, at its last call, however deep in the list."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import read_connection
from llmctx.storage.queries import Count, Cursor, Filters, InvalidCursor, Page
from llmctx.storage.reflection import reflect
from tests.kit import older
from tests.kit.calls import NOON, TABLE, insert, row
from tests.kit.rows import do


async def walk(ask: Callable[..., Any], page: Page[Any]) -> list[Page[Any]]:
    """Every page from `page` on."""
    pages = [page]
    while pages[-1].next is not None:
        assert len(pages) < 500
        pages.append(await ask(before=Cursor.parse(pages[-1].next)))
    return pages


async def back(ask: Callable[..., Any], page: Page[Any]) -> list[Page[Any]]:
    """Every page before `page`, nearest first."""
    pages = [page]
    while pages[-1].rows:
        assert len(pages) < 500
        pages.append(await ask(after=Cursor.parse(pages[-1].previous or "")))
    return pages[1:-1]


def random_rows(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Calls of two years, thick and thin, several at one time."""
    rows = []
    for number in range(count):
        ago = timedelta(seconds=int(chance.choice([60, 3600, 86_400, 5_000_000, 60_000_000]) * chance.random()))
        rows.append(
            row(
                number,
                created_at=datetime.now(UTC).replace(microsecond=0) - ago,
                session_id=chance.choice([None, *(f"s-{n}" for n in range(60))]),
                user_id=chance.choice([None, "ü", *(f"u-{n}" for n in range(15))]),
                model=chance.choice(["small", "large"]),
                success=chance.random() > 0.2,
                total_tokens=chance.choice([None, 7]),
            )
        )
    for number in range(0, count - 1, 7):
        rows[number + 1]["created_at"] = rows[number]["created_at"]
    return rows


@pytest.mark.parametrize("filters", [Filters(), Filters(model="large", errors=True)])
async def test_every_list_is_walked_to_its_end_and_back(connection: AsyncConnection, filters: Filters) -> None:
    """Each call, session and user comes once, in the order of time and id; and the same on the way back."""
    rows = random_rows(random.Random(13), 400)
    await insert(connection, *rows)
    wanted = [one for one in rows if not filters.errors or (one["model"] == "large" and not one["success"])]
    order = sorted(wanted, key=lambda one: (one["created_at"], one["call_id"]), reverse=True)

    async def calls(**place: Any) -> Page[Any]:
        return await queries.call_page(connection, TABLE, filters, limit=7, **place)

    pages = await walk(calls, await calls())
    assert [one["call_id"] for page in pages for one in page.rows] == [one["call_id"] for one in order]
    assert [page.rows for page in await back(calls, pages[-1])] == [page.rows for page in reversed(pages[:-1])]

    for name, question in (("session_id", queries.sessions), ("user_id", queries.users)):
        last: dict[str, datetime] = {}
        for one in wanted:
            if one[name] is not None:
                last[one[name]] = max(one["created_at"], last.get(one[name], one["created_at"]))

        listed = partial(question, connection, TABLE, filters, limit=4)
        found = await walk(listed, await listed())
        every = [one for page in found for one in page.rows]
        assert [(one.last, getattr(one, name)) for one in every] == sorted(
            ((time, key) for key, time in last.items()), key=lambda pair: (pair[0], pair[1]), reverse=True
        )
        assert sum(one.calls for one in every) == sum(one[name] is not None for one in wanted)
        assert [page.rows for page in await back(listed, found[-1])] == [page.rows for page in reversed(found[:-1])]


async def test_a_page_stays_where_it_was_while_calls_come_in(connection: AsyncConnection) -> None:
    """A session that is used again leaves its old place; no other is met twice or left out."""
    await insert(connection, *(row(n, session_id=f"s-{n}") for n in range(9)))
    first = await queries.sessions(connection, TABLE, limit=3)
    assert first.next is not None
    assert first.previous is not None
    await insert(connection, row(20, session_id="s-1"), row(21, session_id="new"))
    second = await queries.sessions(connection, TABLE, before=Cursor.parse(first.next), limit=9)
    assert [one.session_id for one in second.rows] == ["s-5", "s-4", "s-3", "s-2", "s-0"]
    assert second.next is None
    newer = await queries.sessions(connection, TABLE, after=Cursor.parse(first.previous), limit=9)
    assert [one.session_id for one in newer.rows] == ["new", "s-1"]


async def test_sessions_and_users_say_what_was_there(connection: AsyncConnection) -> None:
    """A session that two have used names how many, a user how many sessions; what no row knows is no zero."""
    await insert(
        connection,
        row(1, total_tokens=10, cost_usd=Decimal("0.5")),
        row(2, user_id="bob", model="large"),
        row(3, session_id="s-2", success=False, total_tokens=5),
        row(4, session_id=None, user_id=None),
        row(5, user_id=None),
    )
    sessions = (await queries.sessions(connection, TABLE)).rows
    assert [(one.session_id, one.users, one.calls, one.errors, one.models) for one in sessions] == [
        ("s-1", 2, 3, 0, ("small", "large")),
        ("s-2", 1, 1, 1, ("small",)),
    ]
    first = sessions[0]
    assert (first.cost_usd, first.unpriced, first.unmetered, first.total_ms) == (Decimal("0.5"), 2, 3, 8000)
    assert (first.first, first.last) == (NOON + timedelta(minutes=1), NOON + timedelta(minutes=5))
    users = (await queries.users(connection, TABLE)).rows
    assert [(one.user_id, one.sessions, one.calls, one.total_tokens) for one in users] == [
        ("ada", 2, 2, 15),
        ("bob", 1, 1, None),
    ]
    since = Filters(since=NOON)
    assert [one.user_id for one in await queries.top_users(connection, TABLE, since, by="cost")] == ["ada", "bob"]
    assert await queries.count_users(connection, TABLE, since) == Count(2)
    assert await queries.count_sessions(connection, TABLE, replace(since, user="ada")) == Count(2)
    assert await queries.count_users(connection, TABLE, since, cap=1) == Count(1, capped=True)
    tops = await queries.top_sessions(connection, TABLE, since, by="errors", limit=1)
    assert [one.session_id for one in tops] == ["s-2"]
    said = await queries.conversation(connection, TABLE, "s-1", limit=2)
    assert [each["latency_ms"] for each in said] == [2000, 5000]


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_tables_of_others_have_pages_too(empty_database: str, shape: older.Shape) -> None:
    """Before and after they are adopted: numbers beside texts, ids of any kind, calls without a time."""
    rows = [
        older.row(
            shape, n, user_id=None if n % 5 == 0 else n % 3, session_id=f"s-{n % 4}", call_id=f"c'{n}",
            created_at=f"2026-0{1 + n % 9}-01 00:00:0{n % 2}",
        )
        for n in range(30)
    ]  # fmt: skip
    await do(empty_database, *older.made(shape), *rows)
    settings = load(database_url=empty_database)
    async with read_connection(settings) as opened:
        table = await reflect(opened, settings)

        async def calls(**place: Any) -> Page[Any]:
            return await queries.call_page(opened, table, limit=4, **place)

        pages = await walk(calls, await calls())
        found = [(one["created_at"], one["call_id"]) for page in pages for one in page.rows]
        assert len(found) == 30
        assert found == sorted(found, reverse=True)
        assert [page.rows for page in await back(calls, pages[-1])] == [page.rows for page in reversed(pages[:-1])]

        async def users(**place: Any) -> Page[Any]:
            return await queries.users(opened, table, limit=1, **place)

        assert await queries.count_users(opened, table, Filters(since=datetime(2020, 1, 1, tzinfo=UTC))) == Count(3)
        listed = [one for page in await walk(users, await users()) for one in page.rows]
        assert sorted(one.user_id for one in listed) == ["0", "1", "2"]
        assert sum(one.calls for one in listed) == 24


@pytest.mark.parametrize(
    "text_of",
    ["", "null", "W10", "%%%", "a" * 5000, str(Cursor(None, "x"))[:-2], "WyIyMDI2LTEwLTEwIiwgIjEiXQ", "[1,2]",
     "WzEsMl0", "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgIngiXQ"],
)  # fmt: skip
def test_a_forged_cursor_is_refused(text_of: str) -> None:
    """Whatever stands in a URL: an error of ours, before any database is asked."""
    with pytest.raises(InvalidCursor):
        Cursor.parse(text_of)


async def test_a_cursor_of_another_list_is_refused_or_harmless(connection: AsyncConnection) -> None:
    """A session's name is no id of a call; a NUL is nobody's."""
    await insert(connection, row(1))
    with pytest.raises(InvalidCursor):
        await queries.call_page(connection, TABLE, before=Cursor(NOON, "s-1"))
    with pytest.raises(InvalidCursor):
        Cursor.parse(str(Cursor(NOON, "\0")))
    page = await queries.sessions(connection, TABLE, before=Cursor(NOON + timedelta(days=9), str(UUID(int=7))))
    assert [one.session_id for one in page.rows] == ["s-1"]
    assert await connection.scalar(text("SELECT 1")) == 1


def test_a_cursor_survives_the_way_through_a_url() -> None:
    """Ids hold anything."""
    hard: Sequence[Cursor] = [Cursor(NOON, "a/b+c=✓\n'"), Cursor(None, "x"), Cursor(NOON + timedelta(microseconds=1))]
    for cursor in hard:
        assert Cursor.parse(str(cursor)) == cursor
        assert str(cursor).replace("-", "").replace("_", "").isalnum()
