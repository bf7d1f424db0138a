"""Tables with unique keys beside the call's: nothing that meets them is passed over in silence."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE
from llmctx.delivery import batcher
from llmctx.delivery.destinations.sql import destination
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.batchers import adds_up
from tests.kit.databases import T, healed, put, role
from tests.kit.pooler import Pooler
from tests.kit.rows import PATIENCE, do, query, record, stored, writing
from tests.kit.support import wait_for
from tests.migration.filling import ddl


async def by_trace(url: str) -> None:
    """One call for each trace, says the host."""
    parts = await query(url, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{T}'::regclass")
    await do(url, *(f"CREATE UNIQUE INDEX ON {part} (trace_id)" for (part,) in parts))


async def test_a_sequence_that_has_fallen_behind_its_table(empty_database: str) -> None:
    """Somebody has restored the rows, and not the sequence: ours wait until it is set right."""
    await do(
        empty_database,
        *ddl("numbers"),
        f"INSERT INTO {T} (id, call_id, model, created_at) "
        "SELECT n, 'old-' || n, 'm', '2020-01-01' FROM generate_series(1, 100000) n",
    )
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database))
    async with writing(empty_database) as one:
        rows = put(one, 300)
        await wait_for(lambda: f"{T}_pkey [23505]" in (one.last_error or ""), "the refusal")
        assert (one.written, one.waiting, one.quarantined) == (0, 300, 0)
        await do(empty_database, f"SELECT setval(pg_get_serial_sequence('{T}', 'id'), 100000)")
        assert await one.drain(PATIENCE) == 0, one.last_error
        for row in rows:
            one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined, one.dropped) == (600, 0, 0)
    assert await stored(empty_database) == 100_300


@pytest.mark.parametrize("pooled", [False, True], ids=["", "through a pooler"])
async def test_a_row_that_meets_a_key_of_the_hosts_is_kept(own: str, *, pooled: bool) -> None:
    """Set aside, with the reason; what is delivered twice is there once. A role that may INSERT alone sees to both."""
    await by_trace(own)
    async with role(own, "") as (limited, _):
        pooler = Pooler(limited, servers=2)
        await pooler.open()
        try:
            async with writing(pooler.url if pooled else limited) as one:
                rows = [record(trace_id=f"t-{number}") for number in range(60)]
                again = [record(trace_id=f"t-{number}") for number in range(0, 60, 20)]
                for row in [*rows[:50], *again, *rows]:
                    one.submit(row)
                assert await one.drain(PATIENCE) == 0, one.last_error
                assert (one.written, one.quarantined, one.dropped) == (110, 3, 0)
                assert {kept.call_id for kept, _, _ in one.rejected_rows} == {row.call_id for row in again}
                assert all(code == "23505" and "trace_id" in reason for _, code, reason in one.rejected_rows)
        finally:
            await pooler.close()
    assert await stored(own) == 60


async def test_a_key_that_is_added_under_load(own: str) -> None:
    """It is seen when it first refuses a row."""
    async with writing(own) as one:
        put(one, 1, trace_id="t-1")
        assert await one.drain(PATIENCE) == 0, one.last_error
        await by_trace(own)
        bad = put(one, 1, trace_id="t-1")
        put(one, 20)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (21, 1)
        assert one.rejected_rows[0][0].call_id == bad[0].call_id
    assert await stored(own) == 21


async def test_a_key_that_is_only_looked_at_in_the_end(own: str) -> None:
    """PostgreSQL allows no ON CONFLICT where a key is deferrable: what is there already is found out without."""
    parts = await query(own, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{T}'::regclass")
    await do(own, *(f"ALTER TABLE {part} ADD UNIQUE (call_id) DEFERRABLE INITIALLY DEFERRED" for (part,) in parts))
    async with writing(own) as one:
        rows = put(one, 30)
        assert await one.drain(PATIENCE) == 0, one.last_error
        for row in [*rows, *(record() for _ in range(30))]:
            one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined, one.dropped) == (90, 0, 0)
    assert await stored(own) == 60


async def test_a_role_that_may_only_insert(empty_database: str) -> None:
    """The application's role needs INSERT on the table, and nothing else."""
    migrate_it = asyncio.to_thread(migrate.upgrade, load(database_url=empty_database))
    await migrate_it
    role = "llmctx_writer_only"
    await do(
        empty_database,
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role} LOGIN PASSWORD 'w'",
        f"GRANT INSERT ON {DEFAULT_TABLE} TO {role}",
    )
    try:
        limited = make_url(empty_database).set(username=role, password="w").render_as_string(hide_password=False)
        rows = [record() for _ in range(10)]
        async with writing(limited) as one:
            for row in [*rows, *rows]:
                one.submit(row)
            assert await one.drain(PATIENCE) == 0
            assert one.last_error is None
        with pytest.raises(Exception, match="permission denied"):
            await stored(limited)
        assert await stored(empty_database) == 10
    finally:
        await do(empty_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_missing_table_that_is_made_under_load(any_empty_database: str) -> None:
    """No table: everything waits, and the log says what to do. `llmctx migrate`: everything is stored."""
    async with writing(any_empty_database) as one:
        for _ in range(200):
            one.submit(record())
        await wait_for(lambda: one.last_error is not None, "the writer to notice")
        assert (one.waiting, one.quarantined) == (200, 0)
        assert "the table is missing or behind" in str(one.last_error)
        await asyncio.to_thread(migrate.upgrade, load(database_url=any_empty_database))
        for _ in range(200):
            one.submit(record())
        assert await one.drain(PATIENCE) == 0
    assert await stored(any_empty_database) == 400


@pytest.mark.parametrize("columns", [("cost_usd",), ("attributes",), ("node", "provider", "attributes", "cached")])
async def test_a_table_that_lacks_columns(
    own_database: str, columns: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their values are left out. When the columns appear under load they are noticed."""
    monkeypatch.setattr(destination, "_LOOK_AGAIN_S", 0.1)
    types = {
        "cost_usd": "numeric(18, 9)",
        "attributes": "jsonb",
        "node": "text",
        "provider": "text",
        "cached": "boolean",
    }
    await do(own_database, *(f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN {name}" for name in columns))
    known: dict[str, Any] = {
        "cost_usd": Decimal(1),
        "node": "n",
        "provider": "p",
        "attributes": {"a": 1},
        "cached": True,
    }
    async with writing(own_database) as one:
        one.submit(record(**known))
        assert await one.drain(PATIENCE) == 0
        await do(own_database, *(f"ALTER TABLE {DEFAULT_TABLE} ADD COLUMN {name} {types[name]}" for name in columns))

        async def full() -> int:
            one.submit(record(**known))
            assert await one.drain(PATIENCE) == 0
            ((count,),) = await query(
                own_database, f"SELECT count(*) FROM {DEFAULT_TABLE} WHERE {columns[0]} IS NOT NULL"
            )
            return int(count)

        async with asyncio.timeout(PATIENCE):
            while not await full():
                pass
        assert one.quarantined == 0


async def test_a_column_that_vanishes_under_load(own_database: str) -> None:
    """The insert is compiled anew; no row is lost for it."""
    async with writing(own_database) as one:
        one.submit(record(node="n"))
        assert await one.drain(PATIENCE) == 0
        await do(own_database, f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN node")
        for _ in range(50):
            one.submit(record(node="n"))
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.quarantined) == (51, 0)


async def test_columns_that_are_not_ours(own_database: str) -> None:
    """They may be there. One that must not be empty is a mistake of the table's, not of the rows: those wait."""
    await do(own_database, f"ALTER TABLE {DEFAULT_TABLE} ADD COLUMN tenant text")
    async with writing(own_database) as one:
        one.submit(record())
        assert await one.drain(PATIENCE) == 0
        if not own_database.startswith("postgresql"):
            return
        await do(
            own_database,
            f"ALTER TABLE {DEFAULT_TABLE} ADD COLUMN region text NOT NULL DEFAULT ''",
            f"ALTER TABLE {DEFAULT_TABLE} ALTER COLUMN region DROP DEFAULT",
        )
        for _ in range(20):
            one.submit(record())
        await wait_for(lambda: one.last_error is not None, "the writer to notice")
        assert one.quarantined == 0
        await do(own_database, f"ALTER TABLE {DEFAULT_TABLE} ALTER COLUMN region DROP NOT NULL")
        assert await one.drain(PATIENCE) == 0
        assert one.written == 21


async def test_row_level_security(own: str) -> None:
    """A role with INSERT alone, and a policy for inserts alone: its rows are stored, others' set aside."""
    await do(
        own,
        f"ALTER TABLE {T} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY ours ON {T} FOR INSERT WITH CHECK (user_id <> 'forbidden')",
    )
    async with role(own, "") as (limited, _), writing(limited) as one:
        rows = put(one, 50)
        put(one, 1, user_id="forbidden")
        put(one, 49)
        one.submit(rows[0])
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (100, 1)
        assert one.rejected_rows[0][1] == "42501"
    assert await stored(own) == 99


async def test_a_table_with_a_rule(own: str) -> None:
    """PostgreSQL allows no ON CONFLICT there, and COPY would pass the rule by: rows wait, and the log says why."""
    await do(own, f"CREATE RULE host_rule AS ON INSERT TO {T} DO ALSO NOTIFY host")
    async with writing(own) as one:
        put(one, 10)
        await wait_for(lambda: "rule" in (one.last_error or ""), "the refusal")
        assert (one.waiting, one.quarantined) == (10, 0)
        await do(own, f"DROP RULE host_rule ON {T}")
        await healed(one)
    assert await stored(own) == 10


async def test_no_right_to_insert(own: str) -> None:
    """Everything waits for the grant."""
    async with role(own, "") as (limited, name):
        await do(own, f"REVOKE INSERT ON {T} FROM {name}")
        async with writing(limited) as one:
            put(one, 50)
            await wait_for(lambda: "42501" in (one.last_error or ""), "the refusal")
            assert (one.waiting, one.quarantined) == (50, 0)
            await do(own, f"GRANT INSERT ON {T} TO {name}")
            await healed(one)
            assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(own) == 50


async def test_rows_that_have_no_partition_wait_alone(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another month than the table is ready for; the others are stored."""
    monkeypatch.setattr(batcher, "_DEFER_S", 0.5)
    now = datetime.now(UTC)
    tomorrow, before = now.date() + timedelta(days=2), now.date() - timedelta(days=2)
    parts = await query(own, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{T}'::regclass")
    await do(
        own,
        *(f"DROP TABLE {name}" for (name,) in parts),
        f"CREATE TABLE only_now PARTITION OF {T} FOR VALUES FROM ('{before}') TO ('{tomorrow}')",
    )
    async with writing(own) as one:
        put(one, 50)
        put(one, 3, created_at=now - timedelta(days=400))
        put(one, 50)
        await wait_for(lambda: one.written == 100, "those that have a place")
        assert (one.waiting, one.quarantined) == (3, 0)
        await do(own, f"CREATE TABLE rest PARTITION OF {T} DEFAULT")
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert adds_up(one, 103)
    assert await stored(own) == 103


async def test_a_name_that_wants_quotes(empty_database: str) -> None:
    """In a schema of its own, both ways of storing."""
    await do(empty_database, 'CREATE SCHEMA "Host"')
    given = {"db_schema": "Host", "table": "Calls"}
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database, **given))
    async with writing(empty_database, **given) as one:
        rows = put(one, 10)
        assert await one.drain(PATIENCE) == 0, one.last_error
        for row in [*rows, record()]:
            one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.last_error
    ((count,),) = await query(empty_database, 'SELECT count(*) FROM "Host"."Calls"')
    assert count == 11
