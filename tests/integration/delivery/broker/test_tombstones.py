"""`llmctx erase` reaches frames that are under way, and what was set aside on the broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from llmctx.delivery.broker.tombstones import Tombstone, tombstone_of
from llmctx.ops.erase import Subject, erase
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.databases import drop_trigger, refuse_while
from tests.kit.frames import frame_of, post, ship, shipping
from tests.kit.rows import query, record, stored
from tests.kit.support import wait_for

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine
PATIENCE_S = 120.0
TABLE = "biz_agent_llm_call_logs"


async def test_frames_under_way(broker: Brokers, database: str) -> None:
    """Rows of calls before that are not stored, by user, session and what only they have used; later ones are."""
    settings = load(database_url=database, transport=broker.url + "?streams=2")
    async with post(settings) as sent:
        stored = record(user_id="ada", session_id="s1", thread_id="t-ada")
        other = record(user_id="bob", session_id="s2")
        await sent.publish(frame_of([stored, other]))
        await ship(settings)
        await refuse_while(database, "NEW.node = 'bad'", "23514")
        try:
            aside = [record(user_id=name, session_id=name, node="bad") for name in ("ada", "bob")]
            await sent.publish(frame_of(aside))
            await ship(settings)
        finally:
            await drop_trigger(database)
        assert len(await sent.refused()) == 2
        nobody = record(user_id=None, session_id=None, thread_id="t-ada")
        await sent.publish(frame_of([record(user_id="ada", session_id="s3"), nobody, record(user_id="bob")]))
        receipt = await erase(settings, Subject(user="ada"), do=True)
        assert {place.name: (place.found, place.left) for place in receipt.places if place.found} == {
            TABLE: (1, 0), "set aside on the broker": (1, 0), "under way on the broker": (2, 0),
        }  # fmt: skip
        later = record(user_id="ada", created_at=datetime.now(UTC) + timedelta(seconds=1))
        await sent.publish(frame_of([later]))
        shipper = await ship(settings)
        assert (shipper.erased, shipper.written, shipper.unacknowledged) == (2, 2, 0)
        (left,) = await sent.refused()
        assert [one.user_id for one in left.records()] == ["bob"]
    rows = await query(database, f"SELECT user_id, call_id FROM {TABLE} ORDER BY user_id")
    assert [row.user_id for row in rows] == ["ada", "bob", "bob"]
    assert rows[0].call_id == later.call_id


async def test_rows_of_nobody_whose_link_is_on_the_broker_alone(broker: Brokers, database: str) -> None:
    """What only they have used is read from frames under way as well, and what others have used there."""
    settings = load(database_url=database, transport=broker.url + "?streams=2")
    async with post(settings) as sent:
        threads = [("ada", "t-ada"), ("ada", "t-both"), ("bob", "t-both")]
        await sent.publish(frame_of([record(user_id=user, thread_id=thread) for user, thread in threads]))
        await sent.publish(b"no frame")
        nobody = [record(user_id=None, thread_id=thread) for thread in ("t-ada", "t-both")]
        await sent.publish(frame_of(nobody))
        plan = await erase(settings, Subject(user="ada"))
        assert [(place.found, place.name) for place in plan.places if place.found] == [(3, "under way on the broker")]
        assert (await erase(settings, Subject(user="ada"), do=True)).left == 0
        assert (await ship(settings)).erased == 3
    rows = await query(database, f"SELECT user_id, thread_id FROM {TABLE} ORDER BY user_id")
    assert [tuple(row) for row in rows] == [("bob", "t-both"), (None, "t-both")]


@pytest.mark.parametrize("is_in_table", [False, True])
async def test_a_session_alone(broker: Brokers, database: str, is_in_table: bool) -> None:
    """Rows without a session go that lie in its threads, whoever's they are; those of another session stay."""
    settings = load(database_url=database, transport=broker.url + "?streams=1")
    async with post(settings) as sent:
        for session, thread in (("s1", "t1"), ("s1", "t3")):
            await sent.publish(frame_of([record(user_id=None, session_id=session, thread_id=thread)]))
        if is_in_table:
            await ship(settings)
        ids = [("ada", None, "t1"), (None, None, "t1"), (None, "s2", "t3"), (None, None, "t3"), ("ada", "s2", "t2")]
        some = [record(user_id=user, session_id=session, thread_id=thread) for user, session, thread in ids]
        await sent.publish(frame_of(some))
        assert (await erase(settings, Subject(session="s1"), do=True)).left == 0
        await ship(settings)
    rows = await query(database, f"SELECT user_id, session_id, thread_id FROM {TABLE} ORDER BY thread_id, session_id")
    assert [tuple(row) for row in rows] == [("ada", "s2", "t2"), (None, "s2", "t3"), (None, None, "t3")]


async def test_a_broker_that_has_lost_its_store(broker: Brokers, database: str) -> None:
    """Journals publish rows of whom was erased again; shippers know that, and tell the new store and other shippers."""
    settings = load(database_url=database, transport=broker.url + "?streams=1")
    theirs = record(user_id="ada")
    async with post(settings) as sent, shipping(settings) as shipper:
        await sent.publish(frame_of([theirs]))
        await wait_for(lambda: shipper.frames == 1, "the row to be stored", PATIENCE_S)
        await erase(settings, Subject(user="ada"), do=True)
        await sent.publish(frame_of([theirs]))
        await wait_for(lambda: shipper.erased == 1, "the tombstone to be read", PATIENCE_S)
        for name in (sent.topology.stream(0), sent.topology.erased_stream):
            await sent.connection.jetstream.delete_stream(name)
        async with post(settings):
            await sent.publish(frame_of([theirs]))
            await wait_for(lambda: shipper.erased == 2, "the row to be left out", PATIENCE_S)
    async with post(settings) as sent:
        await sent.publish(frame_of([theirs]))
        assert ((other := await ship(settings)).erased, other.written) == (1, 0)
    assert await stored(database) == 0


def test_tombstones() -> None:
    """They say the same when they are read, also those of many ids, and nothing else passes for one."""
    until = datetime(2026, 1, 2, tzinfo=UTC)
    threads = {f"t{number}" for number in range(4500)}
    parts = list(Tombstone("ada", None, until, {"thread_id": threads}).parts())
    read = [tombstone_of(part.as_bytes()) for part in parts]
    assert len(parts) == 3
    before = until - timedelta(days=1)
    for number in (0, 2250, 4499):
        row = record(user_id=None, session_id=None, thread_id=f"t{number}", created_at=before)
        assert sum(one is not None and one.covers(row) for one in read) == 1
    (both,) = Tombstone("ada", "s1", until).parts()
    rows = [record(user_id=user, session_id=session, created_at=before) for user in "ab" for session in ("s1", "s2")]
    assert not any(map(both.covers, rows))
    assert both.covers(record(user_id="ada", session_id="s1", created_at=before))
    assert not both.covers(record(user_id="ada", session_id="s1", created_at=until))
    for data in (b"", b"{}", b"[]", b'{"user": null, "session": null, "until": "2026-01-02", "own": {}}'):
        assert tombstone_of(data) is None
