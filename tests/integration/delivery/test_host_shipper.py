"""One process stores the rows of all others of its host; whichever is killed, nothing is lost and nothing is double."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from llmctx import bind, cli
from llmctx.calllog import CallLog
from llmctx.delivery.delegation import announce_shipper
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.host_shipper import HostShipper
from llmctx.settings import load
from tests.kit.crowd import crowd
from tests.kit.databases import refuse_while, role
from tests.kit.lives import homes
from tests.kit.rows import query, rows_of
from tests.kit.support import Talker, wait_until
from tests.scale.fleet import fleet

model = Talker()
pytestmark = pytest.mark.timeout(600)  # processes that start, on a busy machine


def ship(url: str) -> HostShipper:
    """Store what there is."""
    settings = load(database_url=url)
    shipper = HostShipper(SqlDestination(settings), settings)
    asyncio.run(shipper.run(asyncio.Event(), once=True))
    return shipper


async def connections(url: str, of: str) -> int:
    ((count,),) = await query(url, f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{of}'")
    return int(count)


def test_killed_again_and_again(database: str) -> None:
    """Eight processes, and a shipper that is killed while it stores: each call is one row, by one connection."""
    shipping = fleet("tests.scale.ships", "host", draw=Random(1), environment={"LLMCTX_DATABASE_URL": database})
    with shipping as ships, crowd(database, 8, 40, 0.1, LLMCTX_WRITER="ship") as processes:
        ships.begin()
        processes.ledgers()  # they have begun
        for kills in range(3):
            wait_until(lambda least=kills * 60: len(rows_of(database)) > least, "some rows", 240)
            ships.kill()
            ships.begin()
        processes.ledgers()
        last = processes.let_go()
        assert ships.end() == [0]
    rows = rows_of(database)
    assert len({row.call_id for row in rows}) == len(rows) == 8 * 40
    assert len({row.node for row in rows}) == 8 * 40
    assert {row.status for row in rows} == {"ok"}
    assert sum(one["written"] for one in last) == 8 * 40


async def test_the_application_opens_no_connection(database: str) -> None:
    """As long as there is a shipper."""
    async with role(database, "") as (limited, name):
        with announcing(limited):
            async with CallLog(limited, writer="ship") as call_log:
                with bind(user_id="u", session_id="s"):
                    await model.ainvoke("hello")
                while not spool_of(call_log)._delegation._delegated:
                    await asyncio.sleep(0.05)
                assert await connections(database, name) == 0
                shipper = await asyncio.to_thread(ship, database)
                assert shipper.written == 1
                assert await call_log.aflush(60) == 0
                assert await connections(database, name) == 0
                assert (call_log.stats().written, call_log.stats().balanced) == (1, True)


def test_the_command(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`llmctx ship --host --once` stores what processes have left, and says how much that was."""
    with announcing(database), CallLog(database, writer="ship", shutdown_timeout_s=0.1) as call_log:
        with bind(user_id="u", session_id="s"):
            model.invoke("hello")
        assert call_log.stats().dropped == 0
    assert cli.run(["--database-url", database, "ship", "--host", "--once", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": 1, "quarantined": 0, "journals": 1}
    assert cli.run(["--database-url", database, "ship"]) == 2
    assert len(rows_of(database)) == 1
    assert homes() == []


def test_without_a_shipper(database: str) -> None:
    """The process stores its rows itself: from the beginning, and also what it has left to one that has gone."""
    with CallLog(database, writer="ship") as call_log:
        model.invoke("hello")
        assert call_log.flush(60) == 0
        assert call_log.stats().written == 1
    assert len(rows_of(database)) == 1
    assert homes() == []


@contextlib.contextmanager
def announcing(url: str) -> Iterator[None]:
    """Something says all the while that it is a shipper; what there is to store is left to `ship`."""
    directory = load(database_url=url).journal_directories[0]
    ended = threading.Event()

    def announce() -> None:
        while not ended.wait(0.2):
            announce_shipper(directory)

    (directory / "quarantine").mkdir(mode=0o700, parents=True, exist_ok=True)
    announce_shipper(directory)
    thread = threading.Thread(target=announce)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def spool_of(call_log: CallLog) -> Any:
    return call_log._worker.sink


def test_a_shipper_that_goes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left to it is stored by those who have left it, and the ledger adds up."""
    with contextlib.ExitStack() as shipper, CallLog(database, writer="ship") as call_log:
        shipper.enter_context(announcing(database))
        wait_until(lambda: spool_of(call_log)._is_served, "the shipper to be seen", 60)
        with bind(user_id="u", session_id="s"):
            model.invoke("hello")
        wait_until(lambda: spool_of(call_log)._delegation._delegated, "a journal to be left", 60)
        assert call_log.stats().waiting == 1
        monkeypatch.setattr("llmctx.delivery.delegation._ABSENT_S", 0.5)
        shipper.close()
        assert call_log.flush(60) == 0
        assert (call_log.stats().written, call_log.stats().balanced) == (1, True)
    assert len(rows_of(database)) == 1
    assert homes() == []


def test_open_calls_are_not_lost(database: str) -> None:
    """A call that goes on while its process leaves a journal to the shipper has one row, which says how it ended."""
    with announcing(database), CallLog(database, writer="ship") as call_log:
        with call_log.record(model="m", prompt="long") as call:
            model.invoke("short")
            wait_until(lambda: spool_of(call_log)._delegation._delegated, "a journal to be left", 60)
            assert ship(database).written == 1
            call.set(node="end")
        wait_until(lambda: ship(database).written == 1, "the long one to be left and shipped", 60)
        assert call_log.flush(60) == 0
        assert (call_log.stats().written, call_log.stats().balanced) == (2, True)
    rows = rows_of(database)
    assert [(row.status, row.node) for row in rows if row.node == "end"] == [("ok", "end")]
    assert len(rows) == 2


def test_a_row_that_is_refused(own: str) -> None:
    """It is kept as a dead letter, where `llmctx journal` looks, and the others are stored."""
    asyncio.run(refuse_while(own, "NEW.node = 'bad'", "23514"))
    with announcing(own), CallLog(own, writer="ship", shutdown_timeout_s=0.2) as call_log:
        for node in ("good", "bad", "good"):
            with call_log.record(model="m") as call:
                call.set(node=node)
    shipper = ship(own)
    assert (shipper.written, shipper.quarantined) == (2, 1)
    assert len(rows_of(own)) == 2
