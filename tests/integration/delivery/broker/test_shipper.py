"""`llmctx ship`: each row of a frame is one row of the table, whatever is lost, away, or cannot be stored."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from uuid import UUID

import pytest
from nats.aio.msg import Msg

from llmctx.delivery.broker import frame
from llmctx.delivery.journal.frames import pack_record
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.databases import drop_trigger, refuse_while
from tests.kit.frames import frame_of, hasten, post, ship, shipping
from tests.kit.proxy import Proxy
from tests.kit.rows import query, record, stored
from tests.kit.support import wait_for

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine
PATIENCE_S = 120.0
TABLE = "biz_agent_llm_call_logs"


async def ids(url: str) -> set[UUID]:
    return {row.call_id for row in await query(url, f"SELECT call_id FROM {TABLE}")}


async def test_frames_are_stored(broker: Brokers, database: str) -> None:
    """In large batches; a frame that comes twice is stored once, and nothing is left on the broker."""
    settings = load(database_url=database, transport=broker.url + "?streams=4")
    async with post(settings) as sent:
        made = await sent.rows(60, 10)
        twice = [record() for _ in range(3)]
        for _ in range(2):
            await sent.publish(frame_of(twice))
        before = await sent.lag()
        assert (before.sum("waiting"), before.sum("shippers"), before.missing) == (62, 0, [])
        assert 0 <= before.oldest_s < PATIENCE_S
        shipper = await ship(settings)
        assert (shipper.frames, shipper.refused, shipper.unacknowledged) == (62, 0, 0)
        assert shipper._intake.batcher.attempts <= 5
        after = await sent.lag()
        assert (after.sum("waiting"), after.sum("in_hand"), after.oldest) == (0, 0, None)
    assert await ids(database) == {row.call_id for row in [*made, *twice]}
    assert await stored(database) == len(made) + len(twice)


async def test_rows_come_while_it_runs(broker: Brokers, database: str) -> None:
    """A row that comes alone is there soon; what is held at the end is stored or given back."""
    settings = load(database_url=database, transport=broker.url + "?streams=2")
    async with post(settings) as sent, shipping(settings) as shipper:
        for count in range(1, 4):
            await sent.rows(1, 1)
            await wait_for(lambda least=count: shipper.frames == least, "its frame to be acknowledged", PATIENCE_S)
        await sent.rows(20, 5)
        await wait_for(lambda: shipper.unacknowledged > 0 or shipper.frames == 23, "frames to come", PATIENCE_S)
    async with post(settings) as sent:
        lag = await sent.lag()
        assert await stored(database) + 5 * (lag.sum("waiting") + lag.sum("in_hand")) == 103
        await ship(settings)  # what was given back
    assert await stored(database) == 103


async def test_what_cannot_be_stored(broker: Brokers, database: str) -> None:
    """Single rows that the database refuses, rows and frames that cannot be read: set aside, and the others stored."""
    settings = load(database_url=database, transport=broker.url + "?streams=2")
    await refuse_while(database, "NEW.node = 'bad'", "23514")
    torn = record()
    try:
        async with post(settings) as sent:
            good = [record(node="good") for _ in range(8)]
            bad = record(node="bad")
            await sent.publish(frame_of([*good[:4], bad, *good[4:]]))
            await sent.publish(frame.encode([pack_record(torn)[:-1], pack_record(good[0])]))
            for data in (b"", b"\x01", b"\x63" * 100, frame_of([record()])[:-3]):
                await sent.publish(data)
            shipper = await ship(settings)
            assert (shipper.frames, shipper.refused, shipper.written) == (6, 6, 8)
            found = await sent.refused()
            assert (await sent.lag()).refused == 6
    finally:
        await drop_trigger(database)
    assert await ids(database) == {row.call_id for row in good}
    by_code = {one.code: one for one in found}
    assert [one.call_id for one in by_code["23514"].records()] == [bad.call_id]
    assert "not this one" in by_code["23514"].reason
    unreadable = [one for one in found if one.code == "unreadable"]
    assert len(unreadable) == 5
    for one in unreadable:
        with pytest.raises(ValueError):
            one.records()


async def test_nothing_can_be_set_aside(broker: Brokers, database: str) -> None:
    """Where there is no stream for it, the frame comes again; the others pass."""
    settings = load(database_url=database, transport=broker.url + "?streams=1")
    async with post(settings) as sent:
        await sent.connection.jetstream.delete_stream(sent.topology.refused_stream)
        async with shipping(settings) as shipper:
            await sent.publish(b"no frame")
            made = await sent.rows(3, 2)
            await wait_for(lambda: shipper.frames == 3, "the others to be stored", PATIENCE_S)
        assert (await sent.lag()).sum("in_hand") + (await sent.lag()).sum("waiting") == 1
    assert await ids(database) == {row.call_id for row in made}


async def test_the_database_is_away(broker: Brokers, database: str) -> None:
    """Nothing is acknowledged, the broker hears that it is worked on, and all is stored afterwards."""
    proxy = Proxy(database)
    await proxy.open()
    settings = load(database_url=proxy.url, transport=broker.url + "?streams=2", statement_timeout_s=1)
    replies: dict[bytes, set[str]] = defaultdict(set)

    async def hear(message: Msg) -> None:
        replies[message.data].add(message.subject)

    try:
        async with post(settings, ack_wait_s=3.0) as sent, shipping(settings) as shipper:
            await sent.connection.client.subscribe("$JS.ACK.>", cb=hear)
            await sent.rows(1, 1)
            await wait_for(lambda: shipper.frames == 1, "the first", PATIENCE_S)
            await proxy.close()
            await sent.rows(10, 10)
            await wait_for(lambda: len(replies[b"+WPI"]) >= 10, "word of each that is held", PATIENCE_S)
            assert (shipper.unacknowledged, shipper.frames, len(replies[b"+ACK"])) == (10, 1, 1)
            assert shipper.last_error is not None
            await proxy.open()
            await wait_for(lambda: shipper.frames == 11, "the others", PATIENCE_S)
    finally:
        await proxy.close()
    assert await stored(database) == 101


async def test_the_broker_goes_and_comes(broker: Brokers, database: str) -> None:
    """It waits and connects again; frames that were stored and not acknowledged come again and meet their keys."""
    settings = load(database_url=database, transport=broker.url + "?streams=2")
    async with shipping(settings) as shipper:  # before there is any stream
        async with post(settings, ack_wait_s=2.0) as sent:
            made = await sent.rows(5, 2)
            await wait_for(lambda: shipper.frames == 5, "the first", PATIENCE_S)
        await asyncio.to_thread(broker.kill)
        await wait_for(lambda: shipper.broker_error is not None, "it to miss the broker", PATIENCE_S)
        await asyncio.to_thread(broker.start)
        async with post(settings, ack_wait_s=2.0) as sent:
            made += await sent.rows(5, 2)
            await wait_for(lambda: shipper.frames == 10, "the others", PATIENCE_S)
        await asyncio.to_thread(broker.kill)
        broker.wipe()
        await asyncio.to_thread(broker.start)
        async with post(settings) as sent:  # other streams of the same names, which begin anew
            made += await sent.rows(5, 2)
            await wait_for(lambda: shipper.frames == 15, "those of the new streams", PATIENCE_S)
    assert await ids(database) == {row.call_id for row in made}


async def test_a_number_means_another_frame(broker: Brokers, database: str) -> None:
    """A frame that is held while its stream is made anew is not acknowledged: its number is another one's now."""
    proxy = Proxy(database)
    settings = load(database_url=proxy.url, transport=broker.url + "?streams=1", statement_timeout_s=1)
    try:
        async with post(settings) as sent, shipping(settings) as shipper:
            first = await sent.rows(1, 2)
            await wait_for(lambda: shipper.unacknowledged == 1, "the first to be held", PATIENCE_S)
            await sent.connection.jetstream.delete_stream(sent.topology.stream(0))
            async with post(settings) as again:
                await hasten(again.connection, again.topology, 5.0)
                second = await again.rows(1, 2)
                await wait_for(lambda: shipper.unacknowledged == 2, "the second to be held", PATIENCE_S)
                await proxy.open()
                await wait_for(lambda: shipper.unacknowledged == 0, "both to be stored", PATIENCE_S)
                assert shipper.frames == 1
                assert (await again.lag()).sum("in_hand") == 0
    finally:
        await proxy.close()
    assert await ids(database) == {row.call_id for row in [*first, *second]}
