"""The broker as the command line shows it: how far shippers are behind, what was set aside, and that it is stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llmctx import cli
from llmctx.core.record import CallRecord
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.databases import drop_trigger, refuse_while
from tests.kit.frames import frame_of, post
from tests.kit.rows import record, rows_of

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine


def test_set_aside_and_stored(
    broker: Brokers, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`journal` shows what waits and what was set aside, and `journal replay` stores it when the cause is gone."""
    url = broker.url + "?streams=2"
    monkeypatch.setenv("LLMCTX_TRANSPORT", url)

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(["--database-url", database, *arguments])
        return code, capsys.readouterr().out

    def on_broker() -> Any:
        return json.loads(run("journal", "--json")[1])[-1]

    good, bad = [record() for _ in range(3)], [record(node="bad") for _ in range(2)]
    code, shown = run("journal")
    assert "LLMCTX_CALLS_0 is not there" in shown
    asyncio.run(_publish(url, [*good, *bad]))
    assert sum(one["waiting"] for one in on_broker()["streams"]) == 2
    asyncio.run(refuse_while(database, "NEW.node = 'bad'", "23514"))
    try:
        code, shipped = run("ship", "--once", "--json")
        assert (code, json.loads(shipped)) == (0, {"written": 3, "refused": 3, "frames": 2, "again": 0})
        assert len(on_broker()["refused"]) == 3
        code, shown = run("journal")
        assert code == 1
        assert "2 set aside [23514]" in shown
        assert "1 set aside [unreadable]" in shown
        assert "no frames wait in the broker, in 2 streams" in shown
        assert run("journal", "replay", "--yes")[0] == 1
        assert len(on_broker()["refused"]) == 3
    finally:
        asyncio.run(drop_trigger(database))
    code, answer = run("journal", "replay", "--yes", "--json")
    assert (code, json.loads(answer)["stored"], json.loads(answer)["refused_again"]) == (1, 2, 1)
    assert {row.call_id for row in rows_of(database)} == {row.call_id for row in [*good, *bad]}
    assert [one["code"] for one in on_broker()["refused"]] == ["unreadable"]
    broker.kill()
    assert on_broker()["broker"] is None
    assert run("journal", "replay")[0] == 3


async def _publish(url: str, rows: list[CallRecord]) -> None:
    async with post(load(transport=url)) as sent:
        await sent.publish(frame_of(rows))
        await sent.publish(b"no frame")
