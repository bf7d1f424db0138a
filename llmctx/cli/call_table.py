"""Calls as lines of a table: the latest, and those that end while one looks."""

from __future__ import annotations

import asyncio
import json as jsons
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from llmctx.cli import output
from llmctx.cli.output import Column, text_of, time_of

if TYPE_CHECKING:
    from llmctx.settings import Settings
    from llmctx.storage.filters import Filters

_HANDLE: Final = 20
_EVERY_S: Final = 1.0
_LATE: Final = timedelta(seconds=10)  # between the end of a call and its row
_REMEMBERED: Final = 100_000


def cells(row: dict[str, Any], time: str) -> list[str]:
    """A call as a line."""
    from llmctx.storage.queries import handle

    status = row["status"] or {True: "ok", False: "error"}.get(row["success"])
    ended = text_of(row["latency_ms"]) if status in {"ok", None} else status
    ids = [text_of(row[name]) for name in ("user_id", "session_id")]
    return [
        time_of(row["created_at"], time),
        str(handle(row["call_id"])),
        *ids,
        row["agent_key"] or "",
        row["model"] or "",
        ended,
    ]


def columns(lines: Sequence[Sequence[str]]) -> list[Column]:
    """Of a table of calls. Our short ids are never cut, for one types them; somebody's own may be long."""
    long = any(len(line[1]) > _HANDLE for line in lines)
    return [
        Column("time UTC"), Column("call", cut="middle" if long else "no"), Column("user", cut="middle"),
        Column("session", cut="middle"), Column("agent", cut="end"), Column("model", cut="end"), Column("ms", "right"),
    ]  # fmt: skip


def follow(settings: Settings, filters: Filters, rows: Sequence[dict[str, Any]], *, json: bool, csv: bool) -> NoReturn:
    """Print `rows`, and calls as they end, until interrupted. JSON is one document a line here."""
    asyncio.run(_follow(settings, filters, rows, json=json, csv=csv))
    raise AssertionError("it only ends with an exception")


async def _follow(
    settings: Settings, filters: Filters, rows: Sequence[dict[str, Any]], *, json: bool, csv: bool
) -> None:
    from llmctx.storage import queries
    from llmctx.storage.engine import reading
    from llmctx.storage.reflection import reflect

    known: OrderedDict[Any, None] = OrderedDict()
    printed = False
    async with reading(settings) as connection:
        table = await reflect(connection, settings)
        while True:
            for row in rows:
                known[row["call_id"]] = None
            while len(known) > _REMEMBERED:
                known.popitem(last=False)
            if rows:
                _show(rows, json=json, csv=csv, titles=not printed)
                printed = True
            await connection.rollback()  # a transaction would keep what it began with
            await asyncio.sleep(_EVERY_S)
            rows = await queries.news(connection, table, filters, datetime.now(UTC) - _LATE, known)


def _show(rows: Sequence[dict[str, Any]], *, json: bool, csv: bool, titles: bool) -> None:
    if json:
        for row in rows:
            print(jsons.dumps(output.jsonable(row), ensure_ascii=False), flush=True)
    elif csv:
        output.show_csv(rows, titles=titles)
    else:
        lines = [cells(row, "%H:%M:%S") for row in rows]
        output.table(columns(lines), lines, gap=1, titles=titles)
