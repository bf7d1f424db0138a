"""What a failure of the database means for the rows that wait."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from llmctx.core.errors import MigrationsPending
from llmctx.storage.db_errors import classify, sqlstate


class Refused(Exception):
    def __init__(self, state: str, text: str = "no") -> None:
        super().__init__(text)
        self.sqlstate = state


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (Refused("08006"), "reconnect"), (Refused("57P01"), "reconnect"), (Refused("25006"), "reconnect"),
        (Refused("42P05"), "reconnect"), (Refused("53300"), "transient"), (Refused("40P01"), "transient"),
        (Refused("57014"), "transient"), (Refused("42703"), "config"), (Refused("28P01"), "config"),
        (Refused("3D000"), "config"), (Refused("22001"), "poison"), (Refused("P0001"), "poison"),
        (MigrationsPending(), "config"), (ConnectionRefusedError(), "reconnect"), (TimeoutError(), "reconnect"),
        (ValueError(), "poison"), (sqlite3.OperationalError("no such table: t"), "config"),
        (sqlite3.OperationalError("database is locked"), "transient"),
        (sqlite3.IntegrityError("NOT NULL constraint failed"), "poison"), (Exception("whatever"), "reconnect"),
    ],
    ids=repr,
)  # fmt: skip
def test_each_failure_has_its_kind(problem: Exception, kind: str) -> None:
    """By SQLSTATE, or without one by what SQLite, sockets and drivers raise; wrapped by SQLAlchemy or not."""
    assert classify(problem).kind == kind
    if not isinstance(problem, MigrationsPending):
        assert classify(OperationalError("INSERT", {}, problem)).kind == kind
    assert classify(problem).is_outage == (kind in ("reconnect", "transient"))


def test_the_code_is_found_wherever_the_driver_left_it() -> None:
    """On the error, on what it wraps, or on its cause."""
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = Refused("23505")
    assert sqlstate(wrapped) == "23505"
    assert sqlstate(OperationalError("INSERT", {}, Refused("23505"))) == "23505"
    assert sqlstate(ValueError()) == ""


def test_a_row_without_a_partition_is_told_from_a_check_that_fails() -> None:
    """Both are 23514."""
    assert classify(Refused("23514", 'no partition of relation "t" found for row')).no_partition
    assert not classify(Refused("23514", 'violates check constraint "c"')).no_partition
