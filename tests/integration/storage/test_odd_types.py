"""Tables with columns of types that SQLAlchemy has no name for, or that no text is compared with: read as text."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.errors import LlmctxError, NotACallLog
from llmctx.core.record import DEFAULT_TABLE
from llmctx.settings import load
from llmctx.storage.engine import read_connection
from llmctx.storage.queries import calls
from llmctx.storage.reflection import reflect
from tests.conftest import execute

CALL = "00000000-0000-0000-0000-000000000001"
MADE = (
    "CREATE TYPE pair AS (a integer, b text)",
    f"""CREATE TABLE {DEFAULT_TABLE} (call_id uuid PRIMARY KEY, created_at timestamptz NOT NULL, model text,
        user_id integer[], session_id text, agent_key jsonpath, trace_id inet, thread_id timestamptz,
        conversation_id json, node point, provider pair, status int4range, finish_reason interval, success "char",
        place point)""",
    f"""INSERT INTO {DEFAULT_TABLE} VALUES ('{CALL}', now(), 'm', '{{1,2}}', 's', '$', '1.2.3.4', '2026-01-01',
        '{{"a": 1}}', '(1,2)', '(1,"x")', '[1,2)', '1 day', 't', '(1,2)')""",
)
LINES = (
    ["calls", "--user", "{1,2}"], ["calls", "--agent", "$"], ["calls", "--trace", "1.2.3.4/32"],
    ["calls", "--node", "(1,2)"], ["calls", "--status", "[1,2)"], ["users"], ["sessions"], ["stats", "--by", "agent"],
    ["stats", "--by", "status"], ["stats", "--by", "node"], ["prices"], ["coverage"], ["backfill"],
    ["erase", "--user", "{1,2}"], ["show", CALL], ["rollup"],
)  # fmt: skip


def test_every_command_reads_columns_of_any_type(
    empty_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no warning of a library is printed."""
    execute(empty_database, *MADE)
    monkeypatch.setenv("LLMCTX_DATABASE_URL", empty_database)
    monkeypatch.setenv("LLMCTX_JOURNAL_DIR", str(tmp_path / "journal"))
    files = (["export", "--to", str(tmp_path / f"x.{suffix}")] for suffix in ("csv", "jsonl", "parquet", "sqlite"))
    for line in (*LINES, *files):
        code = cli.run([*line, "--json"])
        out, err = capsys.readouterr()
        assert (code, "arning" in err) == (0, False), (line, out, err)
        found = json.loads(out)
        if line[0] in ("calls", "users", "sessions", "stats", "prices"):
            assert len(found) == 1, (line, out)
        if line[0] == "erase":
            assert found["found"] == 1
    monkeypatch.setenv("LLMCTX_TABLE", "others")
    execute(empty_database, "CREATE TABLE others (call_id uuid, created_at text, model text)")
    assert cli.run(["calls", "--json"]) == 1
    assert "its created_at is no timestamp" in capsys.readouterr().err


async def test_a_time_that_is_none_is_said_to_be_one_in_sqlite(tmp_path: Path) -> None:
    """Whatever stands there that no column of SQLite's refuses."""
    with sqlite3.connect(tmp_path / "x.db") as file:
        file.execute(f"CREATE TABLE {DEFAULT_TABLE} (call_id text, created_at datetime, model text)")
        file.execute(f"INSERT INTO {DEFAULT_TABLE} VALUES ('a', 'yesterday', 'm')")
        file.execute("CREATE TABLE others (call_id text, created_at text, model text)")
    for name, error, words in (
        (DEFAULT_TABLE, LlmctxError, "'yesterday'. Correct or"),
        ("others", NotACallLog, "time"),
    ):
        settings = load(database_url=f"sqlite:///{tmp_path / 'x.db'}", table=name)
        with pytest.raises(error, match=words):
            async with read_connection(settings) as connection:
                await calls(connection, await reflect(connection, settings))
