"""A default partition that holds too much for one lock is emptied beside its writers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE
from llmctx.settings import load
from llmctx.storage.retention import Policy, large_default, retain
from llmctx.storage.retention import partitions as partitions_module
from tests.kit.months import NOW, fresh
from tests.kit.rows import do, query, record, store


async def test_months_that_were_forgotten(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default partition holds too much to be held up, the months begin in two days, beside those who write.

    Broken off anywhere, the next run goes on; rows that are dated ahead are where they belong in the end.
    """
    monkeypatch.setattr(large_default, "LARGE_BYTES", 0)
    settings = await fresh(empty_database)
    await do(
        empty_database, f"ALTER TABLE {DEFAULT_TABLE} ADD twice integer GENERATED ALWAYS AS (latency_ms * 2) STORED"
    )
    old = record(created_at=NOW, latency_ms=4)
    await store(settings, old, *(record(created_at=NOW + timedelta(days=days)) for days in (1, 3, 20)))
    report = await retain(settings, Policy(ahead=1), now=NOW)
    assert [step.partition(" for ")[2] for step in report.steps] == ["2031-03, from 2031-03-17 on", "2031-04"]
    role = "llmctx_test_writer"
    await do(
        empty_database,
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT INSERT ON {DEFAULT_TABLE} TO {role}",
    )
    patiently, runs, calls = partitions_module.run_patiently, 0, 0

    async def and_break(*given: Any) -> None:
        nonlocal calls
        await patiently(*given)
        calls += 1
        ahead = record(created_at=NOW + timedelta(days=10))
        await store(load(database_url=make_url(empty_database).set(username=role).render_as_string(False)), ahead)
        if calls % 4 != 3:  # else it would never come to the attaching
            raise KeyboardInterrupt

    monkeypatch.setattr(large_default, "run_patiently", and_break)
    try:
        while runs < 10:
            runs += 1
            try:
                await retain(settings, Policy(ahead=1), do=True, now=NOW)
            except KeyboardInterrupt:
                continue
            break
    finally:
        await do(empty_database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
    assert runs == 7
    count = "SELECT count(*) FROM ONLY " + DEFAULT_TABLE
    assert await query(empty_database, f"{count}_default") == [(2,)]
    assert await query(empty_database, f"{count}_p2031_03") == [(1 + calls,)]
    assert await query(empty_database, f"{count}_p2031_04") == [(1,)]
    assert (await retain(settings, Policy(ahead=1), do=True, now=NOW)).steps == []
    report = await retain(settings, Policy(ahead=0), now=datetime(2031, 5, 30, tzinfo=UTC))
    assert "2031-05 stays in the default partition" in report.notes[0]
