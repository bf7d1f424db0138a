"""Times that PostgreSQL has and Python has not: the year 294276, 44 BC, infinity.

The driver raises an OverflowError for the first two, and one such row would take the whole answer along; infinity it
cannot tell from the last moment of 9999. Here they are the last moment that Python knows, or the first, and keep what
they really are for the way back to the database.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Final

_ZERO: Final = datetime(2000, 1, 1)  # PostgreSQL's
_DAY_ZERO: Final = date(2000, 1, 1).toordinal()
_MICROSECOND: Final = timedelta(microseconds=1)


class OutOfRangeDatetime(datetime):
    """A moment outside of Python's calendar, which looks like the end of it."""

    microseconds: int
    """Since 2000, as PostgreSQL counts."""

    @classmethod
    def from_microseconds(cls, microseconds: int, zone: tzinfo | None) -> OutOfRangeDatetime:
        end = datetime.max if microseconds > 0 else datetime.min
        made = cls.combine(end.date(), end.time(), zone)
        made.microseconds = microseconds
        return made

    def astimezone(self, tz: tzinfo | None = None) -> OutOfRangeDatetime:
        return OutOfRangeDatetime.from_microseconds(self.microseconds, tz)

    def replace(self, **how: Any) -> OutOfRangeDatetime:  # type: ignore[override]  # nothing else of it can be replaced
        return OutOfRangeDatetime.from_microseconds(self.microseconds, how.get("tzinfo", self.tzinfo))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Let copies keep what it really is; a datetime would copy its date and time alone."""
        return OutOfRangeDatetime.from_microseconds, (self.microseconds, self.tzinfo)


def _times(zone: tzinfo | None) -> Callable[[tuple[int]], datetime]:
    zero = _ZERO.replace(tzinfo=zone)

    def time(raw: tuple[int]) -> datetime:
        try:
            return zero + timedelta(microseconds=raw[0])
        except OverflowError:
            return OutOfRangeDatetime.from_microseconds(raw[0], zone)

    return time


def _microseconds(value: datetime) -> tuple[int]:
    if isinstance(value, OutOfRangeDatetime):
        return (value.microseconds,)
    return ((value.replace(tzinfo=None) - _ZERO) // _MICROSECOND,)


def _moment(value: Any) -> tuple[int]:
    if not isinstance(value, datetime):
        raise TypeError("expected a datetime")
    return _microseconds(value.astimezone(UTC))


def _naive(value: Any) -> tuple[int]:
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise TypeError("expected a datetime without a time zone")
    return _microseconds(value)


def _day(raw: tuple[int]) -> date:
    """Return the day; for one that Python has not, the end of its calendar: nothing is looked for by it."""
    try:
        return date.fromordinal(raw[0] + _DAY_ZERO)
    except (OverflowError, ValueError):
        return date.max if raw[0] > 0 else date.min


def _days(value: Any) -> tuple[int]:
    if not isinstance(value, date):
        raise TypeError("expected a date")
    return (value.toordinal() - _DAY_ZERO,)


async def register_codecs(driver: Any) -> None:
    """Have a connection of asyncpg's understand every time there is."""
    how = {"schema": "pg_catalog", "format": "tuple"}
    await driver.set_type_codec("timestamptz", encoder=_moment, decoder=_times(UTC), **how)
    await driver.set_type_codec("timestamp", encoder=_naive, decoder=_times(None), **how)
    await driver.set_type_codec("date", encoder=_days, decoder=_day, **how)
