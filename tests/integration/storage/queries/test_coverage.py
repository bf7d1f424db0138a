"""Coverage counts calls by source and groups those without ids."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.identity.explanation import KEY
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import engine, read_connection
from llmctx.storage.queries import Filters, token_gaps
from llmctx.storage.queries import coverage_advice as advice
from llmctx.storage.reflection import reflect
from tests.kit.calls import NOON, TABLE, insert, row
from tests.kit.rows import do


async def test_coverage_counts_by_witness_and_says_what_the_misses_share(connection: AsyncConnection) -> None:
    """Both ids or it is a miss; misses are grouped by reason, node, agent and route."""
    await insert(
        connection,
        *(row(n) for n in range(6)),
        row(6, identity_source="thread", identity_reason="partial", session_id=None),
        row(7, identity_source="none", identity_reason="no_scope", session_id=None, user_id=None, node="summarise"),
        row(8, identity_source="none", identity_reason="no_scope", session_id=None, user_id=None, node="summarise"),
    )
    found = await queries.coverage(connection, TABLE)
    assert (found.rows, found.with_both) == (9, 6)
    assert found.share == pytest.approx(66.667, abs=0.01)
    assert found.by_source == [
        {"identity_source": "context", "rows": 6, "with_both": 6},
        {"identity_source": "none", "rows": 2, "with_both": 0},
        {"identity_source": "thread", "rows": 1, "with_both": 0},
    ]
    assert {each["identity_reason"]: each["rows"] for each in found.by_reason} == {None: 6, "no_scope": 2, "partial": 1}
    first = found.misses[0]
    assert (first["identity_reason"], first["node"], first["rows"]) == ("no_scope", "summarise", 2)
    assert first["last"] == NOON + timedelta(minutes=8)
    only_ada = await queries.coverage(connection, TABLE, Filters(user="ada"))
    assert (only_ada.rows, only_ada.with_both) == (7, 6)


def told(**values: Any) -> dict[str, Any]:
    """Attributes of a row that keeps what was said of its call, and one of the team's own."""
    return {"plan": "gold", KEY: {"witnesses": [], **values}}


async def test_misses_are_grouped_by_route_and_place(connection: AsyncConnection) -> None:
    """The route and the line come out of the attributes; rows that do not say are a group like any other."""
    lost = {"identity_source": "none", "identity_reason": "no_scope", "session_id": None, "user_id": None}
    chat = told(route="POST /chat", where="shop/answers.py:42")
    await insert(
        connection,
        row(1, attributes=chat),  # it has its ids
        row(2, **lost, attributes=chat),
        row(3, **lost, attributes=told(route="POST /chat", where="shop/answers.py:50")),
        row(4, **lost, attributes=told(route="GET /'quoted\"/{id}")),
        row(5, **lost, attributes={KEY: "a team of its own"}),
        row(6, **lost, attributes=[1, 2]),
        row(7, **lost),
    )
    found = await queries.coverage(connection, TABLE)
    assert [(each["route"], each["rows"]) for each in found.misses] == [
        *((None, 3), ("POST /chat", 2), ("GET /'quoted\"/{id}", 1)),
    ]
    assert found.misses[1]["last"] == NOON + timedelta(minutes=3)
    places = {(each["route"], each["where"]): each["rows"] for each in found.by_place}
    assert places["POST /chat", "shop/answers.py:42"] == places["POST /chat", "shop/answers.py:50"] == 1
    assert sum(each["rows"] for each in found.by_place) == 6


async def test_a_table_without_attributes_has_its_coverage(any_empty_database: str) -> None:
    """An older table is counted as well, without routes."""
    settings = load(database_url=any_empty_database)
    kinds = {"call_id": "char(32)", "created_at": "timestamp"}
    if settings.is_postgresql:
        kinds = {"call_id": "uuid", "created_at": "timestamptz"}
    columns = [name for name in TABLE.c.keys() if name != "attributes"]  # noqa: SIM118  not a dict
    source = engine(settings)
    async with source.begin() as made:
        fields = ", ".join(f"{name} {kinds.get(name, 'text')}" for name in columns)
        await made.execute(text(f"CREATE TABLE {TABLE.name} ({fields})"))
        values = "'01a2000000000000000000000000000a', '2026-11-20 12:00:00', 'm'"
        await made.execute(text(f"INSERT INTO {TABLE.name} (call_id, created_at, model) VALUES ({values})"))
    await source.dispose()
    async with read_connection(settings) as opened:
        found = await queries.coverage(opened, await reflect(opened, settings))
    assert (found.rows, found.with_both) == (1, 0)
    assert (found.misses[0]["route"], found.misses[0]["rows"]) == (None, 1)


async def test_misses_of_adopted_rows_without_a_time(empty_database: str) -> None:
    """The last of them is the last that is known."""
    await do(
        empty_database,
        "CREATE TABLE biz_agent_llm_call_logs (call_id uuid, created_at timestamptz, model text, user_id text)",
        "INSERT INTO biz_agent_llm_call_logs VALUES (NULL, NULL, 'm', 'ada'), (NULL, NULL, 'm', NULL)",
    )
    settings = load(database_url=empty_database)
    async with read_connection(settings) as connection:
        found = await queries.coverage(connection, await reflect(connection, settings))
    assert [(miss["rows"], miss["last"]) for miss in found.misses] == [(2, None)]


async def test_coverage_of_nothing_has_no_share(connection: AsyncConnection) -> None:
    """An empty table is neither 0 nor 100 %."""
    found = await queries.coverage(connection, TABLE)
    assert (found.rows, found.share, found.misses) == (0, None, [])


async def test_threads_in_place_of_sessions_name_the_setting(connection: AsyncConnection) -> None:
    """LangGraph's own convention: the thread is the session. Rows with a user lack nothing else."""
    threaded = {"identity_reason": "partial", "session_id": None, "thread_id": "t-1"}
    await insert(connection, *(row(n, **threaded) for n in range(4)))
    found = await queries.coverage(connection, TABLE)
    assert any("LLMCTX_SESSION=thread" in sentence for sentence in advice.in_common(found.by_place))
    assert [(one.name, one.rows) for one in advice.remedies(found.by_place)] == [("LLMCTX_SESSION=thread", 4)]
    nobody = {"identity_source": "none", "identity_reason": "anonymous_request", "session_id": None, "user_id": None}
    await insert(connection, row(5, **nobody, thread_id="t-1"), row(6, **nobody))
    found = await queries.coverage(connection, TABLE)
    assert not any("LLMCTX_SESSION=thread" in sentence for sentence in advice.in_common(found.by_place))
    assert [(one.name, one.rows) for one in advice.remedies(found.by_place)] == [
        ("LLMCTX_SESSION=thread", 4),
        ("identify", 2),
    ]


async def test_users_whom_only_clients_name_are_said_to_be_there(connection: AsyncConnection) -> None:
    """Of an anonymous request's rows alone, and as what it is: something to believe of services of one's own."""
    nobody = {"identity_source": "none", "identity_reason": "anonymous_request", "session_id": None, "user_id": None}
    sent = {KEY: {"witnesses": [], "refused": [{"user_id": "u-1", "session_id": None}]}}
    await insert(connection, row(1, **nobody), row(2, **nobody, attributes=sent), row(3, **nobody, attributes=sent))
    found = await queries.coverage(connection, TABLE)
    said = [sentence for sentence in advice.in_common(found.by_place) if "LLMCTX_TRUST_CONFIG=on" in sentence]
    assert [sentence.split(" came")[0] for sentence in said] == ["2 of 3 misses"]
    assert [(one.name, one.rows) for one in advice.remedies(found.by_place)] == [("identify", 3)]
    partial = {"identity_reason": "partial", "session_id": None}
    await insert(connection, *(row(n, **partial, attributes=sent) for n in range(4, 9)))
    found = await queries.coverage(connection, TABLE)
    assert sum(sentence.startswith("2 of 8 misses") for sentence in advice.in_common(found.by_place)) == 1


async def test_rows_that_were_blanked_count_for_nothing(connection: AsyncConnection) -> None:
    """Neither as rows nor as rows without tokens: so a share of them is one."""
    blanked = {"identity_reason": "erased", "session_id": None, "user_id": None}
    await insert(connection, row(1), row(2, **blanked), row(3, **blanked))
    found = await queries.coverage(connection, TABLE)
    assert (found.rows, found.erased, [one["rows"] for one in found.missing_tokens]) == (1, 2, [1])


async def test_missing_tokens_say_why_and_what_helps(connection: AsyncConnection) -> None:
    """Streams through a gateway are named with the setting that brings their figures."""
    nothing = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    await insert(
        connection,
        row(0, prompt_tokens=7),
        *(row(n, **nothing, usage_source="missing:stream") for n in range(1, 4)),
        row(4, **nothing, usage_source="missing:unfinished"),
        row(5, **nothing, usage_source=None),
    )
    missing = await queries.missing_tokens(connection, TABLE)
    assert {one["usage_source"]: one["rows"] for one in missing} == {
        "missing:stream": 3,
        "missing:unfinished": 1,
        None: 1,
    }
    assert (await queries.coverage(connection, TABLE)).missing_tokens == missing
    assert "stream_usage=True" in token_gaps.in_words(missing)[0]
    assert len(token_gaps.in_words(missing)) == 3
