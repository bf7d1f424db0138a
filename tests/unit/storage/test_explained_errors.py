"""Failures of connecting are told apart, and each says what to do about it."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.exc import ProgrammingError

from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError
from llmctx.settings import load
from llmctx.storage.engine import explain, read_connection

URL = "postgresql://app:hunter2@127.0.0.1:1/db"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (asyncpg.TooManyConnectionsError('too many connections for role "app"'), "no connection left: try again later"),
        (asyncpg.DiskFullError("could not extend file"), "more of what it lacks"),
        (ConnectionError('PostgreSQL server at "h:1" rejected SSL upgrade'), "Switch SSL on in the server"),
        (
            asyncpg.exceptions.TargetServerAttributeNotMatched(
                "None of the hosts match the target attribute requirement"
            ),
            "Correct target_session_attrs",
        ),
        (ConnectionRefusedError(111, "Connect call failed"), "Check that it runs"),
    ],
)
def test_a_database_that_cannot_be_used_says_what_to_do(problem: Exception, words: str) -> None:
    """And the exit code is that of a database which is not there."""
    told = explain(problem, load(database_url=URL))
    assert isinstance(told, DatabaseUnavailable)
    assert words in str(told)
    assert "hunter2" not in str(told)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (asyncpg.InsufficientPrivilegeError("permission denied for table t"), "Grant the role app the right"),
        (asyncpg.InsufficientPrivilegeError("permission denied for schema public"), "Grant the role app USAGE there"),
        (asyncpg.InsufficientPrivilegeError("must be owner of table t"), "The role app is not its owner"),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute DROP TABLE in a read-only transaction"), "the primary"),
        (asyncpg.ObjectNotInPrerequisiteStateError("cannot execute LOCK TABLE during recovery"), "the primary server"),
    ],
)
def test_a_right_that_is_lacking_is_named(problem: Exception, words: str) -> None:
    """As it has to be given, or who has it."""
    told = explain(problem, load(database_url=URL))
    assert isinstance(told, LlmctxError)
    assert not isinstance(told, DatabaseUnavailable)
    assert words in str(told)


def test_columns_that_cannot_be_compared_point_to_the_plan() -> None:
    """Of a host's own types."""
    cause = asyncpg.UndefinedFunctionError("operator does not exist: box = text")
    told = explain(ProgrammingError("SELECT", {}, cause), load(database_url=URL))
    assert isinstance(told, LlmctxError)
    assert "`llmctx migrate --plan` says which" in str(told)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PGPORT", "hunter2", "a port that is no number"),
        ("PGTARGETSESSIONATTRS", "banana", "(target_session_attrs, or PGTARGETSESSIONATTRS)"),
        ("PGSSLMODE", "banana", "verify-full"),
    ],
)
async def test_variables_of_libpq_that_are_wrong_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """Without the value, and without an object of Python's."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as told:
        async with read_connection(load(database_url="postgresql://app@/db")):
            pass
    assert words in str(told.value)
    assert "hunter2" not in str(told.value)
    assert " object at " not in str(told.value)


def test_a_question_that_takes_too_long_is_not_a_database_that_is_away() -> None:
    """Nor is one that would change something a server that may only be read."""
    settings = load(database_url=URL)
    assert "Ask for less" in str(explain(TimeoutError(), settings, asking=True))
    assert "no answer within 5 s" in str(explain(TimeoutError(), settings))
    problem = asyncpg.ReadOnlySQLTransactionError("cannot execute SELECT in a read-only transaction")
    refused = explain(ProgrammingError("SELECT", {}, problem), settings, asking=True)
    assert "primary" not in str(refused)
    assert "refused: cannot execute SELECT" in str(refused)
