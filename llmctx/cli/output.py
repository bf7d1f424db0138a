"""Output: tables that fit the terminal, JSON and CSV on stdout; messages and progress on stderr.

Ids, prompts and errors come from outside. They are printed as text only: without rich's markup, and with every control
character and direction mark as a visible escape, so that nothing can move the cursor.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from llmctx.core.csv_text import csv_line
from llmctx.core.jsonable import to_jsonable
from llmctx.core.text import escape_controls

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

NULL: Final = "NULL"
_NARROWEST: Final = 6
_USUAL: Final = 80
_SIZES: Final = ("COLUMNS", "LINES", "JUPYTER_COLUMNS", "JUPYTER_LINES")
_SIZE: Final = re.compile("[0-9]{1,5}")


def say(words: str) -> None:
    """Print a message, on stderr."""
    _console(stderr=True).print(Text(escape_controls(words, breaks=True)), soft_wrap=True)


def show(text: Text | str = "") -> None:
    """Print a line of data, on stdout; a string is printed as it is, so clean it with `escape_controls` first."""
    _console().print(text if isinstance(text, Text) else Text(text), soft_wrap=True)


def show_json(value: object) -> None:
    """Print `value` on stdout as JSON that is safe to look at in a terminal."""
    _write_json(to_jsonable(value, exact=False), indent=2)


def show_json_line(value: object) -> None:
    """Print `value` on stdout as one line of JSON, at once."""
    _write_json(to_jsonable(value, exact=False))
    sys.stdout.flush()


def _write_json(value: object, indent: int | None = None) -> None:
    narrow = not sys.stdout.encoding.lower().startswith("utf")  # an escape of the stream's is not JSON's
    text = json.dumps(value, ensure_ascii=narrow, indent=indent, allow_nan=False)
    sys.stdout.write(escape_controls(text, breaks=True, for_json=True) + "\n")


def show_csv(rows: Sequence[Mapping[str, Any]], *, titles: bool = True) -> None:
    """Print `rows` on stdout as CSV; NULL is empty, an empty text is `""`."""
    if rows and titles:
        sys.stdout.write(csv_line(rows[0]))
    for row in rows:
        cells = (to_jsonable(value, exact=False) for value in row.values())
        sys.stdout.write(
            csv_line(json.dumps(cell, ensure_ascii=False) if isinstance(cell, (dict, list)) else cell for cell in cells)
        )


def for_programs(rows: Sequence[Mapping[str, Any]], *, json: bool, csv: bool) -> bool:
    """Print `rows` as JSON or CSV if asked to, and tell whether that was so."""
    if json:
        show_json(rows)
    elif csv:
        show_csv(rows)
    return json or csv


def _console(*, stderr: bool = False) -> Console:
    # of what is no size, such as "²", rich makes a number as well, and fails
    kept = {name: value for name, value in os.environ.items() if name not in _SIZES or _SIZE.fullmatch(value)}
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, _environ=kept)
    if console.width < 1:  # COLUMNS=0: nothing would be printed at all
        console.width = _USUAL
    return console


def width() -> int | None:
    """Return the columns to stay within; None for a pipe or a file, where nothing need be cut."""
    if sys.stdout.isatty() or _SIZE.fullmatch(os.environ.get("COLUMNS", "")):
        return _console().width
    return None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. One that may be `cut` becomes narrower when the terminal is too narrow."""

    title: str
    align: Literal["left", "right"] = "left"
    cut: Literal["no", "end", "middle"] = "no"

    def fit(self, cell: str, width: int) -> str:
        """Return `cell` in exactly `width` columns; ids are cut in the middle, because they differ at the end."""
        if cell_len(cell) > width:
            tail = cell[-((width - 1) // 3) :] if self.cut == "middle" and width > 3 else ""
            cell = set_cell_size(cell, width - 1 - cell_len(tail)) + "…" + tail
        gap = " " * (width - cell_len(cell))
        return gap + cell if self.align == "right" else cell + gap


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, indent: int = 0, gap: int = 2, titles: bool = True
) -> None:
    """Print `rows` under the titles, within the terminal's width. Cells are cleaned here; `NULL` stands out."""
    cells = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, [column.title, *(row[i] for row in cells)])) for i, column in enumerate(columns)]
    flexible = [i for i, column in enumerate(columns) if column.cut != "no"]
    room = width()
    while room is not None and flexible and sum(widths) + indent + gap * (len(columns) - 1) > room:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    for number, row in enumerate([[column.title for column in columns], *cells]):
        line = Text(" " * indent)
        for i, (cell, column) in enumerate(zip(row, columns, strict=True)):
            line.append(column.fit(cell, widths[i]), _style(cell) if number else "dim")
            line.append(" " * gap)
        line.rstrip()
        if number or titles:
            show(line)


def _style(cell: str) -> str:
    return "bold red" if cell in {NULL, "error", "lost"} else "yellow" if cell in {"cancelled", "abandoned"} else ""


def text_of(value: object, *, null: str = NULL) -> str:
    """Format a value as a cell: None as `null`, numbers with separators of thousands, large ones in millions."""
    if value is None:
        return null
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10_000_000 else f"{value / 1_000_000:,.1f}M"
    if isinstance(value, Decimal):
        return f"{value:.6f}" if value < 1000 else f"{value:,.2f}"
    return time_of(value) if isinstance(value, datetime) else str(value)


def format_of(times: Iterable[datetime | None]) -> str:
    """Return a format for a column of `times`: with the year unless all are of this one."""
    now = datetime.now(UTC)
    years = {time.astimezone(UTC).year for time in times if time is not None}
    return "%m-%d %H:%M" if years <= {now.year} else "%Y-%m-%d %H:%M"


def time_of(value: datetime | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Format a time in UTC, to the second; rows of an adopted table may have none."""
    return "(no time)" if value is None else f"{value.astimezone(UTC):{form}}"


class Progress:
    """The progress of a longer command, on stderr; nothing is printed where that is no terminal."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def add(self, what: str, more: int, total: int | None = None) -> None:
        """Count `more` of `what` as done, of `total` where that is known."""
        if self._bar is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(escape_controls(what), total=total)
        self._bar.update(self._tasks[what], advance=more, total=total)


def is_interactive() -> bool:
    """Tell whether progress is printed: stderr is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a progress bar while the block runs."""
    if not is_interactive():
        yield Progress(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=_console(stderr=True), transient=True) as bar:
        yield Progress(bar)


def paragraph(words: str, *, lead: str = "", style: str = "", lead_style: str = "dim") -> None:
    """Print `words` wrapped at the terminal's width; all lines but the first are indented by the length of `lead`."""
    hang = " " * cell_len(lead)
    room = width()
    text = Text(escape_controls(words, breaks=True), style)
    lines = text.wrap(_console(), max(room - len(hang), 20)) if room is not None else [text]
    for i, line in enumerate(lines or [Text()]):
        line.rstrip()
        show(Text.assemble(hang if i else (lead, lead_style), line))


def block(text: str) -> None:
    """Print a longer text, indented."""
    for line in text.split("\n"):
        paragraph(line, lead="  ")


def show_plan(steps: Iterable[str], notes: Iterable[str], *, done: bool) -> None:
    """Print the steps of a verb that writes, and what there is to note."""
    for step in steps:
        paragraph(step, lead="done: " if done else "would: ")
    for note in notes:
        paragraph(note, lead="note:  ", lead_style="yellow")


def dry_run(*, possible: bool = True, where: str = "", action: str = "do it") -> str:
    """Return the last sentence of a verb that was run without `--yes`; `possible`: there is something to do."""
    return f"Nothing was changed{where}." + (f" Add --yes to {action}." if possible else "")
