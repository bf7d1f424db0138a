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
        (Refused("3D000"), "config"),
        (Refused("08P01", "transaction blocks not allowed in statement pooling mode"), "config"),
        (Refused("22001"), "poison"), (Refused("P0001"), "poison"),
        (MigrationsPending(), "config"), (ConnectionRefusedError(), "reconnect"), (TimeoutError(), "reconnect"),
        (ValueError(), "poison"), (sqlite3.OperationalError("no such table: t"), "config"),
        (sqlite3.OperationalError("database is locked"), "transient"),
        (UnicodeError("encoding with 'idna' codec failed (UnicodeError: label too long)"), "reconnect"),
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


@pytest.mark.parametrize(
    ("code", "remedy"),
    [("28P01", "password"), ("3D000", "create the database"), ("42501", "GRANT INSERT"), ("42P01", "llmctx migrate")],
)
def test_a_database_that_is_not_set_up_has_its_own_remedy(code: str, remedy: str) -> None:
    """Not `llmctx migrate` for a wrong password. Other failures have none."""
    assert remedy in classify(Refused(code)).remedy
    assert classify(Refused("53300")).remedy == ""


OTHERS = [
    ("08P01", "server login has been failing, try again later (server_login_retry)"),  # pgbouncer
    ("08P01", "no more connections allowed (max_client_conn)"),
    ("XX000", "Tenant or user not found"),  # Supabase
    ("XX000", "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size"),
    ("XX000", "{:error, :econnrefused}"),
    ("XX000", "Couldn't connect to compute node"),  # Neon
    ("XX000", "Timed out: Write RPC timed out after deadline expired"),  # Yugabyte
    ("XXUUU", "rpc error: node unavailable"),  # CockroachDB
    ("58C00", "lost quorum"),
    ("40001", "restart transaction: TransactionRetryWithProtoRefreshError"),
    ("OC000", "change conflicts with another transaction"),  # Aurora DSQL
    ("57P05", "terminating connection due to idle-session timeout"),
    ("25006", "cannot execute INSERT in a read-only transaction"),
    ("25006", "writing to worker nodes is not currently allowed"),  # Citus
    ("XX000", "failure on connection marked as essential: localhost:9701"),  # Citus, of a worker that starts up
    ("XX000", "could not connect to any active placements"),
    ("57P03", "the database system is starting up"),
    ("58000", "could not get connection from the pool - AllServersDown"),  # pgcat
    ("34000", "portal does not exist"),
    ("HV00N", "could not connect to server"),  # postgres_fdw
    ("R0001", "RDS Proxy: timed-out waiting to acquire database connection"),
    ("F0001", "lock file exists"),
    ("E0000", "db_termination"),  # Supavisor
    ("HY000", "backend gone"),
]


@pytest.mark.parametrize(("code", "words"), OTHERS)
def test_what_poolers_and_distributed_servers_say_of_themselves_is_an_outage(code: str, words: str) -> None:
    """Under whatever code; and their words are for the log, which those of a row are not."""
    failure = classify(Refused(code, words))
    assert failure.is_outage
    assert failure.text == words


class OfServer(Refused):
    """An error as asyncpg tells it, with the function and the file that raised it."""

    server_source_function = "raised_it"

    def __init__(self, file: str, text: str, state: str = "XX000") -> None:
        super().__init__(state, text)
        self.server_source_filename = file


def test_an_internal_error_about_other_nodes_is_an_outage() -> None:
    """In whatever words: the coordinator's files say it; an internal error of any other file may follow the row."""
    assert classify(OfServer("remote_transaction.c", "Verbindung fehlgeschlagen")).is_outage
    assert classify(OfServer("multi_copy.c", "could not connect to any active placements")).is_outage
    assert classify(OfServer("../../src/backend/utils/misc/pg_yb_utils.c", "Tablet b1 is not RUNNING")).is_outage
    assert classify(OfServer("cdbgang_async.c", "gang was lost due to cluster reconfiguration")).is_outage
    assert classify(OfServer("store.go", "lost quorum", "XXUUU")).is_outage
    assert classify(OfServer("store.go", "value too long", "22001")).kind == "poison"
    assert classify(OfServer("pl_exec.c", "cache lookup failed")).kind == "poison"


def test_a_row_that_quotes_a_server_is_a_row() -> None:
    """Words count only where the code does not say what it is."""
    assert classify(Refused("22P02", 'invalid input syntax: "connection refused"')).kind == "poison"
    assert classify(Refused("P0001", "not this one: connection refused")).kind == "poison"
    assert classify(OfServer("pl_exec.c", "no such tenant", "MY001")).kind == "poison"
    assert classify(UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "a server in German")).kind == "reconnect"
    assert classify(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "a row")).kind == "poison"


def test_the_code_is_found_wherever_the_driver_left_it() -> None:
    """On the error, on what it wraps, or on its cause."""
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = Refused("23505")
    assert sqlstate(wrapped) == "23505"
    assert sqlstate(OperationalError("INSERT", {}, Refused("23505"))) == "23505"
    assert sqlstate(ValueError()) == ""


def test_the_reason_is_shown_not_that_a_transaction_cannot_be_ended() -> None:
    """asyncpg raises that in place of what the server has said."""

    class InterfaceError(Exception): ...

    late = InterfaceError("cannot call Transaction.__aexit__(): the underlying connection is closed")
    late.__context__ = Refused("57P01", "terminating connection due to administrator command")
    assert classify(late).text == "terminating connection due to administrator command"
    assert classify(late).kind == "reconnect"


def test_a_row_without_a_partition_is_told_from_a_check_that_fails() -> None:
    """Both are 23514."""
    assert classify(Refused("23514", 'no partition of relation "t" found for row')).is_deferrable
    assert not classify(Refused("23514", 'violates check constraint "c"')).is_deferrable
