"""The health page says what waits on the broker, and that it is away."""

from __future__ import annotations

import asyncio

import pytest
from starlette.testclient import TestClient

from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.dashboard import application, path
from tests.kit.frames import post

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine


def test_health(broker: Brokers, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of all streams; and without it the rest of the page."""
    from llmctx.migrate import commands as migrate

    migrate.upgrade(load(database_url=sqlite_url))
    monkeypatch.setenv("LLMCTX_TRANSPORT", broker.url + "?streams=2")
    asyncio.run(_publish())
    with TestClient(application(sqlite_url)) as reader:
        found = reader.get(path("health", ".json")).json()["data"]["broker"]
        assert (found["waiting"], found["in_hand"], found["refused"], found["problem"]) == (3, 0, 0, None)
        assert "Message broker" in reader.get(path("health")).text
        broker.kill()
        assert "Message broker" in reader.get(path("health")).text
        assert reader.get(path("health", ".json")).json()["data"]["broker"]["problem"]


async def _publish() -> None:
    async with post(load()) as sent:
        await sent.rows(3, 2)
