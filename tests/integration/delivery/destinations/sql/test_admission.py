"""A server has few connections, and the application needs them more than we do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.destinations.sql.admission import Admission, ConnectionRoom
from llmctx.settings import load
from tests.kit.databases import T, put, role
from tests.kit.rows import PATIENCE, do, query, stored, writing
from tests.kit.support import wait_for


async def pids(url: str, name: str) -> set[int]:
    return {pid for (pid,) in await query(url, f"SELECT pid FROM pg_stat_activity WHERE usename = '{name}'")}


async def none_is_left(url: str, name: str) -> None:
    """A server's process takes a moment to end."""
    deadline = time.monotonic() + 60
    while await pids(url, name):
        assert time.monotonic() < deadline, "a connection is still there"


def destination_of(one: Batcher) -> Any:
    assert isinstance(one._destination, SqlDestination)
    return one._destination


async def test_an_idle_process_has_no_connection(database: str) -> None:
    """None before its first row, none when no more come; the next row is stored as any other."""
    async with role(database, "") as (limited, name), writing(limited) as one:
        one.idle_s = 0.05
        assert await pids(database, name) == set()
        for count in (1, 2):
            put(one, 1)
            assert await one.drain(PATIENCE) == 0
            await none_is_left(database, name)
            assert await stored(database) == count


async def test_the_look_at_the_table_leaves_the_connection(database: str) -> None:
    """As long as nothing has changed; and what has changed is seen. Only the one of the first look is replaced."""
    async with role(database, "") as (limited, name), writing(limited) as one:
        seen = list[set[int]]()
        for _ in range(4):
            put(one, 1)
            assert await one.drain(PATIENCE) == 0
            while len(now := await pids(database, name)) > 1:
                await asyncio.sleep(0.01)  # the former one is about to leave
            seen.append(now)
            destination_of(one)._look_again_at = 0.0
        first, *later = seen
        assert first != later[0] == later[1] == later[2]
        shape = destination_of(one)._shape
        await do(database, f"ALTER TABLE {T} RENAME COLUMN node TO of_the_hosts")
        try:
            destination_of(one)._look_again_at = 0.0
            put(one, 1)
            assert await one.drain(PATIENCE) == 0
            assert destination_of(one)._shape != shape
        finally:
            await do(database, f"ALTER TABLE {T} RENAME COLUMN of_the_hosts TO node")
    assert await stored(database) == 5


async def test_where_few_are_left_none_is_kept(database: str) -> None:
    """A batch is stored, and the connection is given back at once."""
    async with role(database, "CONNECTION LIMIT 3") as (limited, name), writing(limited) as one:
        for count in (1, 2):
            put(one, 1)
            assert await one.drain(PATIENCE) == 0
            await none_is_left(database, name)
            assert await stored(database) == count


async def test_the_processes_of_a_host_connect_in_turn(database: str) -> None:
    """Many that begin at once take no connection that the application needs."""
    async with role(database, "CONNECTION LIMIT 4") as (limited, name):
        url = make_url(limited)
        host: Any = url.query.get("host") or url.host
        there = [await asyncpg.connect(user=name, password="w", database=url.database, host=host) for _ in range(3)]
        settings = load(database_url=limited)
        (directory, *_) = settings.journal_directories
        (directory / "quarantine").mkdir(parents=True)
        try:
            async with writing(limited) as one, writing(limited) as two, writing(limited) as three:
                for number in range(3):
                    for batcher in (one, two, three):
                        put(batcher, 1)
                    for batcher in (one, two, three):
                        assert await batcher.drain(PATIENCE) == 0, (number, batcher.last_error)
        finally:
            for connection in there:
                await connection.close()
    assert await stored(database) == 9


async def test_a_turn_is_waited_for_no_longer_than_it_can_take(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process before us may have been stopped."""
    monkeypatch.setattr("llmctx.delivery.destinations.sql.admission._PATIENCE_S", 0.1)
    settings = load(database_url=database)
    (settings.journal_directories[0] / "quarantine").mkdir(parents=True)
    async with Admission(settings).turn(), writing(database) as one:
        put(one, 1)
        await wait_for(lambda: one.written == 1, "the row", PATIENCE)


@pytest.mark.parametrize(
    ("left", "limit", "is_scarce"),
    [(97, 97, False), (74, 97, False), (70, 97, True), (16, 17, False), (14, 17, True), (0, 1, True), (1, 2, True)],
)
def test_how_many_are_few(left: int, limit: int, *, is_scarce: bool) -> None:
    """Of all but a quarter, and of fifteen, none is ours to keep."""
    assert ConnectionRoom(left, limit, peers=1).is_scarce is is_scarce


def test_many_come_back_slowly() -> None:
    """After an outage, the more slowly the more there are."""
    assert ConnectionRoom(90, 97, peers=10).longest_wait_s == 2
    assert ConnectionRoom(90, 6000, peers=5000).longest_wait_s == 100
