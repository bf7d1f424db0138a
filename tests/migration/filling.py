"""The three shapes in which teams have the table already, filled with years of rows, odd ones among them.

    python -m tests.migration.filling URL SHAPE [ROWS]

The server makes the rows itself (INSERT … SELECT), so a million takes a minute. `OldWriter` goes on writing the way the
team's application always has.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

TABLE: Final = "biz_agent_llm_call_logs"
CHILD: Final = "biz_agent_llm_call_messages"
SHAPES: Final = ("numbers", "texts", "unkeyed")
"""In the order of facts.md: serial ids and integer users; ids made by the application; that without its key."""

_COLUMNS: Final = """
    call_id varchar(64){key}, trace_id varchar(64), session_id varchar(64), conversation_id varchar(64),
    user_id {user}, agent_key varchar(100), model varchar(100) NOT NULL, temperature numeric(4,2), top_p numeric(4,2),
    max_tokens integer, prompt_tokens integer, completion_tokens integer, total_tokens integer, latency_ms integer,
    success boolean, error_code varchar(50), error_message text, prompt_snapshot text, response_snapshot text,
    created_at {time} NOT NULL, finished_at {time}
"""
_CHILD: Final = """
CREATE TABLE {child} (id serial PRIMARY KEY, call_id varchar(64) NOT NULL{reference}, role varchar(20), content text)
"""


def ddl(shape: str, table: str = TABLE, child: str = CHILD) -> list[str]:
    """What made the table, years ago."""
    numbers, keyed = shape == "numbers", shape != "unkeyed"
    columns = _COLUMNS.format(
        key=" NOT NULL UNIQUE" if keyed else " NOT NULL",
        user="integer" if numbers else "varchar(50)",
        time="timestamptz" if shape == "unkeyed" else "timestamp",
    )
    made = [f"CREATE TABLE {table} (id {'serial' if numbers else 'varchar(50)'} PRIMARY KEY, {columns})"]
    if keyed:
        made.append(f"CREATE INDEX ix_{table.rpartition('.')[2]}_call_id ON {table} (call_id)")
    reference = f" REFERENCES {table} (call_id)" if keyed else ""
    return [*made, _CHILD.format(child=child, reference=reference)]


def rows(shape: str, count: int, table: str = TABLE, child: str = CHILD) -> list[str]:
    """Statements that fill it: half without ids, doubles where nothing forbids them, the future, quotes, a megabyte."""
    numbers, keyed = shape == "numbers", shape != "unkeyed"
    # every hundredth has the call_id of the one before
    call = "md5(n::text)" if keyed else "CASE WHEN n % 100 = 1 THEN md5((n - 1)::text) ELSE md5(n::text) END"
    user = "n % 500" if numbers else "CASE WHEN n % 97 = 0 THEN 'o''brien \"' || n % 9 || '\"' ELSE 'u-' || n % 500 END"
    when = f"now() - interval '3 years' * (1 - n / {max(1, count)}::float8)"
    common = f"""
        {call}, 't-' || n % 10000, CASE WHEN n % 2 = 0 THEN 's-' || n % 20000 END, 'c-' || n % 5000,
        CASE WHEN n % 2 = 0 THEN {user} END, 'agent-' || n % 7, CASE WHEN n % 3 = 0 THEN 'gpt-4o' ELSE 'o4-mini' END,
        0.7, 1, 4096, n % 3000, n % 700, n % 3000 + n % 700, n % 9000, n % 50 <> 0,
        CASE WHEN n % 50 = 0 THEN 'RateLimitError' END, NULL,
        '[{{"role": "user", "content": "it''s \\\\ ' || repeat(md5(n::text), 8) || '"}}]',
        '"' || repeat(md5(n::text), 4) || '"'
    """
    key = "" if numbers else "id, "
    names = (
        f"{key}call_id, trace_id, session_id, conversation_id, user_id, agent_key, model, temperature, top_p, "
        "max_tokens, prompt_tokens, completion_tokens, total_tokens, latency_ms, success, error_code, error_message, "
        "prompt_snapshot, response_snapshot, created_at, finished_at"
    )
    value = "" if numbers else "'row-' || n, "
    at = f"CASE WHEN n % 5000 = 7 THEN now() + interval '400 days' ELSE {when} END"
    fill = (
        f"INSERT INTO {table} ({names}) SELECT {value}{common}, {at}, {when} + interval '3 s' "
        f"FROM generate_series(1, {count}) AS n"
    )
    megabyte = "'\"' || repeat('x', 1000000) || '\"'"
    big = f"UPDATE {table} SET prompt_snapshot = {megabyte} WHERE trace_id = 't-17' AND latency_ms = 17"
    chosen = f"SELECT call_id, 'user', 'hello' FROM {table} WHERE latency_ms < 900"
    messages = f"INSERT INTO {child} (call_id, role, content) {chosen}"
    return [fill, big, messages, f"ANALYZE {table}"]


async def connect(url: str) -> Any:
    """asyncpg's connection to the database of a SQLAlchemy URL."""
    return await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


async def fill(url: str, shape: str, count: int) -> None:
    """Make the table and fill it."""
    connection = await connect(url)
    try:
        for statement in [*ddl(shape), *(rows(shape, count) if count else [])]:
            await connection.execute(statement)
    finally:
        await connection.close()


async def digest(connection: Any, columns: list[str], table: str = TABLE) -> tuple[int, str]:
    """How many rows there are, and a sum over all of their values, which no order changes."""
    row = ", ".join(columns)
    return tuple(
        await connection.fetchrow(
            f"SELECT count(*), sum(('x' || substr(md5(ROW({row})::text), 1, 15))::bit(60)::bigint)::text FROM {table}"
        )
    )


class OldWriter:
    """The team's application: inserts a row and its message, `rate` a second, on two connections."""

    def __init__(self, url: str, shape: str, *, rate: float = 200.0) -> None:
        self.url, self.shape, self.rate = url, shape, rate
        self.written: list[str] = []
        self.failed: list[str] = []
        self.longest_s = 0.0
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._due = 0.0

    async def __aenter__(self) -> OldWriter:
        self._due = time.monotonic()
        self._tasks = [asyncio.create_task(self._write()) for _ in range(2)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _write(self) -> None:
        connection = await connect(self.url)
        numbers = self.shape == "numbers"
        names = "call_id, session_id, user_id, prompt_snapshot, created_at, model, temperature, success"
        values_of = "$1, $2, $3, $4, $5, 'gpt-4o', 0.5, true"
        insert = f"INSERT INTO {TABLE} ({names}) VALUES ({values_of})"
        if not numbers:
            insert = f"INSERT INTO {TABLE} ({names}, id) VALUES ({values_of}, $6)"
        message = f"INSERT INTO {CHILD} (call_id, role, content) VALUES ($1, 'user', 'hi')"
        try:
            while (number := await self._slot()) is not None:
                now = datetime.now(UTC)
                values: list[Any] = [
                    str(uuid4()), f"s-{number}", number % 500 if numbers else f"u-{number % 500}", '"' + "p" * 2000,
                    now if self.shape == "unkeyed" else now.replace(tzinfo=None), *([] if numbers else [str(uuid4())]),
                ]  # fmt: skip
                began = time.monotonic()
                try:
                    await connection.execute(insert, *values)
                    first = time.monotonic()
                    await connection.execute(message, values[0])
                    last = time.monotonic()
                except asyncpg.PostgresError as problem:
                    self.failed.append(f"{type(problem).__name__}: {problem}")
                else:
                    self.written.append(values[0])
                    self.longest_s = max(self.longest_s, first - began, last - first)
        finally:
            await connection.close()

    async def _slot(self) -> int | None:
        """A number when the next row is due; None when it is over."""
        self._due += 1 / self.rate
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), max(0.0, self._due - time.monotonic()))
        return None if self._stop.is_set() else random.randrange(1_000_000)


if __name__ == "__main__":
    given_url, given_shape, *more = sys.argv[1:]
    asyncio.run(fill(given_url, given_shape, int(more[0]) if more else 1_000_000))
