"""`llmctx calls`: the latest calls as a table, and with `-f` those that end from now on."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from llmctx.cli import output
from llmctx.cli.options import After, Before, Csv, Json, query, say_next, settings_of, show_page, with_filters
from llmctx.cli.output import Column, text_of, time_of

if TYPE_CHECKING:
    from llmctx.settings import Settings
    from llmctx.storage.filters import Filters

_HANDLE: Final = 20
_POLL_S: Final = 1.0
_LATE: Final = timedelta(seconds=10)  # between the end of a call and its row
_REMEMBERED: Final = 100_000


@with_filters(
    "user", "session", "agent", "model", "node", "trace", "status", "errors", "unattributed", "text", "since", "until"
)
def calls(
    ctx: typer.Context,
    number: Annotated[int, typer.Option("-n", metavar="N", min=1, max=10_000, help="Number of calls.")] = 20,
    *,
    filters: Filters,
    before: Before = None,
    after: After = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Then print calls as they end.")] = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """List the latest calls."""
    from llmctx.storage import queries

    if follow + (before is not None) + (after is not None) > 1:
        raise typer.BadParameter("--before, --after and --follow: choose one")
    page = query(ctx, lambda c, table: queries.call_page(c, table, filters, before=before, after=after, limit=number))
    rows = page.rows
    if follow:
        _follow(settings_of(ctx), filters, list(reversed(rows)), json=json, csv=csv)
    if show_page(ctx, page, rows, json=json, csv=csv):
        return
    if not rows:
        output.say("No calls yet." if filters == queries.Filters() else "No calls match.")
        return
    today = all(row["created_at"] and row["created_at"].date() == datetime.now(UTC).date() for row in rows)
    _show_table(rows, "%H:%M:%S" if today else output.format_of(row["created_at"] for row in rows))
    say_next(ctx, page)
    output.say(f"One call in full, with the reasons for its user: llmctx show {queries.handle(rows[0]['call_id'])}")


def _show_table(rows: Sequence[dict[str, Any]], time: str, *, titles: bool = True) -> None:
    """Print `rows`. llmctx's short ids are never cut, because users type them; an adopted table's may be long."""
    lines = [_cells(row, time) for row in rows]
    long = any(len(line[1]) > _HANDLE for line in lines)
    columns = [
        Column("time UTC"), Column("call", cut="middle" if long else "no"), Column("user", cut="middle"),
        Column("session", cut="middle"), Column("agent", cut="end"), Column("model", cut="end"), Column("ms", "right"),
    ]  # fmt: skip
    output.table(columns, lines, gap=1, titles=titles)


def _cells(row: dict[str, Any], time: str) -> list[str]:
    from llmctx.storage.queries import handle

    status = row["status"] or {True: "ok", False: "error"}.get(row["success"])
    end = text_of(row["latency_ms"]) if status in {"ok", None} else status
    ids = [text_of(row[name]) for name in ("user_id", "session_id")]
    names = [row["agent_key"] or "", row["model"] or ""]
    return [time_of(row["created_at"], time), str(handle(row["call_id"])), *ids, *names, end]


def _follow(settings: Settings, filters: Filters, rows: Sequence[dict[str, Any]], *, json: bool, csv: bool) -> NoReturn:
    """Print `rows`, then calls as they end, until interrupted. JSON is one document a line here."""
    asyncio.run(_poll(settings, filters, rows, json=json, csv=csv))
    raise AssertionError("it only ends with an exception")


async def _poll(settings: Settings, filters: Filters, rows: Sequence[dict[str, Any]], *, json: bool, csv: bool) -> None:
    from llmctx.storage import queries
    from llmctx.storage.engine import read_connection
    from llmctx.storage.reflection import reflect

    printed: OrderedDict[Any, None] = OrderedDict()
    titles = True
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        while True:
            for row in rows:
                printed[row["call_id"]] = None
            while len(printed) > _REMEMBERED:
                printed.popitem(last=False)
            if rows:
                _show_followed(rows, json=json, csv=csv, titles=titles)
                titles = False
            await connection.rollback()  # a transaction would go on seeing what it began with
            await asyncio.sleep(_POLL_S)
            rows = await queries.calls_ended_since(connection, table, filters, datetime.now(UTC) - _LATE, printed)


def _show_followed(rows: Sequence[dict[str, Any]], *, json: bool, csv: bool, titles: bool) -> None:
    if json:
        for row in rows:
            output.show_json_line(row)
    elif csv:
        output.show_csv(rows, titles=titles)
    else:
        _show_table(rows, "%H:%M:%S", titles=titles)
