"""`llmctx migrate --transport` makes the streams as they are designed, says what it changes, and what it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy

from llmctx import cli
from llmctx.delivery.broker.session import open_broker
from llmctx.delivery.broker.topology import CONSUMER, Topology
from llmctx.settings import load
from tests.kit.brokers import Brokers

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def migrate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(url: str, *options: str) -> tuple[int, Any]:
        monkeypatch.setenv("LLMCTX_TRANSPORT", url)
        capsys.readouterr()
        code = cli.run(["migrate", "--transport", "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return run


def on(url: str, work: Callable[[JetStreamContext, Topology], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with open_broker(load(transport=url)) as (connection, topology):
            return await work(connection.jetstream, topology)

    return asyncio.run(run())


def test_a_cluster(broker_cluster: Brokers, migrate: Run) -> None:
    """Three copies of each stream; nothing before it is run, and nothing to do when it is run again."""
    url = broker_cluster.url + "?streams=2&max_bytes=17179869184"
    code, plan = migrate(url, "--plan")
    assert (code, plan["done"]) == (0, None)
    assert [step.partition(":")[0] for step in plan["steps"]] == [
        "create stream LLMCTX_CALLS_0", "create stream LLMCTX_CALLS_1", "create stream LLMCTX_REFUSED",
        "create stream LLMCTX_ERASED",
    ]  # fmt: skip
    assert any("sync_interval: always" in note for note in plan["notes"])
    code, made = migrate(url)
    assert (code, made["done"]) == (0, plan["steps"])
    code, again = migrate(url)
    assert (code, again["steps"], again["done"]) == (0, [], None)

    async def look(streams: JetStreamContext, topology: Topology) -> Any:
        stream = await streams.stream_info(topology.stream(1))
        return stream.config, (await streams.consumer_info(topology.stream(1), CONSUMER)).config

    stream, consumer = on(url, look)
    assert (stream.num_replicas, stream.retention, stream.discard, stream.storage) == (3, "workqueue", "new", "file")
    assert (stream.max_bytes, stream.deny_purge) == (8 * 1024**3, True)
    assert (consumer.ack_policy, consumer.ack_wait, consumer.max_ack_pending) == ("explicit", 60, 1000)


def test_several_at_once(broker: Brokers) -> None:
    """Whoever comes second finds what it wants."""
    from llmctx.delivery.broker.provision import plan, provision

    url = broker.url + "?streams=4"

    async def one() -> None:
        async with open_broker(load(transport=url)) as (connection, topology):
            await provision(connection, topology, 1, lambda what: None)
            assert not (await plan(connection.jetstream, topology, 1)).steps

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(5)))

    asyncio.run(all_of_them())


def test_changes(broker: Brokers, migrate: Run) -> None:
    """What is there is changed with --yes only, and what somebody has removed is made again."""
    assert migrate(broker.url + "?streams=1&max_bytes=17179869184")[0] == 0

    async def spoil(streams: JetStreamContext, topology: Topology) -> None:
        consumer = topology.consumer_config()
        consumer.ack_wait = 5
        await streams.add_consumer(topology.stream(0), consumer)
        await streams.delete_stream(topology.refused_stream)

    on(broker.url, spoil)
    url = broker.url + "?streams=1&max_bytes=1073741824"
    code, plan = migrate(url)
    assert (code, plan["done"]) == (0, None)
    assert [step.partition(":")[0] for step in plan["steps"]] == [
        "change stream LLMCTX_CALLS_0", "change consumer ship of stream LLMCTX_CALLS_0", "create stream LLMCTX_REFUSED",
    ]  # fmt: skip
    assert "max_bytes 17179869184 instead of 1073741824" in plan["steps"][0]
    assert "ack_wait 5 s instead of 60 s" in plan["steps"][1]
    assert migrate(url, "--yes")[1]["done"] == plan["steps"]
    assert migrate(url)[1]["steps"] == []


def test_what_cannot_be_changed(broker: Brokers, migrate: Run) -> None:
    """A stream that forgets before its rows are stored is refused, and nothing is made beside it."""
    url = broker.url + "?streams=1"

    async def make(streams: JetStreamContext, topology: Topology) -> None:
        config = topology.stream_config(0)
        config.retention = RetentionPolicy.LIMITS
        await streams.add_stream(config)

    on(url, make)
    code, answer = migrate(url, "--yes")
    assert code == 1
    assert "retention limits instead of workqueue, which NATS cannot change" in answer["error"]
    assert "retention limits" in migrate(url, "--plan")[1]["notes"][0]

    async def names(streams: JetStreamContext, topology: Topology) -> list[str]:
        return [str(info.config.name) for info in await streams.streams_info()]

    assert on(url, names) == ["LLMCTX_CALLS_0"]


@pytest.mark.parametrize(
    ("options", "words"),
    [("replicas=3", "a single server keeps one copy"), ("max_bytes=1152921504606846976", "less room than that")],
)
def test_more_than_there_is(broker: Brokers, migrate: Run, options: str, words: str) -> None:
    """More copies than servers, or more bytes than room: it is said what to do."""
    code, answer = migrate(f"{broker.url}?streams=1&{options}")
    assert code == 1
    assert words in answer["error"]


def test_away(migrate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """No broker, and none that is named."""
    code, answer = migrate("nats://127.0.0.1:1")
    assert code == 3
    assert "LLMCTX_TRANSPORT" in answer["error"]
    code, answer = migrate("")
    assert code == 2
    assert "LLMCTX_TRANSPORT is not set" in answer["error"]
