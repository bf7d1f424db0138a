"""pg_partman keeps its own tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmctx.core.record import DEFAULT_TABLE
from llmctx.storage.retention import Policy, retain
from tests.kit.months import NOW, fresh, partitions
from tests.kit.rows import do, record, store


@pytest.mark.parametrize("works", [True, False])
async def test_pg_partman_looks_after_its_own_tables(empty_database: str, works: bool) -> None:
    """It is asked to, or left alone: llmctx neither makes nor drops a partition, and rows expire all the same."""
    settings = await fresh(empty_database)
    maintenance = f"""CREATE FUNCTION partman.run_maintenance(p_parent_table text, p_analyze boolean DEFAULT false)
        RETURNS void LANGUAGE plpgsql AS $$ BEGIN ASSERT p_parent_table = 'public.{DEFAULT_TABLE}';
        CREATE TABLE theirs PARTITION OF {DEFAULT_TABLE} FOR VALUES FROM ('2031-03-01') TO ('2031-04-01'); END $$"""
    await do(
        empty_database,
        "CREATE SCHEMA partman",
        "CREATE TABLE partman.part_config (parent_table text PRIMARY KEY, premake int DEFAULT 4, retention text)",
        *([maintenance] if works else []),
        f"CREATE TABLE old PARTITION OF {DEFAULT_TABLE} FOR VALUES FROM ('2030-01-01') TO ('2030-02-01')",
    )
    before = await partitions(settings)
    of_us = await retain(settings, Policy(rows=90), now=NOW)
    assert any("drop partition old" in step for step in of_us.steps)  # no row of part_config names our table
    await do(empty_database, f"INSERT INTO partman.part_config VALUES ('public.{DEFAULT_TABLE}')")
    await store(settings, record(created_at=datetime(2030, 1, 15, tzinfo=UTC)))
    report = await retain(settings, Policy(rows=90), do=True, now=NOW)
    assert await partitions(settings) == before | ({"theirs"} if works else set())
    assert any("SET retention = '90 days'" in note for note in report.notes)
    assert "pg_partman" in str(report.steps if works else report.notes)
    assert report.rows == 1
