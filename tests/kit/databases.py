"""Databases of one test, and what they refuse."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import immutabledict

from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery.batcher import Batcher
from tests.kit.rows import do, record
from tests.kit.support import wait_for

HEALED_S = 5.0 + 5.0  # five are promised; the rest is for a busy machine


T = DEFAULT_TABLE


def by_way_of(url: str | URL, **query: str) -> str:
    """The URL of the same database at the host, and port, of `query`: `URL.set` takes None for "as it is"."""
    given = make_url(url)._replace(host=None, port=None, query=immutabledict(query))
    return given.render_as_string(hide_password=False)


def put(one: Batcher, count: int, **fields: Any) -> list[CallRecord]:
    rows = [record(**fields) for _ in range(count)]
    assert all(map(one.submit, rows))
    return rows


async def healed(one: Batcher, seconds: float = HEALED_S) -> None:
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


async def refuse_while(url: str, condition: str, code: str) -> None:
    """A trigger of the host's that raises for rows of which `condition` is true."""
    await _change(
        url,
        f"CREATE OR REPLACE FUNCTION host_opinion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} "
        f"THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$",
        f"DROP TRIGGER IF EXISTS host_trigger ON {T}",
        f"CREATE TRIGGER host_trigger BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION host_opinion()",
    )


async def slow_rows(url: str, condition: str, seconds: float) -> None:
    await _change(
        url,
        f"CREATE FUNCTION host_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} "
        f"THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END $$",
        f"CREATE TRIGGER host_trigger BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION host_slow()",
    )


async def drop_trigger(url: str) -> None:
    """Mend what `refuse_while` or `slow_rows` broke."""
    await _change(url, f"DROP TRIGGER host_trigger ON {T}")


async def _change(url: str, *statements: str) -> None:
    """Change the table beside its writer; tried again where the server ends that, of the two, as a deadlock."""
    for _ in range(20):
        try:
            return await do(url, *statements)
        except DBAPIError as problem:
            if getattr(problem.orig, "sqlstate", None) != "40P01":
                raise
    raise AssertionError("each attempt to change the table ended in a deadlock")


async def columns_of(connection: Any) -> list[str]:
    found = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum", T
    )
    return [row[0] for row in found]
