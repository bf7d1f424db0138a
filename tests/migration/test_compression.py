"""New texts are compressed by lz4 where the server has it, in tables that are made and in such as are there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmctx.core.errors import LlmctxError
from llmctx.core.record import DEFAULT_TABLE as T
from llmctx.migrate import commands as migrate
from llmctx.migrate.distribute import distribute
from llmctx.settings import load
from tests.conftest import execute
from tests.kit.rows import query
from tests.migration.filling import ddl
from tests.migration.psql import dumped, has_lz4

OF_TEXTS = f"""
SELECT DISTINCT a.attcompression::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE (c.oid = '{T}'::regclass OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = '{T}'::regclass))
  AND a.attname IN ('prompt_snapshot', 'response_snapshot', 'reasoning_snapshot', 'error_message', 'attributes')
"""


def ask(url: str, question: str) -> list[Any]:
    return [row[0] for row in asyncio.run(query(url, question))]


def test_a_new_table_and_its_partitions(empty_database: str) -> None:
    """And a partition that is made later."""
    expected = ["l" if has_lz4(empty_database) else ""]
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    assert ask(empty_database, OF_TEXTS) == expected
    execute(empty_database, f"CREATE TABLE later PARTITION OF {T} FOR VALUES FROM ('2031-01-01') TO ('2031-02-01')")
    assert ask(empty_database, OF_TEXTS) == expected
    assert migrate.plan(settings).steps == []


def test_a_table_that_was_there(empty_database: str) -> None:
    """It stands in the plan; rows that are there stay as they are, and can be read."""
    execute(
        empty_database,
        *ddl("texts"),
        f"INSERT INTO {T} (id, call_id, model, created_at, prompt_snapshot) "
        "VALUES ('1', 'old', 'm', '2020-01-01', repeat('words ', 9000))",
    )
    settings = load(database_url=empty_database)
    can = has_lz4(empty_database)
    assert any("lz4" in step.what for step in migrate.plan(settings).steps) is can
    migrate.upgrade(settings)
    assert ask(empty_database, OF_TEXTS) == ["l" if can else ""]
    kept = "SELECT pg_column_compression(prompt_snapshot) || length(prompt_snapshot) FROM "
    assert ask(empty_database, kept + T) == ["pglz54000"]


def test_the_way_back(empty_database: str) -> None:
    """The team's own columns are compressed as before."""
    execute(empty_database, *ddl("texts"))
    before, settings = dumped(empty_database), load(database_url=empty_database)
    migrate.upgrade(settings)
    assert any("as before" in step.what for step in migrate.plan(settings, down=True).steps) is has_lz4(empty_database)
    migrate.downgrade(settings)
    assert dumped(empty_database) == before


def test_a_table_of_an_earlier_version(empty_database: str) -> None:
    """It is at the head, and is not called behind; the next `migrate` does it."""
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    execute(empty_database, f"ALTER TABLE {T} ALTER COLUMN prompt_snapshot SET COMPRESSION pglz")
    assert migrate.check(settings).is_current
    can = has_lz4(empty_database)
    assert len(migrate.plan(settings).steps) == can
    migrate.upgrade(settings)
    assert ask(empty_database, OF_TEXTS) == (["l"] if can else ["", "p"])


def test_without_citus(database: str) -> None:
    """`--distribute` says what is missing, and changes nothing."""
    with pytest.raises(LlmctxError, match="no Citus"):
        distribute(load(database_url=database))
