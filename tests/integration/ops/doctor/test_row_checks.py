"""`llmctx doctor` looks at the rows of late: they tell what is wrong, and which alarms are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from llmctx.migrate import commands as migrate
from llmctx.ops.doctor import Finding, examine
from llmctx.settings import Settings, load
from tests.kit.calls import TABLE, row
from tests.kit.shop import GRAPH, Check, only

Fill = Callable[..., None]
USER = {"user_id": "ada", "session_id": None, "thread_id": "t", "identity_reason": "partial"}
NOBODY = {"user_id": None, "session_id": None, "identity_source": "none", "identity_reason": "anonymous_request"}
TOKENS = {"prompt_tokens": 7, "completion_tokens": 2, "usage_source": "provider"}
SWALLOWED = {"usage_source": "missing:stream"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = load(database_url=f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}")
    migrate.upgrade(found)
    return found


@pytest.fixture
def fill(settings: Settings) -> Fill:
    """Insert so many rows of the last minutes."""

    def insert(count: int, **values: Any) -> None:
        now = datetime.now(UTC)
        usual = {"created_at": now - timedelta(minutes=5), "provider": "openai"}
        rows = [{**row(n), **usual, "call_id": uuid4(), **values} for n in range(count)]

        async def run() -> None:
            engine = create_async_engine(settings.database_url)
            async with engine.begin() as connection:
                await connection.execute(TABLE.insert(), rows)
            await engine.dispose()

        asyncio.run(run())

    return insert


def of_rows(settings: Settings) -> dict[str, Finding]:
    return {one.name: one for one in examine(settings) if one.name in ("recent rows", "tokens")}


def test_without_rows_nothing_is_known(settings: Settings) -> None:
    """Neither an alarm nor an all-clear."""
    assert of_rows(settings)["recent rows"].unknown


def test_rows_without_ids_are_an_alarm(settings: Settings, fill: Fill) -> None:
    """With share, cause, route and agent; whatever the application looks like."""
    fill(150, **TOKENS)
    fill(600, **NOBODY, **TOKENS, agent_key="triage", attributes={"llmctx": {"route": "POST /chat", "where": "a.py:3"}})
    found = of_rows(settings)["recent rows"]
    assert not found.ok
    assert "750 rows of the last hour: 20 % have a user" in found.cause
    assert "600 anonymous_request at POST /chat in triage" in found.cause
    assert found.where == "a.py:3"
    assert "identify" in found.fix


def test_threads_in_place_of_sessions_name_the_setting(settings: Settings, fill: Fill) -> None:
    """A user in every row, and no session in any."""
    fill(638, **USER, **TOKENS)
    found = of_rows(settings)["recent rows"]
    assert "100 % have a user, 0 % have both ids" in found.cause
    assert "LLMCTX_SESSION=thread" in found.fix


def test_tokens_that_a_gateway_swallowed(settings: Settings, fill: Fill) -> None:
    """The client's setting is named; models that no such client speaks to are left alone."""
    fill(40, **TOKENS)
    fill(560, **SWALLOWED)
    fill(200, usage_source="missing:unfinished", status="error")
    found = of_rows(settings)
    assert found["recent rows"].ok
    assert "6 % of those that ended well have tokens" in found["recent rows"].cause
    assert "stream_usage=True" in found["tokens"].fix
    assert "560 of 800 rows" in found["tokens"].cause


def test_tokens_of_other_models_are_no_alarm(settings: Settings, fill: Fill) -> None:
    """A model of one's own reports what it reports."""
    fill(60, **SWALLOWED, provider="fakelist")
    assert list(of_rows(settings)) == ["recent rows"]


BARE = GRAPH.replace("wrap_graph(builder)", "builder")


def test_rows_prove_alarms_wrong(check: Check, tmp_path: Path, fill: Fill) -> None:
    """A graph that is not wrapped, in an application whose rows all have their ids."""
    assert only(check(graphs=BARE), "graphs")
    fill(60, **TOKENS)
    assert check(graphs=BARE) == []
    (graphs,) = [one for one in check(graphs=BARE, everything=True) if one.name == "graphs"]
    assert "yet 60 rows of the last day have their ids" in graphs.cause


@pytest.mark.parametrize("reason", ["no_scope", "unknown_thread", "anonymous_request"])
def test_rows_prove_all_clears_wrong(check: Check, fill: Fill, reason: str) -> None:
    """Scopes get lost where the source shows nothing: an all-clear beside such rows would be believed."""
    fill(40, **TOKENS)
    fill(20, **NOBODY | {"identity_reason": reason})
    (source,) = [one for one in check(everything=True) if one.name == "source"]
    assert source.ok
    assert source.unknown is (reason != "anonymous_request")
    assert ("yet 20 of 60 rows of the last day have lost theirs" in source.cause) is source.unknown


def test_rows_of_the_writer_before_are_no_alarm(settings: Settings, fill: Fill) -> None:
    """A table that was adopted today: its old rows lack ids, llmctx's have them."""
    fill(150, **NOBODY | {"identity_source": None, "identity_reason": None}, **TOKENS)
    assert of_rows(settings)["recent rows"].unknown
    fill(30, **TOKENS, identity_source="context")
    found = of_rows(settings)["recent rows"]
    assert found.ok
    assert "16 % have a user" in found.cause
