"""Only a row that the database refuses by itself is set aside; the others are stored."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery import batcher
from tests.kit.batchers import troubled
from tests.kit.databases import T, drop_trigger, healed, put, refuse_while, slow_rows
from tests.kit.rows import PATIENCE, do, record, stored, writing
from tests.kit.support import wait_for


async def refuse_poison(url: str) -> None:
    """Let the database refuse rows whose model is called poison."""
    if url.startswith("postgresql"):
        await do(url, f"ALTER TABLE {DEFAULT_TABLE} ADD CONSTRAINT no_poison CHECK (model <> 'poison')")
    else:
        await do(
            url,
            f"CREATE TRIGGER no_poison BEFORE INSERT ON {DEFAULT_TABLE} WHEN NEW.model = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )


@pytest.mark.parametrize("bad", [[50], [0], [99], [0, 1, 2, 50, 98, 99], list(range(100))])
async def test_a_poison_row_never_takes_its_batch_along(own_database: str, bad: list[int]) -> None:
    """Of a hundred rows the good ones are stored, the bad ones set aside and counted."""
    await refuse_poison(own_database)
    async with writing(own_database) as one:
        for number in range(100):
            one.submit(record(model="poison" if number in bad else "good"))
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.quarantined, one.dropped) == (100 - len(bad), len(bad), 0)
        assert one.waiting_bytes == 0
    assert await stored(own_database) == 100 - len(bad)


async def test_a_value_that_the_driver_refuses_is_poison(any_database: str) -> None:
    """Not an outage, which would keep everything waiting behind it."""
    async with writing(any_database) as one:
        one.submit(record(model=object()))
        one.submit(record())
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.quarantined) == (1, 1)


async def test_a_row_that_never_ends_lets_the_others_pass(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits by itself, and is stored when it can be."""
    monkeypatch.setattr(batcher, "_DEFER_S", 1.0)
    await slow_rows(own, "NEW.model = 'slow'", 60)
    async with writing(own, statement_timeout_s=0.3) as one:
        put(one, 1, model="slow")
        put(one, 9)
        await wait_for(lambda: one.written == 9, "the others")
        assert one.waiting == 1
        await drop_trigger(own)
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(own) == 10


async def test_a_row_that_ends_its_connection_lets_the_others_pass(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is tried: an extension of the host's that falls over it, say."""
    monkeypatch.setattr(batcher, "_DEFER_S", 1.0)
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        ends = "IF NEW.model = 'bad' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW;"
        await do(
            own,
            f"CREATE FUNCTION host_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {ends} END $$",
            f"CREATE TRIGGER host_trigger BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION host_trigger()",
        )
        put(one, 1, model="bad")
        put(one, 20)
        await wait_for(lambda: one.written == 21, "the others")
        assert (one.waiting, one.quarantined) == (1, 0)
        await drop_trigger(own)
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(own) == 22


OBJECTIONS = {
    "LX001": "trigger LX001",
    "45000": "trigger 45000",
    "P0001": "trigger P0001",
    "42703": "trigger 42703",  # a trigger's own mistake, in a branch that few rows take
    "XX000": "trigger XX000",
    "check": "ALTER TABLE {t} ADD CONSTRAINT later CHECK (model <> 'bad')",
    "at commit": "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {t} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "WHEN (NEW.model = 'bad') EXECUTE FUNCTION host_opinion()",
}


async def object_to(url: str, how: str) -> None:
    statement = OBJECTIONS[how]
    if statement.startswith("trigger"):
        await refuse_while(url, "NEW.model = 'bad'", how)
        return
    await do(
        url,
        "CREATE FUNCTION host_opinion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'late'; END $$",
        statement.format(t=T),
    )


@pytest.mark.parametrize("how", OBJECTIONS)
async def test_whatever_objects_to_a_row_hurts_only_that_row(own: str, how: str) -> None:
    """Any code may come from a trigger: the good rows are stored within a second, the bad ones kept with the reason."""
    told: Counter[object] = Counter()
    async with writing(own) as one:
        one.on_done = lambda rows: told.update(row.call_id for row in rows)
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        await object_to(own, how)
        rows = [record(model="bad" if number % 125 == 7 else "good") for number in range(500)]
        start = time.monotonic()
        assert all(map(one.submit, rows))
        await wait_for(lambda: one.written >= 497, "the good ones")
        took = time.monotonic() - start
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined, one.dropped) == (497, 4, 0)
        assert took < 10  # one is promised, on an idle machine
        assert {kept.call_id for kept, _, _ in one.rejected_rows} == {row.call_id for row in rows if row.model == "bad"}
        assert all(code and reason for _, code, reason in one.rejected_rows)
        assert len(told) == 501
        assert set(told.values()) == {1}
    assert await stored(own) == 497


@pytest.mark.parametrize("code", ["LX001", "P0001", "23514", "22023", "42501"])
@pytest.mark.parametrize("known", [True, False], ids=["after good rows", "from the start"])
async def test_what_hits_every_row_is_not_the_rows_fault(own: str, code: str, known: bool) -> None:
    """All are kept, and stored when somebody has mended it."""
    async with writing(own) as one:
        if known:
            put(one, 20)
            assert await one.drain(PATIENCE) == 0, one.last_error
        await refuse_while(own, "true", code)
        put(one, 300)
        await troubled(one)
        assert (one.waiting, one.quarantined, one.dropped) == (300, 0, 0)
        assert one.attempts < 100
        await drop_trigger(own)
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.quarantined, one.last_error) == (0, None)
    assert await stored(own) == 300 + 20 * known


async def test_a_quarantine_that_cannot_keep_a_row(own: str) -> None:
    """It is counted as dropped, and its caller is told that nobody needs it."""
    await refuse_while(own, "NEW.model = 'bad'", "LX001")
    done: list[CallRecord] = []

    def broken(row: CallRecord, code: str, reason: str) -> bool:
        raise OSError(28, "No space left on device")

    async with writing(own) as one:
        one.on_rejected, one.on_done = broken, done.extend
        put(one, 5)
        put(one, 1, model="bad")
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined, one.dropped, one.given_up) == (5, 0, 1, 1)
    assert len(done) == 6
