"""`llmctx doctor` says of the broker what is wrong with it, and nothing where it is as it should be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from llmctx.delivery.broker.lag import Lag, StreamLag
from llmctx.ops.doctor.broker_checks import _progress, broker
from llmctx.ops.doctor.finding import Finding
from llmctx.settings import load
from tests.kit.brokers import Brokers, brokers
from tests.kit.frames import hasten, post

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in findings}


async def test_as_it_should_be(broker_cluster: Brokers) -> None:
    """Three servers that wait for their disks, with the streams as they are designed; then one of them otherwise."""
    settings = load(transport=broker_cluster.url + "?streams=1")
    assert by_name(await broker(settings))["broker streams"].fix == "llmctx migrate --transport --yes"
    async with post(settings) as sent:
        findings = await broker(settings)
        assert all(one.ok and not one.unknown for one in findings)
        assert "3 servers" in findings[0].cause
        await hasten(sent.connection, sent.topology, 7.0)
        assert "ack_wait 7 s instead of 60 s" in by_name(await broker(settings))["broker streams"].cause


async def test_a_lazy_server() -> None:
    """It acknowledges before the disk has it."""
    with brokers() as lazy:
        lazy.kill()
        one = lazy.all[0]
        one.configure(one.configuration.replace("sync_interval: always, ", ""))
        lazy.start()
        settings = load(transport=lazy.url + "?streams=1")
        assert "sync_interval: always" in by_name(await broker(settings))["broker disks"].fix
    (away,) = await broker(settings)
    assert (away.name, away.ok) == ("broker", False)


async def test_none() -> None:
    """Nothing is said where rows go to the database themselves."""
    assert await broker(load()) == []


def test_progress() -> None:
    """Old frames, and such as were set aside."""
    old = datetime.now(UTC) - timedelta(hours=1)
    late = Lag("nats://b", [StreamLag("LLMCTX_CALLS_0", 5, 2, 1, 100, old, 0)], [], 3)
    found = by_name(list(_progress(late)))
    assert "5 frames wait in the broker, 2 are being stored, 1 of them" in found["broker lag"].cause
    assert "no shipper is running" in found["broker lag"].cause
    assert "3 messages are set aside" in found["broker refused"].cause
