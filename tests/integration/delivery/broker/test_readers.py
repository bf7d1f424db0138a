"""A reader beside `llmctx ship` gets every frame as well, which goes when both have stored it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmctx.core.errors import ConfigError
from llmctx.delivery import Destination, Row
from llmctx.delivery.broker import refusals
from llmctx.delivery.broker.shipper import BrokerShipper
from llmctx.ops.erase import Subject, erase
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.frames import post, ship
from tests.kit.rows import stored

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine


class Analysis(Destination):
    """A store in memory that takes no row of one node."""

    name = "analysis"

    def __init__(self) -> None:
        self.ids: set[str] = set()

    async def store(self, rows: Sequence[Row]) -> None:
        if any(row.record.node == "odd" for row in rows):
            raise ValueError("no odd rows here")
        self.ids.update(str(row.record.call_id) for row in rows)


async def test_both_get_every_row(broker: Brokers, database: str) -> None:
    """What one of them refuses is set aside for itself alone, and the other stores it."""
    settings = load(database_url=database, transport=broker.url + "?streams=2&readers=analysis")
    async with post(settings) as sent:
        made = [*await sent.rows(10, 5), *await sent.rows(1, 1, node="odd", user_id="ada")]
        assert await stored(database) == 0
        shipper = await ship(settings)
        assert (shipper.frames, shipper.refused) == (11, 0)
        messages = [await sent.connection.jetstream.stream_info(sent.topology.stream(one)) for one in range(2)]
        assert sum(one.state.messages for one in messages) == 11  # the reader has not had them
        analysis = Analysis()
        reader = BrokerShipper(analysis, settings, reader="analysis")
        await reader.run(asyncio.Event(), once=True)
        assert (reader.frames, reader.refused) == (11, 1)
        messages = [await sent.connection.jetstream.stream_info(sent.topology.stream(one)) for one in range(2)]
        assert sum(one.state.messages for one in messages) == 0
        assert await sent.refused() == []
        (view,) = sent.topology.readers
        aside = [one async for one in refusals.read(sent.connection.jetstream, view)]
        assert [one.records()[0].call_id for one in aside] == [made[-1].call_id]
        receipt = await erase(settings, Subject(user="ada"), do=True)
        assert [(place.found, place.left) for place in receipt.places if "set aside" in place.name] == [(1, 0)]
        assert [one async for one in refusals.read(sent.connection.jetstream, view)] == []
    assert await stored(database) == len(made) - 1 == 50
    assert analysis.ids == {str(row.call_id) for row in made[:-1]}


def test_a_reader_that_is_not_named() -> None:
    settings = load(transport="nats://127.0.0.1:1?readers=analysis")
    with pytest.raises(ConfigError, match="names no reader 'billing': add readers=billing"):
        BrokerShipper(Analysis(), settings, reader="billing")


@pytest.mark.parametrize("readers", ["ship", "A", "a b", "a,,b", "", "x.y", "a,ship"])
def test_names_that_cannot_be_used(readers: str) -> None:
    with pytest.raises(ConfigError, match="needs names of readers of at most 32 lower case letters"):
        load(transport=f"nats://127.0.0.1:1?readers={readers}")
