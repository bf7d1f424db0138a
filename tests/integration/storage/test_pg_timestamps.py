"""Rows of the far future and of antiquity: PostgreSQL keeps 294276 AD and 44 BC, Python's calendar ends at 9999."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import execute
from tests.migration.psql import psql

T = DEFAULT_TABLE
TIMES = ("294276-12-31 23:59:59", "0044-03-15 BC", "4713-01-01 BC", "infinity", "-infinity",
         "9999-12-31 23:59:59.999999", "0001-01-01", "2024-02-29 12:00:00.000001")  # fmt: skip


def far(url: str, kind: str, key: str) -> str:
    """An adopted table with two rows for each of `TIMES`, one of user u and one of nobody. Returns what is in it."""
    execute(
        url,
        f"CREATE TABLE {T} (call_id varchar(64) {key}, model text NOT NULL, user_id text, session_id text, "
        f"created_at {kind} NOT NULL, finished_at {kind}, prompt_snapshot text)",
        *(
            f"INSERT INTO {T} VALUES ('{name}-{n}', 'm', {user}, 's', '{at}', '{at}', '\"canary\"')"
            for n, at in enumerate(TIMES)
            for name, user in (("known", "'u'"), ("lost", "NULL"))
        ),
    )
    migrate.upgrade(load(database_url=url))
    return psql(url, f"SELECT call_id, created_at, finished_at FROM {T} ORDER BY 1")


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""], ids=["keyed", "unkeyed"])
@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_rows_of_times_that_python_has_not(
    empty_database: str, kind: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They are listed, handed out, filled, and forgotten as others are; their times stay what they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMCTX_DATABASE_URL", empty_database)
    times = far(empty_database, kind, key)
    for verb in (
        ["calls", "-n", "50"], ["calls", "--user", "u"], ["calls", "--unattributed"], ["show", "known-0"], ["sessions"],
        ["users"], ["stats", "--by", "day"], ["stats", "--by", "user"], ["coverage"], ["recompute"], ["doctor"],
        ["rollup"], ["stats", "--by", "day"],
    ):  # fmt: skip
        assert cli.run(verb) in ((0, 1) if verb[0] in ("coverage", "doctor") else (0,)), verb
        assert cli.run([*verb, "--json"]) in ((0, 1) if verb[0] in ("coverage", "doctor") else (0,)), verb
    for format_ in ("jsonl", "csv", "sqlite", "parquet"):
        assert cli.run(["export", "--to", f"all.{format_}"]) == 0, format_
    handed = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(handed) == 2 * len(TIMES)
    assert cli.run(["backfill", "--yes"]) == 0
    filled = psql(empty_database, f"SELECT count(*) FROM {T} WHERE user_id = 'u' AND identity_source LIKE 'backfill:%'")
    assert int(filled) == len(TIMES)
    assert psql(empty_database, f"SELECT call_id, created_at, finished_at FROM {T} ORDER BY 1") == times
    assert cli.run(["erase", "--user", "u", "--yes"]) == 0
    assert psql(empty_database, f"SELECT count(*) FROM {T}").strip() == "0"
    assert "Traceback" not in capsys.readouterr().err
