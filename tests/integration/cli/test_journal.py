"""`llmctx journal`: what waits on disk, and what writes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmctx.calllog import CallLog
from llmctx.cli import run
from llmctx.core.endpoint import Endpoint
from llmctx.core.record import DEFAULT_TABLE
from llmctx.core.urls import shown_url
from llmctx.delivery.journal import Journal
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import execute
from tests.kit.brokers import Brokers
from tests.kit.lives import KILLED, kill, start
from tests.kit.rows import record, rows_of
from tests.kit.support import wait_until


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(arguments)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LLMCTX_DATABASE_URL", database)
    return database


def test_nothing_waits(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, also where there is no directory yet."""
    assert run(["journal"]) == 0
    assert "Nothing waits" in capsys.readouterr().err
    assert run(["journal", "replay"]) == 0


def test_what_was_left_is_shown_and_replayed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By process: alive or not, rows, open calls, bytes; by reason: what was refused. `--yes` writes all of it."""
    directory = load().journal_directories[0]
    kill(start(KILLED.replace("call_log.flush(0.3) and ", ""), url))
    living = Journal(directory)
    refused = record(prompt_snapshot='"once refused"')
    assert living.dead_letters.append(refused, "22P02", "it was no uuid")
    code, (one,) = told(capsys, "journal", "--json")
    assert code == 1
    assert sorted(home["alive"] for home in one["processes"]) == [False, True]
    dead = next(home for home in one["processes"] if not home["alive"])
    assert dead["open"] >= 2
    assert dead["oldest"]
    assert [(row["sqlstate"], row["reason"]) for row in one["quarantined"]] == [("22P02", "it was no uuid")]
    assert run(["journal"]) == 1
    out = capsys.readouterr().out
    assert "ended" in out
    assert "1 refused [22P02]: it was no uuid" in out
    before = len(rows_of(url))
    code, plan = told(capsys, "journal", "replay", "--json")
    assert (code, plan["done"], plan["refused"]) == (0, False, 1)
    assert len(rows_of(url)) == before
    code, done = told(capsys, "journal", "replay", "--yes", "--json")
    assert (code, done["stored"], done["refused_again"]) == (0, 1, 0)
    assert done["adopted"] == plan["of_the_dead"] >= 2
    rows = rows_of(url)
    assert len(rows) == len({row.call_id for row in rows}) == 23
    living.close()
    assert run(["journal"]) == 0


def test_what_is_refused_again_stays(
    empty_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the command says so."""
    monkeypatch.setenv("LLMCTX_DATABASE_URL", empty_database)
    migrate.upgrade(load())
    execute(empty_database, f"ALTER TABLE {DEFAULT_TABLE} ADD CONSTRAINT good CHECK (model <> 'bad')")
    living = Journal(load().journal_directories[0])
    for model in ("good", "bad"):
        assert living.dead_letters.append(record(model=model), "23514", "violates a check")
    living.close()
    code, done = told(capsys, "journal", "replay", "--yes", "--json")
    assert (code, done["stored"], done["refused_again"]) == (1, 1, 1)
    code, (one,) = told(capsys, "journal", "--json")
    assert (code, len(one["quarantined"])) == (1, 1)
    execute(empty_database, f"ALTER TABLE {DEFAULT_TABLE} DROP CONSTRAINT good")
    assert run(["journal", "replay", "--yes"]) == 0
    assert run(["journal"]) == 0
    assert len(rows_of(empty_database)) == 2


def test_rows_of_another_database_of_the_same_name(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They stay, and are called what they are; nothing is said to be in this database that is not."""
    was_there = Journal(
        load().journal_directories[0], endpoint=Endpoint(shown_url(url), frozenset({"another cluster/1 t"}))
    )
    assert was_there.dead_letters.append(record(), "22P02", "it was no uuid")
    was_there.close()
    assert run(["journal"]) == 0
    told = capsys.readouterr()
    assert "Nothing waits for this database except" in told.err
    assert "1 refused by another database that was at" in told.out.replace("\n", " ")
    assert run(["journal", "replay", "--yes"]) == 0
    assert "1 row of other databases kept" in capsys.readouterr().err
    assert rows_of(url) == []


def test_a_database_that_is_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking needs none."""
    monkeypatch.setenv("LLMCTX_DATABASE_URL", "postgresql://u@127.0.0.1:1/d")
    assert run(["journal"]) == 0


def test_what_ended_processes_have_published(
    url: str, broker: Brokers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits in their journals until the database is known to have it: replayed, it is there once, shipped or not."""
    monkeypatch.setenv("LLMCTX_TRANSPORT", f"{broker.url}?streams=2&prefix=ended")
    assert run(["migrate", "--transport", "--yes"]) == 0
    for _ in range(2):
        with CallLog(shutdown_timeout_s=5) as call_log:
            for number in range(5):
                with call_log.record(model="m", prompt=f"call {number}"):
                    pass
            call_log.flush(60)
    assert rows_of(url) == []
    assert run(["journal"]) == 1
    out = capsys.readouterr()
    assert "10 calls of ended processes" in out.err
    assert broker.url in out.out
    with CallLog(shutdown_timeout_s=5):  # holds what it has published, until the database is known to have it

        def states() -> list[tuple[bool, bool]]:
            (one, _) = told(capsys, "journal", "--json")[1]
            return sorted((process["alive"], process["recovering"]) for process in one["processes"])

        wait_until(lambda: states() == [(False, True), (False, True), (True, False)], "it to recover the others")
        assert run(["journal"]) == 0
        out = capsys.readouterr()
        assert out.out.count("ended, being recovered") == 2
        assert out.out.count("running") == 1
        assert "running processes hold" in out.err
    code, done = told(capsys, "journal", "replay", "--yes", "--json")
    assert (code, done["adopted"], done["refused_again"]) == (0, 10, 0)
    assert len(rows_of(url)) == 10
    assert run(["ship", "--once"]) == 0
    assert len(rows_of(url)) == 10
    assert run(["journal"]) == 0
