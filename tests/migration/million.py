"""`make adopt`: each shape with a million rows, adopted, partitioned and led back beside an application that goes on.

    python -m tests.migration.million [ROWS] [SHAPE …]

Once with the rows of `filling.py`, once with those of `odd.py`, of which what has expired goes as well. Prints a line
for each; ends with 1 if a row was lost, changed or refused, or a statement of the application's waited for longer than
a second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.migrate import partition as partitioning
from llmctx.settings import Settings, load
from llmctx.storage.retention import Policy, retain
from tests.conftest import execute
from tests.kit.support import wait_for
from tests.migration.filling import CHILD, SHAPES, OldWriter, connect, digest, fill
from tests.migration.odd import OWNER, Clinic, Odd, furnish, sum_of
from tests.migration.odd import columns_of as columns_there
from tests.migration.psql import dumped

T = DEFAULT_TABLE
LONGEST_S = 1.0


async def goes_on(application: OldWriter | Clinic) -> None:
    """Wait until the application has written some more rows."""
    before = len(application.written)
    await wait_for(lambda: len(application.written) >= before + 50, "the application's rows", 60)


async def beside(url: str, shape: str, what: str, change: Callable[[], Any], columns: list[str], had: Any) -> bool:
    """Whether `change` was noticed by nobody."""
    connection = await connect(url)
    began = time.monotonic()
    async with OldWriter(url, shape) as old:
        await goes_on(old)
        at = time.monotonic()
        await asyncio.to_thread(change)
        took = time.monotonic() - at
        await goes_on(old)
    seconds = time.monotonic() - began
    now = await digest(connection, columns, f"{T} WHERE model <> 'gpt-4o' OR temperature <> 0.5")
    stored = await connection.fetchval(f"SELECT count(*) FROM {T} WHERE call_id = ANY ($1)", old.written)
    await connection.close()
    good = now == had and stored == len(old.written) and not old.failed and old.longest_s <= LONGEST_S
    print(
        f"{shape:8} {what:10} {took:6.1f} s; application: {len(old.written):6,} rows, "
        f"{len(old.written) / seconds:4.0f}/s, "
        f"{len(old.failed)} refused, longest {old.longest_s * 1000:4.0f} ms; rows before "
        f"{'as they were' if now == had else f'CHANGED {had} {now}'}{'' if good else '  <- NOT GOOD'}",
        flush=True,
    )
    return good


async def one(url: str, shape: str, rows: int) -> bool:
    """Adopt, give back, adopt, partition, lead back."""
    settings: Settings = load(database_url=url)
    began = time.monotonic()
    await fill(url, shape, rows)
    connection = await connect(url)
    columns = [
        row[0]
        for row in await connection.fetch(
            f"SELECT attname FROM pg_attribute WHERE attrelid = '{T}'::regclass AND attnum > 0 ORDER BY attnum"
        )
    ]
    had = await digest(connection, columns)
    size = await connection.fetchval(f"SELECT pg_size_pretty(pg_total_relation_size('{T}'))")
    print(f"{shape:8} {had[0]:,} rows, {size}, filled in {time.monotonic() - began:.0f} s", flush=True)
    bare = dumped(url)
    good = await beside(url, shape, "adopt", lambda: migrate.upgrade(settings), columns, had)
    adopted = dumped(url)
    good &= await beside(url, shape, "downgrade", lambda: migrate.downgrade(settings), columns, had)
    good &= dumped(url) == bare
    migrate_again = asyncio.to_thread(migrate.upgrade, settings)
    await migrate_again
    good &= dumped(url) == adopted
    there = lambda: partitioning.partition(settings, drop_foreign_keys=True)  # noqa: E731
    good &= await beside(url, shape, "partition", there, columns, had)
    good &= await beside(url, shape, "back", lambda: partitioning.partition(settings, back=True), columns, had)
    good &= dumped(url) == adopted
    await connection.close()
    return good


async def beside_clinic(url: str, odd: Odd, what: str, change: Callable[[], Any], columns: list[str], had: Any) -> bool:
    """Whether `change` was noticed by nobody of an application with slow transactions and readers."""
    began = time.monotonic()
    async with Clinic(url, odd) as clinic:
        await goes_on(clinic)
        at = time.monotonic()
        await asyncio.to_thread(change)
        took = time.monotonic() - at
        await goes_on(clinic)
    seconds = time.monotonic() - began
    theirs = "model <> 'old way'" + (f" AND created_at >= '{had[2]}'" if len(had) > 2 else "")
    now = await sum_of(url, odd, columns, where=theirs)
    connection = await connect(url)
    stored = await connection.fetchval(f"SELECT count(*) FROM {odd.table} WHERE call_id = ANY ($1)", clinic.written)
    await connection.close()
    good = now == had[:2] and stored == len(clinic.written) and not clinic.failed and clinic.longest_s <= LONGEST_S
    print(
        f"{odd.shape:8} {what:10} {took:6.1f} s; application: {len(clinic.written):6,} rows, "
        f"{len(clinic.written) / seconds:4.0f}/s, {clinic.reads:,} reads, {len(clinic.failed)} refused, longest "
        f"{clinic.waits[-1][0] * 1000:4.0f} ms ({clinic.waits[-1][1]}); odd rows "
        f"{'as they were' if now == had[:2] else f'CHANGED {had} {now}'}{'' if good else '  <- NOT GOOD'}"
        f"{f' {clinic.failed[0]}' if clinic.failed else ''}",
        flush=True,
    )
    return good


async def odd_one(url: str, shape: str, rows: int) -> bool:
    """The same with odd rows, by the role that owns the table; and what has expired goes."""
    odd = Odd(shape)
    await furnish(url, odd, rows)
    by = make_url(url).set(username=OWNER).render_as_string(hide_password=False)
    settings: Settings = load(database_url=by, table=odd.name, db_schema=odd.schema)
    columns = await columns_there(url, odd)
    had = await sum_of(url, odd, columns)
    bare = dumped(url)
    good = await beside_clinic(url, odd, "adopt", lambda: migrate.upgrade(settings), columns, had)
    adopted = dumped(url)
    good &= await beside_clinic(url, odd, "downgrade", lambda: migrate.downgrade(settings), columns, had)
    good &= dumped(url) == bare
    await asyncio.to_thread(migrate.upgrade, settings)
    good &= dumped(url) == adopted
    there = lambda: partitioning.partition(settings, drop_foreign_keys=True)  # noqa: E731
    good &= await beside_clinic(url, odd, "partition", there, columns, had)
    good &= await beside_clinic(url, odd, "back", lambda: partitioning.partition(settings, back=True), columns, had)
    good &= dumped(url) == adopted
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = f"{today - timedelta(days=365):%Y-%m-%d}"
    kept = await sum_of(url, odd, columns, where=f"model <> 'old way' AND created_at >= '{since}'")
    had = (*kept, since)

    def expire() -> None:
        asyncio.run(retain(settings, Policy(rows=365), do=True, now=today))

    good &= await beside_clinic(url, odd, "retain", expire, columns, had)
    return good


def main(rows: int, shapes: list[str]) -> int:
    server = subprocess.Popen(
        [sys.executable, "-m", "llmctx.cli.demo.postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    good = True
    try:
        url = json.loads(server.stdout.readline())["url"]
        for shape in shapes:
            name = f"adopt_{uuid4().hex[:8]}"
            execute(url, f"CREATE DATABASE {name}")
            of = make_url(url).set(database=name).render_as_string(hide_password=False)
            good &= asyncio.run(one(of, shape, rows))
            execute(of, f"DROP TABLE {T}, {CHILD} CASCADE", "DROP TABLE llmctx_alembic_version")
            good &= asyncio.run(odd_one(of, shape, rows))
            execute(url, f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        server.stdin.close()
        server.wait(60)
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    words = [word for word in sys.argv[1:] if not word.isdigit()]
    sys.exit(main(numbers[0] if numbers else 1_000_000, words or list(SHAPES)))
