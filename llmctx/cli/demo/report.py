"""The demo's report: two rows side by side, a table of ways, the ledger, what to try next; or one JSON object."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmctx.cli.demo.compare import Row, Score, patient_of, rows_on
from llmctx.cli.demo.scenarios import BY_KEY, WAYS
from llmctx.cli.demo.stages import RUNS, Outcome

WIDTH: Final = 80
SHOWN: Final = (
    "session_id", "user_id", "thread_id", "identity_source", "provider", "model", "prompt_tokens", "completion_tokens",
    "cached_tokens", "finish_reason", "latency_ms", "status", "created_at",
)  # fmt: skip
"""The columns of a row that fit on the screen: ids first."""


GONE: Final = (
    ("demo --ui", "look at the calls in the browser"),
    ("demo --keep", "keep the database, look around in it"),
    ("migrate", "make the table in your own database"),
    ("doctor --app module:app", "check your application"),
)
KEPT: Final = (
    ("ui", "look at them in the browser"),
    ("calls", "which calls were made?"),
    ("coverage", "how many rows have their ids?"),
    ("stats --by user", "what does each user cost?"),
)
"""What to try next: the verb, and what it is good for."""


def as_json(outcome: Outcome, *, keep: bool) -> str:
    """Return one object: the run with llmctx on top, the same keys for the naive handler under `before`."""
    before, after = outcome.comparisons["before"], outcome.comparisons["after"]
    result: dict[str, Any] = {
        **asdict(after.total),
        "before": asdict(before.total),
        "ledger": dict(outcome.ledger),
        "ways": {
            way.key: {"title": way.title, **asdict(after.ways[way.key]), "before": asdict(before.ways[way.key])}
            for way in WAYS
        },
        "users": outcome.users,
        "database": outcome.database_url.partition("+")[0],
        "database_url": outcome.database_url if keep else None,
        "service": outcome.service,
        "seconds": round(outcome.seconds, 1),
    }
    return json.dumps(result, ensure_ascii=False)


def print_report(outcome: Outcome, *, keep: bool) -> None:
    """Print the report within 80 columns."""
    console = Console(highlight=False)
    console.width = min(WIDTH, console.width)
    _print_rows(console, outcome)
    _print_ways(console, outcome)
    _print_ledger(console, outcome)
    _print_next(console, outcome, keep=keep)


def _print_rows(console: Console, outcome: Outcome) -> None:
    way = BY_KEY["worker_thread"]
    found = {run: {patient_of(row): row for row in rows_on(outcome.rows[run], way)} for run in RUNS}
    patient = max(found["after"], default="")
    before, after = (found[run].get(patient) for run in RUNS)
    console.print(f"\n[bold]The same call, recorded twice[/]: a {way.title}\n")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "a textbook callback handler", "llmctx"):
        table.add_column(heading, no_wrap=True)
    for column in SHOWN:
        table.add_row(column, _cell(before, column), _cell(after, column))
    console.print(table)


def _cell(row: Row | None, column: str) -> Text:
    if row is None:
        return Text("no row", "red") if column == "session_id" else Text("")
    if column not in row:
        return Text("-", "dim")
    value = row[column]
    if value is None:
        return Text("NULL", "bold red" if column in ("session_id", "user_id") else "dim")
    shown = value.isoformat(" ", "milliseconds") if isinstance(value, datetime) else str(value)
    return Text(shown, "bold green" if column in ("session_id", "user_id") else "")


def _print_ways(console: Console, outcome: Outcome) -> None:
    before, after = outcome.comparisons["before"], outcome.comparisons["after"]
    console.print(
        f"\n[bold]{len(WAYS)} ways out of a request[/]: calls that are a row with the right session and user\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_footer=True)
    table.add_column("way", "all of them", no_wrap=True)
    table.add_column("calls", str(after.total.calls), justify="right", no_wrap=True)
    table.add_column("textbook handler", _share(before.total), no_wrap=True)
    table.add_column("llmctx", _share(after.total), no_wrap=True)
    for way in WAYS:
        one, other = before.ways[way.key], after.ways[way.key]
        table.add_row(way.title, str(other.calls), _share(one), _share(other))
    console.print(table)


def _share(score: Score) -> Text:
    """Return the share, and the most frequent fault of the rest."""
    if not score.calls and not score.rows:
        return Text("-", "dim")  # a real service may choose another way
    if score.clean:
        return Text("100 %", "green")
    worst = max(("wrong", "unattributed", "lost", "duplicates"), key=lambda name: int(getattr(score, name)))
    word = {"wrong": "wrong user", "unattributed": "NULL", "lost": "no row", "duplicates": "double"}[worst]
    percent = min(99, int(score.share * 100))  # one wrong row in a thousand is not 100 %
    return Text.assemble((f"{percent:3} %", "red"), "  ", (word, "bold red" if worst == "wrong" else "red"))


def _print_ledger(console: Console, outcome: Outcome) -> None:
    total, ledger = outcome.comparisons["after"].total, outcome.ledger
    parts = " + ".join(f"{ledger[name]} {name}" for name in ("written", "waiting", "quarantined", "dropped"))
    console.print(f"\n[bold]The ledger[/]: {ledger['started']} started = {parts}")
    console.print(
        f"The provider saw {total.calls} calls: {total.right} right, {total.wrong} wrong, "
        f"{total.unattributed} without ids, {total.duplicates} double, {total.lost} lost."
    )
    if total.unsent:
        console.print(f"{total.unsent} more failed before they reached it; they have their rows as well.")
    if not total.clean:
        console.print("[bold red]That is not what llmctx promises. Please report it, with the output of --json.[/]")
    failed = [row for row in outcome.rows["after"] if row["status"] == "error"]
    if 2 * len(failed) > total.rows:
        console.print(f"[red]Most calls failed: {failed[0]['error_message']}[/]", markup=True, soft_wrap=False)
        console.print("Check OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL.")
    kind = "PostgreSQL" if outcome.problem is None else "SQLite"
    console.print(f"[dim]{outcome.users} at once, {kind}, {outcome.service}, {outcome.seconds:.0f} s[/]")


def _print_next(console: Console, outcome: Outcome, *, keep: bool) -> None:
    command = command_line()
    console.print("\n[bold]Try next[/]")
    if keep:
        console.print(f'  export LLMCTX_DATABASE_URL="{outcome.database_url}"', soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for verb, answers in KEPT if keep else GONE:
        table.add_row(f"  {command} {verb}", Text(answers, "dim"))
    console.print(table)
    if keep:
        stop = f"kill -INT {outcome.process_id}; sleep 1; " if outcome.process_id else ""
        console.print(f"\nIt is kept until you say: {stop}rm -r {outcome.directory}", soft_wrap=True)


def command_line() -> str:
    """Return how this user can call llmctx: by name if the shell finds it, else as it was called just now."""
    started = Path(sys.argv[0])
    if shutil.which("llmctx"):
        return "llmctx"
    if started.name == "llmctx":
        return str(started)
    return f"{Path(sys.executable).name} -m llmctx"
