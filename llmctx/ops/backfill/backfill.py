"""One run of `backfill`, a thousand rows at a time, and of `undo`, which takes it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Mapping as Dict
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import ConfigError, LlmctxError
from llmctx.core.record import LINKS
from llmctx.ops.backfill.bulk_update import Change, fill, take_back
from llmctx.ops.backfill.facts import FactCollection, checkpoints_of
from llmctx.ops.backfill.mapping import QUERY, Mapping, from_csv, from_sqlite, plain_id
from llmctx.ops.backfill.rules import CHECKPOINT, MAPPING, RULES, Filling, Gap, decide
from llmctx.ops.backfill.undo import COLUMNS, UndoFile, default_path, lines
from llmctx.settings import Settings
from llmctx.storage.convert import Lossy
from llmctx.storage.engine import read_connection, sqlite_file, write_connection
from llmctx.storage.filters import lacks_an_id
from llmctx.storage.host_types import as_text
from llmctx.storage.paging import iter_batches
from llmctx.storage.reflection import (
    column_expr,
    count_rows,
    held_in,
    id_values,
    is_missing,
    key_of,
    key_values,
    lasting_key,
    physical_position,
    reflect,
    word_values,
)
from llmctx.storage.rollup.marks import EVER, hours_of, mark, mark_spans

_AT_ONCE: Final = 1000
_AT_ONCE_UNKEYED: Final = 20_000  # each time, all rows are looked through
_SAMPLES: Final = 3
_UNFIT: Final = "the column has no room for it"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that was, or would be, filled."""

    call_id: str
    created_at: Any
    user_id: str | None
    session_id: str | None


@dataclass(slots=True)
class Report:
    """The outcome for the rows with a gap."""

    done: bool
    rows: int = 0
    filled: Counter[str] = field(default_factory=Counter)
    """By rule."""
    users: int = 0
    sessions: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    undo_file: str | None = None
    notes: list[str] = field(default_factory=list)


async def backfill(
    settings: Settings,
    *,
    do: bool = False,
    rules: Collection[str] = RULES,
    csv: Path | None = None,
    query: str | None = None,
    undo_file: Path | None = None,
    progress: Callable[[int, int], None] = lambda more, total: None,
) -> Report:
    """Fill what is certain, or say what would be filled.

    Args:
        rules: which of `RULES` may be used.
        csv: the team's mapping, as a file; `query`: as a query against the same database.
        undo_file: where the way back is noted; by default a new file in the working directory.

    Raises `ConfigError` for a mapping that makes no sense; nothing is changed then.
    """
    mapping = await _mapping(settings, csv, query)
    report = Report(do)
    async with write_connection(settings) as connection, AsyncExitStack() as stack:
        log = await reflect(connection, settings)
        for name in ("user_id", "session_id"):
            if name not in log.c:
                raise LlmctxError(f"Table {log.name} has no column {name}. Run `llmctx migrate` first.")
        if not word_values(log, "identity_source", None):
            is_there = "identity_source" in log.c
            why = "has an identity_source column of its own" if is_there else "has no column identity_source"
            report.notes.append(f"{log.name} {why}: rows will not say by which rule they were filled.")
        checkpoints = await checkpoints_of(connection, settings.db_schema)
        facts = FactCollection(connection, log)
        stack.callback(facts.close)
        await facts.collect(mapping, checkpoints)
        if mapping is not None and mapping.blank:
            report.notes.append(f"{mapping.blank} lines of the mapping are empty, and were skipped.")
        report.rows = await count_rows(connection, log, lacks_an_id(log))
        with UndoFile(undo_file or default_path(), log) as back:
            run = _Run(connection, log, facts, rules, report, back)
            async with aclosing(iter_batches(connection, settings, log, run.wanted())) as steps:
                async for rows in steps:
                    await run.step(rows)
                    progress(len(rows), report.rows)
            if do and report.filled:
                report.undo_file = str(back.path)
    return report


async def _mapping(settings: Settings, csv: Path | None, query: str | None) -> Mapping | None:
    if csv is not None and query is not None:
        raise ConfigError("Give --map or --map-query, not both.")
    if csv is not None:
        return from_csv(csv)
    if query is None:
        return None
    if (file := sqlite_file(settings)) is not None:
        return from_sqlite(file, query)
    async with read_connection(settings) as connection:
        found = await connection.exec_driver_sql(query)
        if not found.returns_rows:
            raise ConfigError("--map-query returns no rows: write a query. Nothing was changed.")
        return Mapping(list(found.keys()), [tuple(row) for row in found], QUERY)


class _Run:
    """One run over the rows with a gap, step by step."""

    def __init__(
        self,
        connection: AsyncConnection,
        log: Table,
        facts: FactCollection,
        rules: Collection[str],
        report: Report,
        back: UndoFile,
    ) -> None:
        self._connection, self._log, self._facts = connection, log, facts
        self._rules, self._report, self._back = rules, report, back
        self._links: dict[str, str] = {}

    def wanted(self) -> Select[Any]:
        """Return the rows with a gap. Raises `ConfigError` where the mapping does not fit the table."""
        log = self._log
        links = {name: as_text(column_expr(log, name)).label(f"in_{name}") for name in LINKS if name in log.c}
        mapped_by = self._facts.mapped_by
        if mapped_by is not None:
            if mapped_by not in log.c:
                raise ConfigError(f"The mapping finds rows by {mapped_by}, and {log.name} has no such column.")
            links[f"{MAPPING}:{mapped_by}"] = as_text(column_expr(log, mapped_by)).label("in_mapping")
        self._links = {kind: column.name for kind, column in links.items()}
        columns = [
            *key_of(log),
            *links.values(),
            as_text(column_expr(log, "user_id")).label("the_user"),
            as_text(column_expr(log, "session_id")).label("the_session"),
            is_missing(log, "user_id").label("no_user"),
            is_missing(log, "session_id").label("no_session"),
            column_expr(log, "identity_source").label("the_source"),
            column_expr(log, "identity_reason").label("the_reason"),
            log.c.call_id.label("the_call"),
            log.c.created_at.label("at"),
        ]
        return select(*dict.fromkeys(columns)).where(lacks_an_id(log))

    async def step(self, rows: Sequence[dict[str, Any]]) -> None:
        """Decide on each of `rows`, and if that is wanted fill them: a transaction."""
        gaps = [self._gap(row) for row in rows]
        facts = self._facts.facts_for({(kind, value) for gap in gaps for kind, value in gap.belongs.items()})
        changes, times = [], []
        for row, gap in zip(rows, gaps, strict=True):
            filling = decide(gap, facts, self._rules)
            change = self._change(row, filling)
            if change is None:
                self._report.refused[filling.refusal or _UNFIT] += 1
            else:
                self._count(row, filling, change[1])
                changes.append(change)
                times.append(row["at"])
        if not changes or not self._report.done:
            await self._connection.rollback()
            return
        self._back.note(changes)
        await fill(self._connection, self._log, changes)
        await mark(self._connection, self._log, times)
        await self._connection.commit()

    def _gap(self, row: Dict[str, Any]) -> Gap:
        belongs = {}
        for kind, name in self._links.items():
            value = row[name]
            if value is not None and value.strip():
                belongs[kind] = plain_id(value) if kind in _UUIDS else value
        thread = row.get("in_thread_id")
        if thread and thread.strip():
            belongs[CHECKPOINT] = thread
        return Gap(_named(row["the_user"]), _named(row["the_session"]), row["the_reason"], belongs)

    def _change(self, row: Dict[str, Any], filling: Filling) -> Change | None:
        """Return the key, the new values and the old ones; None where there is nothing to fill, or no room for it."""
        log = self._log
        new: dict[str, Any] = {}
        try:
            if filling.user is not None and row["no_user"]:
                new |= id_values(log, "user_id", filling.user)
            if filling.session is not None and row["no_session"]:
                new |= id_values(log, "session_id", filling.session)
        except Lossy:
            return None
        if not new:
            return None
        complete = all(not row[has_none] or self._is_in(new, name) for name, has_none in _GAPS.items())
        new |= word_values(log, "identity_source", filling.source)
        if complete:
            new |= word_values(log, "identity_reason", None)
        was = {"identity_source": row["the_source"], "identity_reason": row["the_reason"]}
        return key_values(log, row), new, {name: was.get(name) for name in new}

    def _is_in(self, names: Collection[str], name: str) -> bool:
        """Return whether one of `names` is a column for that id."""
        return any(column.name in names for column in held_in(self._log, name))

    def _count(self, row: Dict[str, Any], filling: Filling, new: Dict[str, Any]) -> None:
        report = self._report
        name = "+".join(filling.rules)
        report.filled[name] += 1
        report.users += self._is_in(new, "user_id")
        report.sessions += self._is_in(new, "session_id")
        samples = report.samples.setdefault(name, [])
        if len(samples) < _SAMPLES:
            samples.append(Sample(str(row["the_call"]), row["at"], filling.user, filling.session))


_UUIDS: Final = (f"{MAPPING}:call_id", f"{MAPPING}:run_id")
_GAPS: Final = {"user_id": "no_user", "session_id": "no_session"}


def _named(name: str | None) -> str | None:
    return name if name and name.strip() else None


async def undo(settings: Settings, path: Path, *, do: bool = False) -> int:
    """Take back what `path` notes, where rows are still as they were left. Returns how many rows that concerns."""
    found = 0
    async with write_connection(settings) as connection:
        log = await reflect(connection, settings)
        batch: list[Change] = []
        at_once = _AT_ONCE_UNKEYED if physical_position(log) else _AT_ONCE
        for line in lines(path, log):
            batch.append(line)
            if len(batch) >= at_once:
                found += await _take_back(connection, log, batch, do=do)
                batch = []
        found += await _take_back(connection, log, batch, do=do)
    return found


def _hours(log: Table, batch: Sequence[Change]) -> Iterable[tuple[datetime, datetime]]:
    """Return the hours of the rows of `batch`: all there are, where their keys hold no time."""
    place = next((n for n, column in enumerate(lasting_key(log)) if column.name == "created_at"), None)
    if place is None:
        return [EVER]
    times = [key[f"key_{place}"] for key, _, _ in batch if key[f"key_{place}"] is not None]
    return hours_of(times)


async def _take_back(connection: AsyncConnection, log: Table, batch: Sequence[Change], *, do: bool) -> int:
    for _, new, old in batch:
        if not set(new) | set(old) <= set(COLUMNS) & set(log.c.keys()):
            raise ConfigError("The undo file names columns that the table does not have. Nothing more was changed.")
    found = await take_back(connection, log, batch, do=do)
    if do and found:
        await mark_spans(connection, log, _hours(log, batch))
    await connection.commit()
    return found
