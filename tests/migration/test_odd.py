"""Tables as teams really have them, adopted by their owner beside the application; `make adopt` does it at length."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from llmctx import bind, cli
from llmctx.calllog import CallLog
from llmctx.migrate import commands as migrate
from llmctx.migrate import partition as partitioning
from llmctx.settings import load
from tests.conftest import execute
from tests.kit.support import wait_for
from tests.migration.odd import APPLICATION, OWNER, READER, Clinic, Odd, columns_of, furnish, sum_of
from tests.migration.psql import dumped, psql

ROWS = 6_000


@pytest.fixture
def owned_database(empty_database: str) -> Iterator[str]:
    """A database that may have roles of its own."""
    yield empty_database
    for role in (OWNER, APPLICATION, READER):
        execute(empty_database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def of(url: str, role: str) -> str:
    return make_url(url).set(username=role).render_as_string(hide_password=False)


@pytest.mark.parametrize(("shape", "dressed"), [("numbers", True), ("unkeyed", False)])
async def test_an_odd_table(
    owned_database: str,
    shape: str,
    dressed: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adopted, partitioned where nothing is in the way, led back, written to, read: no row is lost or changed."""
    url, odd = owned_database, Odd(shape)
    await furnish(url, odd, ROWS, dressed=dressed)
    settings = load(database_url=of(url, OWNER), **odd.settings)
    for name, value in (("TABLE", odd.name), ("DB_SCHEMA", odd.schema)):
        monkeypatch.setenv(f"LLMCTX_{name}", value)
    columns, before = await columns_of(url, odd), dumped(url)
    had = await sum_of(url, odd, columns)
    async with Clinic(url, odd) as clinic:
        await wait_for(lambda: len(clinic.written) > 20, "the clinic")
        await asyncio.to_thread(migrate.upgrade, settings)
        adopted = dumped(url)
        if not dressed:
            await asyncio.to_thread(partitioning.partition, settings)
            assert await sum_of(url, odd, columns, where="model <> 'old way'") == had
            owners = (
                "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'agents'::regnamespace"
            )
            assert psql(url, f"{owners} AND relkind IN ('r', 'p')").strip() == OWNER
            await asyncio.to_thread(partitioning.partition, settings, back=True)
            assert dumped(url) == adopted
        reached = len(clinic.written)
        await wait_for(lambda: len(clinic.written) > reached + 20, "the clinic to go on")
    assert clinic.failed == []
    assert clinic.longest_s < 3, clinic.waits
    assert await sum_of(url, odd, columns, where="model <> 'old way'") == had
    stored = psql(url, f"SELECT count(*) FROM {odd.table} WHERE model = 'old way'").strip()
    assert int(stored) == len(clinic.written)

    def written_and_read() -> None:
        ids = {"session_id": "s'1", "user_id": "o'hara 🦓"}
        with CallLog(of(url, APPLICATION), **odd.settings) as log, bind(**ids), log.record(model="ours"):
            pass
        table = ["--database-url", url]
        for verb in (["calls", "-n", "10000"], ["calls", "--user", "o'hara 🦓"], ["users"], ["stats", "--by", "day"]):
            assert cli.run([*table, *verb]) == 0, verb
        assert "ours" in capsys.readouterr().out
        assert cli.run([*table, "export", "--to", str(tmp_path / "all.csv")]) == 0

    await asyncio.to_thread(written_and_read)
    await asyncio.to_thread(migrate.downgrade, settings)
    assert dumped(url) == before
