"""What each question of a page costs on a large table, beside its bar.

    python -m bench.pages ROWS [--small] [--url URL]

Fills a PostgreSQL of its own, as it comes, with calls of 90 days and 3 kB of texts (with `--small` of 365 days and 600
bytes a row), makes the totals, and asks every question several times, through the reader that pages use. The database
at `--url` stays, and is used as it is where its table has rows.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.cli.demo.postgres import make_directory
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.erase import Subject, erase
from llmctx.settings import Settings, load
from llmctx.storage import queries
from llmctx.storage.engine import read_connection, write_connection
from llmctx.storage.partition_ddl import Month, partition_name
from llmctx.storage.queries import Cursor, Filters
from llmctx.storage.reader import Reader
from llmctx.storage.rollup import rollup
from tests.kit.cluster import Cluster

ROUNDS: Final = 5
_AT_ONCE: Final = 250_000
_FILL: Final = """
INSERT INTO {table} (call_id, created_at, finished_at, model, provider, session_id, user_id, agent_key, node, thread_id,
    trace_id, success, status, error_code, error_message, identity_source, identity_reason, prompt_tokens,
    completion_tokens, total_tokens, latency_ms, ttft_ms, cost_usd, prompt_snapshot, response_snapshot)
SELECT (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '70008' || substr(md5(n::text), 1, 15))::uuid,
    t, t + interval '1 s', 'model-' || n % 7, 'provider-' || n % 3,
    CASE WHEN n % 200 > 0 THEN 's-' || s END,
    CASE WHEN n % 150 > 0 THEN 'u-' || (s * 7919::bigint) % ({users} / 4) + s * 8::bigint * {users} / {rows} END,
    'agent-' || n % 5, 'node-' || n % 5, 't-' || s, md5(n::text),
    n % 50 > 0, CASE WHEN n % 50 > 0 THEN 'ok' ELSE 'error' END,
    CASE WHEN n % 50 = 0 THEN 'RateLimitError' END,
    CASE WHEN n % 50 = 0 THEN 'Limit reached: try in ' || n % 60 || ' s' END,
    CASE WHEN n % 200 > 0 THEN 'context' ELSE 'none' END, CASE WHEN n % 200 = 0 OR n % 150 = 0 THEN 'no_scope' END,
    100 + n % 900, 50 + n % 300, 150 + n % 1200, (exp(6 + 1.2 * sin(n)) + n % 100)::int, 200 + n % 300,
    CASE WHEN n % 7 > 0 THEN (0.0001 * (n % 97))::numeric(18, 9) END, {prompt}, {response}
FROM (SELECT n, (n / 64) * 8 + (n * 31) % 8 AS s, timestamptz '{end}' - ({rows} - n) * interval '{step} seconds' AS t
      FROM generate_series({first}, {after} - 1) n) AS made JOIN texts ON k = n % {texts} ORDER BY n
"""
_TEXTS: Final = 211
_POOL: Final = """
CREATE TEMPORARY TABLE texts AS
SELECT k, '[{{"role": "user", "content": "' || string_agg(substr(md5((k * 1000 + i)::text), 1, 4 + (k + i) % 9), ' ')
    || '"}}]' AS text FROM generate_series(0, {texts} - 1) k, generate_series(1, 240) i GROUP BY k
"""
"""Texts of random letters: real ones compress better."""


def fill(url: str, rows: int, *, small: bool) -> None:
    """Fill the table, oldest first."""
    days = 365 if small else 90
    end = datetime.now(UTC).replace(microsecond=0)
    asyncio.run(_fill(load(database_url=url), rows, days, end, small))


async def _fill(settings: Settings, rows: int, days: int, end: datetime, small: bool) -> None:
    prompt, response = ("NULL", "NULL") if small else ("text", "substr(text, 1, 1000)")
    async with write_connection(settings) as connection:
        for ago in range(1, days // 28 + 2):
            month = Month.after(end - timedelta(days=28 * ago), 0)
            name = partition_name(DEFAULT_TABLE, month.first)
            first, after = month.bounds()
            bounds = f"FOR VALUES FROM ({first}) TO ({after})"
            await connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {DEFAULT_TABLE} {bounds}")
        await connection.commit()
        await connection.exec_driver_sql(_POOL.format(texts=_TEXTS))
        await connection.commit()
        for start in range(0, rows, _AT_ONCE):
            statement = _FILL.format(
                table=DEFAULT_TABLE, rows=rows, users=max(20, rows // 50), end=end.isoformat(), first=start,
                step=days * 86_400 / rows, after=min(start + _AT_ONCE, rows), prompt=prompt, response=response,
                texts=_TEXTS,
            )  # fmt: skip
            await connection.exec_driver_sql(statement)
            await connection.commit()
            print(f"  {start + _AT_ONCE:,} rows", file=sys.stderr)
        raw: Any = await connection.get_raw_connection()
        await connection.rollback()
        await raw.driver_connection.execute(f"VACUUM ANALYZE {DEFAULT_TABLE}")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, and the milliseconds that it may take."""

    name: str
    ask: Callable[[AsyncConnection, Table], Awaitable[Any]]
    bar_ms: int | None
    aggregate: bool = False


def questions(now: datetime, session: str, user: str | None, deep_days: int) -> list[Question]:
    """Return the questions of the pages."""
    then = Cursor(now - timedelta(days=deep_days))

    def since(days: int, **more: Any) -> Filters:
        return Filters(since=now - timedelta(days=days), until=now, **more)

    usage = partial(queries.usage, bucket="day")
    by_model = partial(usage, by="model", percentiles=False)
    by_error = partial(usage, by="error", percentiles=False)
    return [
        Question("calls, first page", lambda c, t: queries.call_page(c, t, limit=50), 150),
        Question("calls, months back", lambda c, t: queries.call_page(c, t, before=then, limit=50), 300),
        Question("calls, newer than months back", lambda c, t: queries.call_page(c, t, after=then, limit=50), 300),
        Question("calls, errors", lambda c, t: queries.call_page(c, t, Filters(errors=True), limit=50), 300),
        Question("calls, without ids", lambda c, t: queries.call_page(c, t, Filters(unattributed=True), limit=50), 150),
        Question("calls of one model", lambda c, t: queries.call_page(c, t, Filters(model="model-3"), limit=50), 300),
        Question("sessions, first page", lambda c, t: queries.sessions(c, t, limit=50), 150),
        Question("sessions, months back", lambda c, t: queries.sessions(c, t, before=then, limit=50), 300),
        Question("sessions, newer than months back", lambda c, t: queries.sessions(c, t, after=then, limit=50), 300),
        Question("users, first page", lambda c, t: queries.users(c, t, since(30), limit=50), 150),
        Question("users, months back", lambda c, t: queries.users(c, t, before=then, limit=50), 300),
        Question("one session", lambda c, t: queries.transcript(c, t, session), 100),
        Question("usage, 30 days by model", lambda c, t: by_model(c, t, since(30)), 800, True),
        Question("usage, 30 days, latency", lambda c, t: usage(c, t, since(30)), 800, True),
        Question("usage, 90 days by model", lambda c, t: by_model(c, t, since(90)), 800, True),
        Question("usage, 90 days, latency", lambda c, t: usage(c, t, since(90)), 800, True),
        Question(
            "usage, 30 days in Shanghai",
            lambda c, t: usage(c, t, since(30), zone="Asia/Shanghai"), 800, True,
        ),
        Question(
            "usage, 90 days in Shanghai",
            lambda c, t: usage(c, t, since(90), zone="Asia/Shanghai"), 800, True,
        ),
        Question(
            "usage of a user, 30 days",
            lambda c, t: usage(c, t, since(30, user=user), percentiles=False), 800, True,
        ),
        Question("one trace", lambda c, t: queries.calls_in_order(c, t, since(7, trace="0" * 32)), 800),
        Question("errors over time, 7 days", lambda c, t: by_error(c, t, since(7)), 800, True),
        Question("coverage, 30 days", lambda c, t: queries.coverage(c, t, since(30)), 800, True),
        Question("stats by day, 90 days", lambda c, t: queries.stats_by(c, t, "day", since(90)), 800, True),
        Question("errors, 7 days", lambda c, t: queries.errors(c, t, since(7)), 800, True),
        Question("health", queries.health, 300),
        Question("users with most cost, 7 days", lambda c, t: queries.top_users(c, t, since(7), by="cost"), None, True),
    ]  # fmt: skip


async def measure(settings: Settings, *, small: bool) -> list[tuple[str, float, int | None]]:
    """Return the median time of each question, in milliseconds."""
    reader = Reader(settings)
    found = []
    async with reader.question() as (connection, table):
        (row,) = (await queries.sessions(connection, table, limit=1)).rows
    for one in questions(datetime.now(UTC), row.session_id, row.user_id, 240 if small else 60):
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            async with reader.question(aggregate=one.aggregate) as (connection, table):
                await one.ask(connection, table)
            times.append((time.perf_counter() - began) * 1000)
        found.append((one.name, statistics.median(times), one.bar_ms))
    await reader.close()
    began = time.perf_counter()
    await erase(settings, Subject(user="u-42"))
    found.append(("erase, plan", (time.perf_counter() - began) * 1000, None))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.pages")
    parser.add_argument("rows", type=int)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--url")
    given = parser.parse_args()
    database = None if given.url else Cluster(make_directory())
    try:
        if database is not None:
            database.start()
        settings = load(database_url=given.url or (database.url if database else None))
        migrate.upgrade(settings)
        if not asyncio.run(_is_filled(settings)):
            began = time.perf_counter()
            fill(settings.database_url, given.rows, small=given.small)
            print(f"filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        began = time.perf_counter()
        report = asyncio.run(rollup(settings))
        print(f"totals until {report.until}: {report.hours} hours in {time.perf_counter() - began:.1f} s")
        for name, ms, bar in asyncio.run(measure(settings, small=given.small)):
            verdict = "" if bar is None else f"{bar:>6} ms {'met' if ms <= bar else 'MISSED'}"
            print(f"{name:36} {ms:>9.1f} ms {verdict}")
    finally:
        if database is not None:
            database.remove()
    return 0


async def _is_filled(settings: Settings) -> bool:
    async with read_connection(settings) as connection:
        return bool(await connection.scalar(text(f"SELECT EXISTS (SELECT FROM {DEFAULT_TABLE})")))


if __name__ == "__main__":
    sys.exit(main())
