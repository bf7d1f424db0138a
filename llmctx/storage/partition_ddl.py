"""Months, the names of their partitions, and how a partition is attached beside writers.

ATTACH PARTITION reads a whole table under a lock unless a constraint proves what is in it. So rows that are to leave a
table are led away as they are inserted, those that are there are moved, and a CHECK is proved beside the writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_TRIGGER: Final = "llmctx_ahead"


@dataclass(frozen=True, slots=True)
class Month:
    """A month, or the rest of one; or what a team cuts its table into instead."""

    first: datetime
    after_last: datetime
    label: str = ""
    """Of a whole one, as it stands in its partition's name."""

    @classmethod
    def after(cls, moment: datetime, months: int) -> Month:
        """Return the month that comes so many months after that of `moment`."""
        first = _first_of(moment, months)
        return cls(first, _first_of(moment, months + 1), f"{first:%Y_%m}")

    def partition(self, table: str) -> str:
        """Return the name of its partition, without its schema."""
        clock = "" if self.first.time() == datetime.min.time() else f"_{self.first:%H%M}"
        return f"{table}_p{self.label or f'{self.first:%Y_%m_%d}{clock}'}"

    def __str__(self) -> str:
        if self == Month.after(self.first, 0):
            return f"{self.first:%Y-%m}"
        return f"{self.first:%Y-%m-%d %H:%M} to {self.after_last:%Y-%m-%d %H:%M} UTC"

    def bounds(self, *, naive: bool = False) -> tuple[str, str]:
        """Return both ends as they stand in a statement; `naive` where the column has no time zone."""
        return day_literal(self.first, naive=naive), day_literal(self.after_last, naive=naive)


def _first_of(moment: datetime, months: int) -> datetime:
    years, month = divmod(moment.month - 1 + months, 12)
    return datetime(moment.year + years, month + 1, 1, tzinfo=UTC)


def day_literal(day: datetime, *, naive: bool) -> str:
    """Return the beginning of a day, or another moment, as it stands in a statement."""
    return f"'{day.replace(tzinfo=None).isoformat(' ')}{'' if naive else '+00'}'"


def partition_name(table: str, month: datetime) -> str:
    """Return the name of a month's partition, without its schema."""
    return f"{table}_p{month:%Y_%m}"


def move_rows(source: str, target: str, columns: Sequence[str], condition: str) -> str:
    """Return the statement that moves the rows of `condition` from one table to another."""
    listed = ", ".join(columns)
    moved = f"WITH moved AS (DELETE FROM {source} WHERE {condition} RETURNING {listed})"  # noqa: S608  quoted
    return f"{moved} INSERT INTO {target} ({listed}) SELECT {listed} FROM moved"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversion:
    """Rows of `source` that belong into `target` from some time on, as statements. All names are ready for them."""

    source: str
    target: str
    columns: Sequence[str]
    """By which a row is copied."""
    moving_condition: str
    """The condition of a row that leaves; `{row}` stands before its columns."""
    staying_condition: str
    """The condition of all that is left, which the partition's own bounds must follow from."""
    check: str
    """The name of the constraint that proves it."""
    function: str
    as_owner: bool = False
    """A role that inserts into `source` may have no right to `target`."""

    def lead(self) -> list[str]:
        """Lead rows away as they are inserted."""
        names, values = ", ".join(self.columns), ", ".join(f"NEW.{name}" for name in self.columns)
        insert = f"INSERT INTO {self.target} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608
        owner = "SECURITY DEFINER SET search_path FROM CURRENT " if self.as_owner else ""
        when = f"BEFORE INSERT ON {self.source} FOR EACH ROW WHEN ({self.moving_condition.format(row='NEW.')})"
        function = f"FUNCTION {self.function}() RETURNS trigger LANGUAGE plpgsql {owner}"
        return [
            f"CREATE OR REPLACE {function}AS $llmctx$ BEGIN {insert}; RETURN NULL; END $llmctx$",
            f"DROP TRIGGER IF EXISTS {_TRIGGER} ON {self.source}",
            f"CREATE TRIGGER {_TRIGGER} {when} EXECUTE FUNCTION {self.function}()",
        ]

    def move(self) -> str:
        """Move those that are there."""
        return move_rows(self.source, self.target, self.columns, self.moving_condition.format(row=""))

    def constrain(self) -> str:
        """Allow no more of them."""
        return f"ALTER TABLE {self.source} ADD CONSTRAINT {self.check} CHECK ({self.staying_condition}) NOT VALID"

    def validate(self) -> str:
        """See that none is left, beside readers and writers."""
        return f"ALTER TABLE {self.source} VALIDATE CONSTRAINT {self.check}"

    def end(self) -> list[str]:
        """Lead no more rows away: the partition is attached in the same transaction."""
        return [
            f"LOCK TABLE {self.source} IN ACCESS EXCLUSIVE MODE",
            f"DROP TRIGGER {_TRIGGER} ON {self.source}",
            f"DROP FUNCTION {self.function}()",
        ]
