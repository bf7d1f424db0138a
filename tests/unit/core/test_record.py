"""What `core/record.py` declares is what the revisions have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql

from llmctx.core.columns import ColumnKind
from llmctx.core.record import IDS, LINKS, SNAPSHOTS, SPECS
from llmctx.identity.call_context import ID_FIELDS
from llmctx.migrate.adoption.revision import TYPES, columns_until
from llmctx.storage.table import call_log_table
from tests.migration.filling import ddl

ALEMBIC = Path(__file__).parents[3] / "alembic"


def declared(columns: Any) -> dict[str, tuple[str, bool]]:
    """Type and nullability by name."""
    return {column.name: (column.type.compile(postgresql.dialect()), bool(column.nullable)) for column in columns}


def test_the_frozen_copies_of_the_revisions_say_the_same() -> None:
    """Names, types and NOT NULL; each revision holds what it adds, so that it means the same in three years."""
    script = ScriptDirectory(str(ALEMBIC))
    revised = [
        Column("call_id", TYPES["uuid"], nullable=False),
        Column("created_at", TYPES["timestamp with time zone"], nullable=False),
        *(
            Column(name, TYPES[kind], nullable=name != "model")
            for name, kind in columns_until(script, script.get_current_head()).items()
        ),
    ]
    assert declared(revised) == declared(call_log_table().columns)


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
