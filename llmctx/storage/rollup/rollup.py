"""One run of `rollup`: hours that are closed are summed up, and those made anew that were marked."""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError
from llmctx.settings import Settings
from llmctx.storage.catalog import qualify_name
from llmctx.storage.engine import write_connection
from llmctx.storage.figures import sums_of_rows, sums_of_sums
from llmctx.storage.reflection import reflect
from llmctx.storage.rollup.build import DAY, HOUR, day_expr, floor_day, floor_hour, rebuild_hours
from llmctx.storage.rollup.marks import EVER, closed_until, merge_spans
from llmctx.storage.rollup.tables import Totals, has_privilege, totals_of

Progress = Callable[[str, int, int | None], None]
"""Takes how much more is done, of what, of how much in all."""
_LOCK: Final = 0x6C6C6D72 << 32  # "llmr", and the table
_TARGET_S: Final = 1.0  # for one step
_MOST_DAYS: Final = 32
_COMPARED: Final = ("calls", "errors", "with_both", "total_tokens", "cost_usd", "unpriced", "timed", "total_ms")


class RollupRunning(LlmctxError):
    """Another process is making the totals just now. There is nothing to do."""


@dataclass(slots=True)
class Report:
    """The totals that were made."""

    until: datetime | None = None
    """Totals go until there; None where there are no rows yet."""
    hours: int = 0
    """Hours that were closed since the last time."""
    anew: int = 0
    """Hours that were made anew, because rows of them had changed."""
    verified: bool = False
    """All days were compared with the rows."""
    different: list[date] = field(default_factory=list)
    """Days whose totals were not those of the rows, and have been made anew."""


async def rollup(
    settings: Settings,
    *,
    verify: bool = False,
    now: datetime | None = None,
    progress: Progress = lambda what, more, total: None,
) -> Report:
    """Bring the totals up to date, and with `verify` compare every day of them with the rows.

    Raises `RollupRunning` while another process does it. What was done before a break stays done.
    """
    async with write_connection(settings) as connection:
        log = await reflect(connection, settings)
        await connection.rollback()
        async with _alone(settings):
            return await _Run(connection, log, settings, now or datetime.now(UTC), progress).run(verify=verify)


@asynccontextmanager
async def _alone(settings: Settings) -> AsyncIterator[None]:
    """Keep other processes out. SQLite has one writer at a time anyway; each step is a transaction there too."""
    if not settings.is_postgresql:
        yield
        return
    key = _LOCK + zlib.crc32(f"{settings.db_schema}.{settings.table}".encode())
    async with write_connection(settings) as lock:  # its own transaction, which a pooler leaves to one server
        await lock.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        if not await lock.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}):
            raise RollupRunning
        yield
        await lock.rollback()


class _Run:
    """One run: each step is a transaction, which also says how far it has come."""

    def __init__(
        self, connection: AsyncConnection, log: sa.Table, settings: Settings, now: datetime, progress: Progress
    ) -> None:
        self._connection, self._log, self._now, self._progress = connection, log, now, progress
        self._totals = totals_of(log, postgresql=settings.is_postgresql)
        self._report = Report()
        self._stride = 1

    async def run(self, *, verify: bool) -> Report:
        connection, report = self._connection, self._report
        await create(connection, self._log, self._totals)
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SET work_mem = '64MB'"))
        state = await state_of(connection, self._totals)
        await connection.rollback()
        await self._advance(state)
        if report.until is None:
            return report
        await self._make_stale_anew(report.until)
        # writers of rows may not have noticed yet that there are marks now
        if verify or (state is not None and state.verified_at is None):
            await self._verify(report.until)
        return report

    async def _advance(self, state: State | None) -> None:
        """Make the totals of hours that have been closed since."""
        connection, totals, at = self._connection, self._totals, self._log.c.created_at
        if state is None:
            first = await connection.scalar(sa.select(sa.func.min(at, type_=at.type)).where(_in_calendar(at)))
            await connection.rollback()
            if first is None:
                return
            state = State(floor_hour(first), None)
        end = max(state.until, closed_until(self._now))
        self._report.until = state.until
        for first, after in self._steps(state.until, end):
            await rebuild_hours(connection, self._log, totals, first, after, until=after)
            await self._note(until=after)
            self._report.until = after
            self._report.hours += (hours := (after - first) // HOUR)
            self._progress("hours", hours, (end - state.until) // HOUR)
        if state.until == end:
            await self._note(until=end)

    def _steps(self, first: datetime, after: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield the parts of a span: a day, or several where these are made quickly."""
        while first < after:
            began = time.monotonic()
            end = min(floor_day(first) + DAY * self._stride, after)
            yield first, end
            first, took = end, time.monotonic() - began
            self._stride = max(1, self._stride // 2) if took > _TARGET_S else min(_MOST_DAYS, self._stride * 2)

    async def _note(self, **values: Any) -> None:
        """Note how far the totals are, and commit."""
        connection, state = self._connection, self._totals.state
        values["made_at"] = datetime.now(UTC)
        if not (await connection.execute(sa.update(state).values(values))).rowcount:
            await connection.execute(sa.insert(state).values({"until": self._report.until, **values}))
        await connection.commit()

    async def _make_stale_anew(self, until: datetime) -> None:
        """Make hours anew that are marked. A mark goes when its hours are made: what is marked meanwhile stays."""
        connection, marks = self._connection, self._totals.marks
        found = (await connection.execute(sa.select(marks))).all()
        await connection.rollback()
        oldest = await connection.scalar(sa.select(sa.func.min(self._totals.hours.c.at))) or until
        await connection.rollback()
        spans = []
        for mark in found:
            # of a long time what has no totals has none to be made anew
            first = mark.first if mark.after - mark.first <= DAY else max(mark.first, oldest)
            spans.append((floor_hour(first), min(until, floor_hour(mark.after + HOUR - _INSTANT))))
        await self._anew([(first, after) for first, after in spans if first < after], until)
        numbers = [mark.id for mark in found]
        for some in range(0, len(numbers), 1000):
            await connection.execute(sa.delete(marks).where(marks.c.id.in_(numbers[some : some + 1000])))
        await connection.commit()

    async def _anew(self, spans: list[tuple[datetime, datetime]], until: datetime) -> None:
        for first, after in (step for one in merge_spans(spans) for step in self._steps(*one)):
            await rebuild_hours(self._connection, self._log, self._totals, first, after, until=until)
            await self._connection.commit()
            self._report.anew += (hours := (after - first) // HOUR)
            self._progress("hours made anew", hours, None)

    async def _verify(self, until: datetime) -> None:
        """Compare the days until then with the rows, and make those anew that differ."""
        connection, totals, at = self._connection, self._totals, self._log.c.created_at
        rows, sums = sums_of_rows(self._log), sums_of_sums(totals.hours)
        of_rows = await self._days(at, [rows[name] for name in _COMPARED], at < until)
        of_totals = await self._days(totals.hours.c.at, [sums[name] for name in _COMPARED], sa.true())
        days = sa.select(totals.days.c.at, *(sums_of_sums(totals.days)[name] for name in _COMPARED))
        of_days = {
            day: _compared(figures) for day, *figures in await connection.execute(days.group_by(totals.days.c.at))
        }
        await connection.rollback()
        last = floor_day(until)
        different = [
            day
            for day in sorted({*of_rows, *of_totals, *of_days})
            if of_rows.get(day) != of_totals.get(day) or (day < last and of_rows.get(day) != of_days.get(day))
        ]
        await self._anew([(day, min(day + DAY, until)) for day in different], until)
        self._report.verified, self._report.different = True, [day.date() for day in different]
        await self._note(verified_at=datetime.now(UTC))

    async def _days(
        self, at: sa.ColumnElement[Any], figures: list[sa.ColumnElement[Any]], where: sa.ColumnElement[bool]
    ) -> dict[datetime, tuple[str, ...]]:
        day = day_expr(at, self._connection.dialect.name == "postgresql").label("day")
        rows = sa.select(day, *figures).where(where, _in_calendar(at)).group_by(sa.literal_column("day"))
        found = {}
        for when, *sums in await self._connection.execute(rows):
            when = datetime.fromisoformat(when).replace(tzinfo=UTC) if isinstance(when, str) else when
            found[when.astimezone(UTC)] = _compared(sums)
        return found


def _in_calendar(at: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return the condition of rows that have totals: PostgreSQL knows times that Python has not."""
    return sa.and_(at >= EVER[0], at < EVER[1])


def _compared(sums: Iterable[Any]) -> tuple[str, ...]:
    """Return `sums` so that equal ones are equal: SQLite adds floats up, in any order."""
    return tuple(f"{float(figure or 0):.9g}" for figure in sums)


_INSTANT: Final = HOUR / 3_600_000_000


@dataclass(frozen=True, slots=True)
class State:
    """The state of the totals."""

    until: datetime
    verified_at: datetime | None
    made_at: datetime | None = None


async def state_of(connection: AsyncConnection, totals: Totals) -> State | None:
    """Return how far the totals are; None where there are none, or the role may not read them."""
    if not await has_privilege(connection, totals.state, "SELECT"):
        return None
    row = (await connection.execute(sa.select(totals.state).limit(1))).first()
    return None if row is None else State(row.until, row.verified_at, row.made_at)


async def create(connection: AsyncConnection, log: sa.Table, totals: Totals) -> None:
    """Make the tables of totals, where they are missing. Roles that may insert rows may insert marks, too, and roles
    that may read rows may read totals: these say less."""
    if await has_privilege(connection, totals.state, "SELECT"):
        await connection.rollback()
        return
    await connection.run_sync(totals.metadata.create_all)
    if connection.dialect.name == "postgresql":
        log_name = qualify_name(log.name, log.schema)
        marks = qualify_name(totals.marks.name, log.schema)
        read = ", ".join(qualify_name(one.name, log.schema) for one in totals.metadata.sorted_tables)
        for right, tables in (("INSERT", marks), ("SELECT", read)):
            for role in await connection.scalars(text(_ROLES), {"name": log_name, "right": right}):
                await connection.execute(text(f"GRANT {right} ON {tables} TO {role}"))
    await connection.commit()


_ROLES: Final = """
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
WHERE c.oid = pg_catalog.to_regclass(:name) AND a.privilege_type = :right
"""
