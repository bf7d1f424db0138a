"""llmctx with a further column of each kind: `python -m tests.kit.more_columns URL DIR`.

The lines below go into the source of `core/record.py`, and nothing else is changed; the table gets its columns as a
revision would add them. The process ends with an AssertionError where a column is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

DECLARED = """
    new_id: str | None = _column(ColumnKind.ID, added=True, personal=True, marked=True, filter="tenant")
    new_text: str | None = _column(ColumnKind.TEXT, added=True, personal=True, filter="region")
    new_snapshot: str | None = _column(ColumnKind.SNAPSHOT, added=True, personal=True)
    new_count: int | None = _column(ColumnKind.COUNT, added=True, marked=True)
    new_number: float | None = _column(ColumnKind.NUMBER, added=True)
    new_usd: Decimal | None = _column(ColumnKind.MONEY, added=True, marked=True)
    new_flag: bool | None = _column(ColumnKind.FLAG, added=True, marked=True)
    new_at: datetime | None = _column(ColumnKind.TIME, added=True, marked=True)
    new_uuid: UUID | None = _column(ColumnKind.UUID, added=True, marked=True)
    new_json: list[Any] | None = _column(ColumnKind.JSON, added=True)
"""
VALUES: dict[str, Any] = {
    "new_id": "tenant-7", "new_text": "eu-1", "new_snapshot": '"said"', "new_count": 3, "new_number": 0.5,
    "new_usd": Decimal("0.000000123"), "new_flag": True, "new_at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "new_uuid": UUID(int=7), "new_json": [{"a": 1}],
}  # fmt: skip
DIRTY: dict[str, Any] = {
    "new_id": "a\0b", "new_text": "x\0" * 1000, "new_snapshot": '"\0"', "new_count": 2**40, "new_number": "high",
    "new_usd": Decimal("-1"), "new_flag": "yes", "new_json": {"k\0": "v" * 70_000},
}  # fmt: skip
PG_TYPES = {
    "new_id": "text", "new_text": "text", "new_snapshot": "text", "new_count": "integer",
    "new_number": "double precision", "new_usd": "numeric(18, 9)", "new_flag": "boolean",
    "new_at": "timestamp with time zone", "new_uuid": "uuid", "new_json": "jsonb",
}  # fmt: skip


def declare() -> None:
    """Put `DECLARED` into `CallRecord`, before anything else of llmctx is loaded."""
    found = find_spec("llmctx.core")
    assert found is not None
    assert found.origin is not None
    assert "llmctx.core.record" not in sys.modules
    source = (Path(found.origin).parent / "record.py").read_text()
    last = "    attributes: dict"
    assert source.count(last) == 1
    module = ModuleType("llmctx.core.record")
    sys.modules["llmctx.core.record"] = module
    exec(compile(source.replace(last, DECLARED.lstrip("\n") + last), "record.py", "exec"), module.__dict__)


async def main(url: str, folder: Path) -> None:
    from sqlalchemy.dialects import postgresql

    from llmctx.cli.show import show_call
    from llmctx.core.record import CLEANED, SPECS
    from llmctx.migrate import commands as migrate
    from llmctx.ops.erase import Subject, erase
    from llmctx.ops.export import export
    from llmctx.settings import load
    from llmctx.storage import queries
    from llmctx.storage.engine import read_connection
    from llmctx.storage.filters import Filters
    from llmctx.storage.reflection import reflect
    from llmctx.storage.table import call_log_table
    from tests.kit.journals import Journal, die, record, taken
    from tests.kit.rows import do, writing

    settings = load(database_url=url)
    table = call_log_table()
    types = {name: str(table.c[name].type.compile(postgresql.dialect())).lower() for name in PG_TYPES}
    assert types == PG_TYPES

    # a dead process's journal: with their types, and cleaned
    dead = Journal(folder / "journal")
    whole, dirty, lost = record(**VALUES), record(**DIRTY), record()
    marked = {spec.name: VALUES[spec.name] for spec in SPECS if spec.marked and spec.name in VALUES}
    assert dead.append([whole, dirty]) == 2
    dead.start(lost.call_id.bytes, lost.created_at.timestamp(), {"model": "m", **marked})
    die(dead)
    (back, cleaned), (started,) = taken(Journal(folder / "journal"))
    assert back == whole
    assert {name: getattr(started, name) for name in marked} == marked
    assert set(cleaned.attributes[CLEANED]) == set(DIRTY)
    assert (cleaned.new_count, cleaned.new_number, cleaned.new_usd, cleaned.new_flag) == (None, None, None, True)

    # the table, as a revision would have changed it
    await asyncio.to_thread(migrate.upgrade, settings)
    kinds = PG_TYPES if settings.is_postgresql else {
        name: str(table.c[name].type.compile(migrated.dialect())) for migrated in [_sqlite()] for name in PG_TYPES
    }  # fmt: skip
    await do(url, *(f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}" for name, kind in kinds.items()))
    async with writing(url) as one:
        assert [one.submit(row) for row in (back, cleaned, started)] == [True] * 3
        assert await one.drain(60) == 0, one.last_error
        assert one.written == 3

    async def rows(**filters: Any) -> list[dict[str, Any]]:
        async with read_connection(settings) as connection:
            found = await reflect(connection, settings)
            return await queries.calls(connection, found, Filters(**filters), whole=True)

    (row,) = await rows(text="said")
    assert {name: row[name] for name in VALUES} == VALUES
    assert {one["call_id"] for one in await rows(more={"tenant": "tenant-7"})} == {back.call_id, started.call_id}
    assert [one["call_id"] for one in await rows(more={"region": "eu-1"})] == [back.call_id]

    # what people and programs see of it
    with contextlib.redirect_stdout(io.StringIO()) as page:
        show_call(row)
    shown = page.getvalue()
    assert [name for name in VALUES if name not in shown and name != "new_snapshot"] == []
    assert "\nnew\n" in shown
    await export(settings, Filters(), folder / "rows.jsonl", "jsonl")
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    (handed,) = (line for line in lines if line["call_id"] == str(back.call_id))
    assert (handed["new_usd"], handed["new_json"], handed["new_uuid"]) == ("0.000000123", [{"a": 1}], str(UUID(int=7)))

    # what is personal goes when its user is forgotten
    receipt = await erase(settings, Subject(user="u"), do=True, blank=True)
    assert receipt.left == 0
    async with read_connection(settings) as connection:
        row = await queries.call(connection, await reflect(connection, settings), str(back.call_id))
    assert {name for name in VALUES if row[name] is None} == {"new_id", "new_text", "new_snapshot"}


def _sqlite() -> Any:
    from sqlalchemy.dialects import sqlite

    return sqlite


if __name__ == "__main__":
    declare()
    os.environ.setdefault("COLUMNS", "200")
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
