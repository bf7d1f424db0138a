"""Shared by the verbs: options, settings, questions to the database, and the end of a verb that is interrupted."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints

import typer

from llmctx.cli import output

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmctx.settings import Settings
    from llmctx.storage.queries import Cursor, Page

T = TypeVar("T")

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"([0-9]{1,6})([smhdw])")

Number = Annotated[int, typer.Option("-n", metavar="N", min=1, max=10_000, help="Number of lines.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would be done.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")]


def settings_of(ctx: typer.Context) -> Settings:
    """Return the settings from the environment, overridden by the global options."""
    from llmctx.settings import load

    return load(database_url=ctx.find_root().obj)


def query(ctx: typer.Context, question: Callable[[AsyncConnection, Table], Awaitable[T]]) -> T:
    """Return the answer of `question`, asked over a read-only connection with the table as it is there."""
    from llmctx.storage.engine import read_connection
    from llmctx.storage.reflection import reflect

    settings = settings_of(ctx)

    async def answer() -> T:
        async with read_connection(settings) as connection:
            return await question(connection, await reflect(connection, settings))

    return asyncio.run(answer())


@contextmanager
def interruptible(*, changes: bool) -> Iterator[None]:
    """Say on Ctrl-C whether anything was changed, and pass the `KeyboardInterrupt` on."""
    try:
        yield
    except KeyboardInterrupt:
        done = "What was done stays: run it again to continue." if changes else "Nothing was changed."
        output.say(f"Interrupted. {done}")
        raise


def run_interruptible(work: Coroutine[Any, Any, T], *, changes: bool) -> T:
    """Run `work` and return its result; Ctrl-C ends it between two steps, as `interruptible` says."""
    with interruptible(changes=changes):
        return asyncio.run(work)


def choice(option: str, text: str, allowed: Iterable[T]) -> T:
    """Return the one of `allowed` that `text` names; raise a usage error that lists them all otherwise."""
    every = list(allowed)
    for one in every:
        if one == text:
            return one
    raise typer.BadParameter(f"{option} {text}: choose from {', '.join(map(str, every))}")


def moment(text: str) -> datetime:
    """Parse `2h` (ago), or an ISO 8601 date or time; UTC unless it has an offset."""
    try:
        if match := _AGO.fullmatch(text.strip().lower()):
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        time = datetime.fromisoformat(text.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(f"{text[:60]!r} is not a time: write 30m, 2h, 7d, or 2026-11-22T10:30") from None
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is before the year 1 or after 9999") from None


def cursor(text: str) -> Cursor:
    """Parse a cursor, as lists print it, or a time, as `moment` does."""
    from llmctx.storage.queries.page import Cursor, InvalidCursor

    try:
        return Cursor.parse(text.strip())
    except InvalidCursor:
        return Cursor(moment(text))


Before = Annotated[
    Any, typer.Option("--before", parser=cursor, metavar="CURSOR", help="Only older ones: than `next`, or than a time.")
]
After = Annotated[
    Any, typer.Option("--after", parser=cursor, metavar="CURSOR", help="Only newer ones: `previous`, or a time.")
]
"""A `Cursor`: with one of them, `--json` prints an object of `data`, `next` and `previous` instead of a list."""


def show_page(ctx: typer.Context, page: Page[Any], rows: Sequence[Mapping[str, Any]], *, json: bool, csv: bool) -> bool:
    """Print `rows`, those of `page`, as JSON or CSV if asked to, and tell whether that was so."""
    asked = ctx.params.get("before") is not None or ctx.params.get("after") is not None
    if json and asked:
        output.show_json({"data": rows, "next": page.next, "previous": page.previous})
        return True
    return output.for_programs(rows, json=json, csv=csv)


def say_next(ctx: typer.Context, page: Page[Any]) -> None:
    """Say how the next page is asked for, if there is one."""
    if page.next is not None:
        output.say(f"Older ones: llmctx {ctx.info_name} … --before {page.next}")


def totals_used(as_of: datetime) -> str:
    """Return the sentence that says from what sums were read."""
    return f"From totals until {as_of:%Y-%m-%d %H:%M} UTC (llmctx rollup), and from the rows since."


def _option(name: str, kind: Any = str | None, default: Any = None, **shown: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(f"--{name}", **shown)], default


_FILTERS: Final[dict[str, tuple[Any, Any]]] = {
    "user": _option("user", metavar="ID"),
    "session": _option("session", metavar="ID"),
    "agent": _option("agent", metavar="KEY"),
    "model": _option("model", metavar="NAME"),
    "node": _option("node", metavar="NAME"),
    "trace": _option("trace", metavar="ID", help="Only calls of this trace, of OpenTelemetry or your own."),
    "status": _option("status", metavar="WORD", help="ok, error, cancelled, abandoned or lost."),
    "errors": _option("errors", bool, False, help="Only calls that failed or were cut off."),
    "unattributed": _option("unattributed", bool, False, help="Only calls without user or session."),
    "text": _option("text", metavar="TEXT", help="Only with this in prompt, response or error."),
    "since": _option("since", datetime | None, parser=moment, metavar="WHEN", help="30m, 2h, 7d ago, or a date (UTC)."),
    "until": _option("until", datetime | None, parser=moment, metavar="WHEN", help="As --since."),
}
"""Field of `Filters` -> the type of its option, and its default."""

COMMON_FILTERS: Final = ("user", "session", "agent", "model", "node", "since", "until")
"""Filters that make sense wherever rows are summed or exported."""


def with_filters(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb these filters as options; it receives them as one value, in its parameter `filters`."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def run(**options: Any) -> None:
            from llmctx.storage.filters import Filters  # late: it loads SQLAlchemy, which `--help` does not need

            verb(filters=Filters(**{name: options.pop(name) for name in names}), **options)

        signature, keyword = inspect.signature(verb), inspect.Parameter.KEYWORD_ONLY
        kinds = get_type_hints(verb, localns={"Filters": Any}, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "filters":
                parameters.append(parameter.replace(kind=keyword, annotation=kinds[parameter.name]))
                continue
            for name in names:
                kind, default = _FILTERS[name]
                parameters.append(inspect.Parameter(name, keyword, default=default, annotation=kind))
        # typer reads both: the parameters from the signature, their types from the annotations
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
