"""Costs of rows: of those that are written, and of those that are there."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage

from llmctx import cli
from llmctx.calllog import CallLog
from llmctx.core.record import DEFAULT_TABLE
from llmctx.delivery.pricing import Prices
from llmctx.migrate import commands as migrate
from llmctx.ops.recompute import recompute
from llmctx.settings import load
from llmctx.storage.filters import Filters
from tests.conftest import ROOT, execute
from tests.kit.rows import do, query, record, store
from tests.kit.support import wait_until
from tests.migration.psql import psql


async def test_a_call_is_written_with_its_cost(any_database: str) -> None:
    """In the pipeline, from what the provider reported."""
    async with CallLog(any_database, linger_ms=0) as call_log:
        with call_log.record(model="gpt-4o", provider="openai", prompt="hi") as call:
            call.set(prompt_tokens=1000, completion_tokens=100)
        with call_log.record(model="my-own", provider="openai", prompt="hi") as call:
            call.set(prompt_tokens=1000, completion_tokens=100)
        assert await call_log.aflush(60) == 0
    found = await query(any_database, f"SELECT model, cost_usd FROM {DEFAULT_TABLE} ORDER BY model")
    assert [(model, None if cost is None else Decimal(str(cost))) for model, cost in found] == [
        ("gpt-4o", Decimal("0.0035")),
        ("my-own", None),
    ]


async def test_what_went_into_the_providers_cache_costs_more(any_database: str) -> None:
    """Anthropic's surcharge, as the call is written and as it is computed anew; the figures stand in the row."""

    class Claude(FakeMessagesListChatModel):
        def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
            return {"ls_provider": "anthropic", "ls_model_name": "claude-sonnet-4-5", "ls_model_type": "chat"}

    told = {"cache_read": 100, "cache_creation": 0, "ephemeral_5m_input_tokens": 600, "ephemeral_1h_input_tokens": 200}
    usage: Any = {"input_tokens": 1000, "output_tokens": 10, "total_tokens": 1010, "input_token_details": told}
    async with CallLog(any_database, linger_ms=0) as call_log:
        await Claude(responses=[AIMessage("hi", usage_metadata=usage)]).ainvoke("hello")
        assert await call_log.aflush(60) == 0
        settings = call_log.settings
    theirs = Usage(
        input_tokens=1000, output_tokens=10, cache_read_tokens=100, cache_write_tokens=800, cache_write_1h_tokens=200
    )
    expected = calc_price(theirs, "claude-sonnet-4-5", provider_id="anthropic").total_price
    asked = f"SELECT cost_usd FROM {DEFAULT_TABLE}"
    ((cost,),) = await query(any_database, asked)
    assert Decimal(str(cost)) == expected
    await do(any_database, f"UPDATE {DEFAULT_TABLE} SET cost_usd = NULL")
    assert (await recompute(settings, Prices(), Filters(), do=True)).changed == 1
    ((cost,),) = await query(any_database, asked)
    assert Decimal(str(cost)) == expected


def test_prices_and_recompute(any_database: str, capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    """Unknown models are listed first; a rehearsal says what it would cost; rows with a cost stay unless --all."""
    tokens = {"prompt_tokens": 1000, "completion_tokens": 100}
    rows = [
        record(model="gpt-4o", provider="openai", **tokens),
        record(model="gpt-4o", provider="openai", cost_usd=Decimal(9), **tokens),
        record(model="my-own", provider="openai", **tokens),
    ]
    asyncio.run(store(load(database_url=any_database), *rows))

    def llmctx(*arguments: str) -> str:
        capsys.readouterr()
        assert cli.run(["--database-url", any_database, *arguments]) == 0
        return capsys.readouterr().out

    listed = json.loads(llmctx("prices", "--json"))
    assert [(one["model"], one["price"] is None, one["unpriced"]) for one in listed] == [
        ("my-own", True, 1),
        ("gpt-4o", False, 1),
    ]
    assert "unknown" in llmctx("prices").splitlines()[1]
    planned = json.loads(llmctx("recompute", "--json"))
    assert (planned["rows"], planned["changed"], planned["unknown"]) == (2, 1, 1)
    costs = f"SELECT count(cost_usd) FROM {DEFAULT_TABLE}"
    assert asyncio.run(query(any_database, costs)) == [(1,)]
    llmctx("recompute", "--yes")
    assert asyncio.run(query(any_database, costs)) == [(2,)]
    again = json.loads(llmctx("recompute", "--all", "--yes", "--json"))
    assert (again["changed"], round(again["after"], 6)) == (1, 0.007)


def test_ctrl_c_says_how_things_stand(database: str) -> None:
    """What was done stays, and the rest is done the next time."""
    asyncio.run(store(load(database_url=database), record(model="gpt-4o", prompt_tokens=1, completion_tokens=1)))
    execute(
        database,
        f"INSERT INTO {DEFAULT_TABLE} (call_id, created_at, model, provider, prompt_tokens, "
        "completion_tokens) SELECT gen_random_uuid(), now(), 'gpt-4o', 'openai', 1, 1 FROM generate_series(1, 12000)",
    )
    command = [sys.executable, "-m", "llmctx", "--database-url", database, "recompute", "--yes"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
    priced = f"SELECT count(cost_usd) FROM {DEFAULT_TABLE}"
    try:
        wait_until(lambda: asyncio.run(query(database, priced))[0][0] > 0, "the first rows")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=40)[1]
    finally:
        process.kill()
        process.wait(60)
    ((done,),) = asyncio.run(query(database, priced))
    assert process.returncode == 130, said
    assert "Interrupted. What was done stays: run it again to continue." in said
    assert 0 < done < 12_001
    assert asyncio.run(recompute(load(database_url=database), Prices(), Filters())).rows == 12_001 - done


def test_rows_without_a_model(empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that is not ours may have such: they have no price, and keep nobody else's from being said."""
    execute(
        empty_database,
        "CREATE TABLE biz_agent_llm_call_logs (call_id varchar(64) UNIQUE, model text, created_at timestamptz, "
        "prompt_tokens integer, completion_tokens integer)",
        "INSERT INTO biz_agent_llm_call_logs VALUES ('a', NULL, now(), 10, 10), ('b', '', now(), 10, 10), "
        "('c', 'gpt-4o', now(), 10, 10)",
    )
    migrate.upgrade(load(database_url=empty_database))
    assert cli.run(["--database-url", empty_database, "prices"]) == 0
    assert "gpt-4o" in capsys.readouterr().out
    assert cli.run(["--database-url", empty_database, "recompute", "--yes"]) == 0
    assert psql(empty_database, "SELECT call_id FROM biz_agent_llm_call_logs WHERE cost_usd > 0").strip() == "c"
