"""A broker that gives each user rights: those that the guide names are enough, and one that is missing is named."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import bind, cli
from llmctx.calllog import CallLog
from tests.kit.brokers import Brokers, brokers
from tests.kit.databases import drop_trigger, refuse_while
from tests.kit.rows import rows_of
from tests.kit.support import wait_until

pytestmark = pytest.mark.timeout(600)  # servers that start, on a busy machine

GUIDE: Final = Path(__file__).parents[4] / "docs" / "how-to" / "broker.md"
USERS: Final = ("app", "ship", "doctor", "journal", "migrate")
"""By the lines of the guide's table, in this order."""


def rights() -> dict[str, list[str]]:
    """Return what the guide says that each may publish to."""
    table = GUIDE.read_text().partition("| who | publishes to |\n|---|---|\n")[2].partition("\n\n")[0]
    lines = [re.findall(r"`([^`]+)`", line.split("|")[2]) for line in table.splitlines()]
    return dict(zip(USERS, lines, strict=True))


@pytest.fixture
def strict() -> Iterator[Brokers]:
    """A broker whose users may do what the guide says, and one that may do nothing."""
    users = ", ".join(
        f'{{ user: {name}, password: x, permissions: {{ publish: {json.dumps(may)}, subscribe: "_INBOX.>" }} }}'
        for name, may in {**rights(), "nobody": ["elsewhere"]}.items()
    )
    with brokers(settings=f"authorization {{ users: [{users}] }}") as made:
        yield made


def url(broker: Brokers, user: str) -> str:
    return broker.url.replace("://", f"://{user}:x@") + "?streams=2"


def test_the_rights_of_the_guide_are_enough(
    strict: Brokers, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Streams are made, rows stored, set aside, stored again and erased, and the broker has refused nothing."""

    def run(user: str, *arguments: str) -> str:
        monkeypatch.setenv("LLMCTX_TRANSPORT", url(strict, user))
        capsys.readouterr()
        cli.run(["--database-url", database, *arguments])
        return capsys.readouterr().out

    run("migrate", "migrate", "--transport", "--yes")
    run("migrate", "migrate", "--transport", "--yes")
    asyncio.run(refuse_while(database, "NEW.user_id = 'bob'", "23514"))
    try:
        with CallLog(database, transport=url(strict, "app")) as call_log:
            for user in ("ada", "bob", "cleo"):
                with bind(user_id=user, session_id=f"of-{user}"):
                    FakeListChatModel(responses=["hi"]).invoke("hello")
            wait_until(lambda: call_log.stats().published == 3, "the broker to have all rows")
            assert json.loads(run("ship", "ship", "--once", "--json"))["refused"] == 1
            call_log.flush()
    finally:
        asyncio.run(drop_trigger(database))
    assert "ok    broker: reachable" in run("doctor", "doctor")
    assert "1 set aside [23514]" in run("journal", "journal")
    assert json.loads(run("journal", "journal", "replay", "--yes", "--json"))["stored"] == 1
    assert {row.user_id for row in rows_of(database)} == {"ada", "bob", "cleo"}
    run("journal", "erase", "--user", "ada", "--yes")
    assert {row.user_id for row in rows_of(database)} == {"bob", "cleo"}
    run("ship", "ship", "--once")
    assert "Violation" not in strict.all[0].log


def test_a_right_that_is_missing_is_named(
    strict: Brokers, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows wait in the journal, and both the application and the command say what to grant, as NATS writes it."""
    with CallLog(database, transport=url(strict, "nobody"), statement_timeout_s=2) as call_log:
        FakeListChatModel(responses=["hi"]).invoke("hello")
        wait_until(lambda: call_log.stats().trouble is not None, "the trouble to be known")
        stats = call_log.stats()
        needed = r"may not publish to \$JS\.API\.CONSUMER\.INFO\.LLMCTX_CALLS_\d\.ship: grant it"
        assert re.search(needed, stats.trouble or "")
        assert stats.incidents["broker_forbids"] >= 1
        assert stats.waiting == 1
    monkeypatch.setenv("LLMCTX_TRANSPORT", url(strict, "nobody"))
    capsys.readouterr()
    assert cli.run(["--database-url", database, "erase", "--user", "ada"]) == 1
    assert "may not publish to $JS.API.STREAM.INFO.LLMCTX_CALLS_0: grant it" in capsys.readouterr().err
    assert "Violation" in strict.all[0].log
