"""What verbs share: the options that several have, and the settings that they work with."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from llmctx.settings import Settings

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV on stdout, a line of titles first.")]


def settings_of(ctx: typer.Context) -> Settings:
    """Settings from the environment, with the global options over them."""
    from llmctx.settings import load

    return load(database_url=ctx.find_root().obj)


def moment(text: str) -> datetime:
    """`2h` ago, or a date or time as in ISO 8601; UTC unless it says otherwise."""
    if found := _AGO.fullmatch(text.strip().lower()):
        return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 30m, 2h, 7d, or 2026-11-22T10:30") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


Since = Annotated[
    datetime | None, typer.Option("--since", parser=moment, metavar="WHEN", help="30m, 2h, 7d ago, or a date (UTC).")
]
Until = Annotated[datetime | None, typer.Option("--until", parser=moment, metavar="WHEN", help="As --since.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID")]
Session = Annotated[str | None, typer.Option("--session", metavar="ID")]
Agent = Annotated[str | None, typer.Option("--agent", metavar="KEY")]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME")]
Node = Annotated[str | None, typer.Option("--node", metavar="NAME")]
