"""What `core/record.py` declares is what the revisions have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.util import load_python_file
from sqlalchemy.dialects import postgresql

from llmctx.core.record import IDS, LINKS, SNAPSHOTS, SPECS, ColumnKind
from llmctx.identity.call_context import ID_FIELDS
from llmctx.storage.table import call_log_table
from tests.migration.filling import ddl

ALEMBIC = Path(__file__).parents[3] / "alembic"


def declared(columns: Any) -> dict[str, tuple[str, bool]]:
    """Type and nullability by name."""
    return {column.name: (column.type.compile(postgresql.dialect()), bool(column.nullable)) for column in columns}


def test_the_frozen_copy_of_the_revision_says_the_same() -> None:
    """Names, types and NOT NULL; the revision imports nothing from llmctx, so that it means the same in three years."""
    revision = load_python_file(str(ALEMBIC / "versions"), "0001_call_log.py")
    assert declared(revision._columns()) == declared(call_log_table().columns)


def test_what_llmctx_adds_is_what_tables_in_practice_lack() -> None:
    """The columns that are there already are those of the tables that were met."""
    there = ddl("texts")[0]
    assert [spec.name for spec in SPECS if spec.added == (f" {spec.name} " in there)] == []


def test_lists_that_follow_from_the_declaration() -> None:
    """In the order of the table; the last column is the one that says what was changed in the others."""
    assert set(IDS) == set(ID_FIELDS)
    assert LINKS == ("trace_id", "session_id", "conversation_id", "thread_id")
    assert SNAPSHOTS == ("prompt_snapshot", "response_snapshot", "reasoning_snapshot")
    assert (SPECS[-1].name, SPECS[-1].kind) == ("attributes", ColumnKind.JSON)
