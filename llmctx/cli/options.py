"""What verbs share: the options that several have, and the settings that they work with."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints

import typer

from llmctx.cli import output

if TYPE_CHECKING:
    from llmctx.settings import Settings

T = TypeVar("T")

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")

Number = Annotated[int, typer.Option("-n", metavar="N", min=1, max=10_000, help="How many lines.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do what would otherwise only be shown.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV on stdout, a line of titles first.")]


def settings_of(ctx: typer.Context) -> Settings:
    """Settings from the environment, with the global options over them."""
    from llmctx.settings import load

    return load(database_url=ctx.find_root().obj)


def worked(work: Coroutine[Any, Any, T], *, changes: bool) -> T:
    """Do longer `work`; Ctrl-C ends it between two steps, and says how things stand. `changes`: it is more than a look.

    Raises `KeyboardInterrupt` then.
    """
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        done = "What was done stays: run it again to go on." if changes else "Nothing was changed."
        output.say(f"Interrupted. {done}")
        raise


def moment(text: str) -> datetime:
    """`2h` ago, or a date or time as in ISO 8601; UTC unless it says otherwise."""
    if found := _AGO.fullmatch(text.strip().lower()):
        return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 30m, 2h, 7d, or 2026-11-22T10:30") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


_FILTERS: Final[dict[str, tuple[Any, Any]]] = {
    "user": (Annotated[str | None, typer.Option("--user", metavar="ID")], None),
    "session": (Annotated[str | None, typer.Option("--session", metavar="ID")], None),
    "agent": (Annotated[str | None, typer.Option("--agent", metavar="KEY")], None),
    "model": (Annotated[str | None, typer.Option("--model", metavar="NAME")], None),
    "node": (Annotated[str | None, typer.Option("--node", metavar="NAME")], None),
    "status": (
        Annotated[str | None, typer.Option("--status", metavar="WORD", help="ok, error, cancelled, abandoned, lost.")],
        None,
    ),
    "errors": (Annotated[bool, typer.Option("--errors", help="Only what did not end well.")], False),
    "unattributed": (Annotated[bool, typer.Option("--unattributed", help="Only without user or session.")], False),
    "text": (
        Annotated[
            str | None, typer.Option("--text", metavar="TEXT", help="Only with this in prompt, answer or error.")
        ],
        None,
    ),
    "since": (
        Annotated[
            datetime | None,
            typer.Option("--since", parser=moment, metavar="WHEN", help="30m, 2h, 7d ago, or a date (UTC)."),
        ],
        None,
    ),
    "until": (
        Annotated[datetime | None, typer.Option("--until", parser=moment, metavar="WHEN", help="As --since.")],
        None,
    ),
}
"""What each field of `Filters` is on the command line, and what it is unless given."""


MOST: Final = ("user", "session", "agent", "model", "node", "since", "until")
"""Filters that make sense wherever rows are added up or handed out."""


def filtered(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb these filters as options, where it takes them as one: in its parameter `filters`."""

    def give(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def run(**given: Any) -> None:
            from llmctx.storage.filters import Filters  # late: it brings SQLAlchemy, which `--help` can do without

            verb(filters=Filters(**{name: given.pop(name) for name in names}), **given)

        signature = inspect.signature(verb)
        kinds = get_type_hints(verb, localns={"Filters": Any}, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "filters":
                named = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(kind=named, annotation=kinds[parameter.name]))
                continue
            for name in names:
                kind, usual = _FILTERS[name]
                parameters.append(
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=usual, annotation=kind)
                )
        # typer reads both: what a verb takes, and of what type it is
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return give
