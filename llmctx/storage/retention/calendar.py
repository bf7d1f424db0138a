"""The calendar that a table's partitions follow, read off their bounds: months, quarters, weeks or days of some zone.

A team's partitions may begin at its own midnight. What is made between and behind them begins and ends where theirs
would, and where that cannot be told nothing is made: one of ours over the same hours would stand in the way of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from llmctx.storage.partition_ddl import Month

Bounds = tuple[datetime, datetime]

_RECENT: Final = 13  # partitions that are looked at
_MOST_STEPS: Final = 400
_OFFSETS: Final = [timedelta(minutes=minutes) for minutes in range(-12 * 60, 14 * 60 + 1, 15)]


@dataclass(frozen=True, slots=True)
class Calendar:
    """Steps of `months` or of `days`, which begin at midnight in any of `zones`, as far as these agree."""

    zones: tuple[tzinfo, ...]
    anchor: datetime
    """Where a step begins."""
    months: int = 1
    days: int = 0

    def begin(self, moment: datetime) -> datetime | None:
        """Return the beginning of the step in which `moment` lies; None where the zones differ about that."""
        beginnings = set()
        for zone in self.zones:
            day, anchor = moment.astimezone(zone).date(), self.anchor.astimezone(zone).date()
            if self.days:
                count = (day - anchor).days // self.days
                first = anchor + timedelta(days=count * self.days)
            else:
                count = ((day.year - anchor.year) * 12 + day.month - anchor.month) // self.months
                first = _months_after(anchor, count * self.months)
            beginnings.add(_midnight(first, zone))
        return beginnings.pop() if len(beginnings) == 1 else None

    def after(self, beginning: datetime) -> datetime | None:
        """Return where the next step begins; None where the zones differ about that."""
        ends = set()
        for zone in self.zones:
            day = beginning.astimezone(zone).date()
            end = day + timedelta(days=self.days) if self.days else _months_after(day, self.months)
            ends.add(_midnight(end, zone))
        return ends.pop() if len(ends) == 1 else None

    def label(self, beginning: datetime) -> str:
        """Return how a whole step is called in the name of its partition."""
        day = beginning.astimezone(self.zones[0]).date()
        return f"{day:%Y_%m_%d}" if self.days else f"{day:%Y_%m}"


def _months_after(day: date, months: int) -> date:
    years, month = divmod(day.month - 1 + months, 12)
    return date(day.year + years, month + 1, 1)


def _midnight(day: date, zone: tzinfo) -> datetime:
    """Return where a day begins as PostgreSQL has it: a midnight that the clocks pass by is the moment of their change,
    and of one that comes twice it is the second.
    """
    return max(datetime(day.year, day.month, day.day, tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


def infer(bounds: Sequence[Bounds]) -> Calendar | None:
    """Return the calendar of partitions with these bounds, oldest first; UTC's months without any; None if there is
    none that all of them follow.
    """
    if not bounds:
        return Calendar((UTC,), datetime(2000, 1, 1, tzinfo=UTC))
    recent = bounds[-_RECENT:]
    moments = [moment for bound in recent for moment in bound]
    zones = [UTC] if _fits(UTC, moments) else [zone for zone in _zones() if _fits(zone, moments)]
    for lower, _ in reversed(bounds[:-_RECENT]):  # in a whole year zones differ that agree about some days
        if len(zones) > 1:
            zones = [zone for zone in zones if _fits(zone, [lower])] or zones
    first, last = recent[-1]
    in_months = [zone for zone in zones if _ends_months(zone, recent)]
    if in_months:  # of two offsets that differ by a day, the one in which it is a month
        begin, end = first.astimezone(in_months[0]), last.astimezone(in_months[0])
        months = (end.year - begin.year) * 12 + end.month - begin.month if begin.day == 1 else 1
        return Calendar(tuple(in_months), last, months=max(1, months))
    if not zones:
        return None
    days = (last.astimezone(zones[0]).date() - first.astimezone(zones[0]).date()).days
    return Calendar(tuple(zones), last, months=0, days=max(1, days))


def _ends_months(zone: tzinfo, bounds: Sequence[Bounds]) -> bool:
    """Return whether the last step is a month, or the rest of one; not the last day or week of one."""
    first, last = bounds[-1]
    firsts = [first] if first.astimezone(zone).day == 1 else [upper for _, upper in bounds]
    return all(moment.astimezone(zone).day == 1 for moment in (last, *firsts))


def _fits(zone: tzinfo, moments: Sequence[datetime]) -> bool:
    return all(_midnight(moment.astimezone(zone).date(), zone) == moment for moment in moments)


@cache
def _zones() -> tuple[tzinfo, ...]:
    """Return all that there are: fixed offsets, and those of the machine's time zones, which may be none."""
    fixed = [timezone(offset) for offset in _OFFSETS]
    return (*fixed, *(ZoneInfo(name) for name in sorted(available_timezones()) if "/" in name))


def upcoming_steps(calendar: Calendar | None, bounds: Sequence[Bounds], now: datetime, ahead: int) -> Iterator[Month]:
    """Yield the steps from the present one on, as many as `ahead` after it, and on to the last of `bounds`.

    Where no calendar can be told, it is one step: from now on to the last of them.
    """
    last = max((upper for _, upper in bounds), default=now)
    beginning = None if calendar is None else calendar.begin(now)
    if calendar is None or beginning is None:
        if now < last:
            yield Month(now, last)
        return
    for number in range(_MOST_STEPS):
        if number > ahead and beginning >= last:
            return
        end = calendar.after(beginning)
        if end is None:
            if beginning < last:
                yield Month(beginning, last)
            return
        yield Month(beginning, end, calendar.label(beginning))
        beginning = end


def subtract(step: Month, covered: Sequence[tuple[datetime | None, datetime | None]]) -> Iterator[Month]:
    """Yield what of a step lies in none of `covered`; None is for ever."""
    at = step.first
    for lower, upper in sorted(covered, key=lambda bound: bound[0] or datetime.min.replace(tzinfo=UTC)):
        if lower is not None and lower >= step.after_last:
            break
        if upper is not None and upper <= at:
            continue
        if lower is not None and lower > at:
            yield Month(at, lower)
        if upper is None:
            return
        at = max(at, upper)
    if at < step.after_last:
        yield step if at == step.first else Month(at, step.after_last)
