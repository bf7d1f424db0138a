"""Handing rows out: whole, in every form, in constant memory."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from llmctx import cli
from llmctx.core.record import COLUMNS, DEFAULT_TABLE
from llmctx.ops import export
from llmctx.settings import load
from llmctx.storage.filters import Filters
from tests.conftest import ROOT, execute
from tests.kit import older
from tests.kit.rows import do, query, record, store

ODD = 'he said "hi",\nthen\x0bleft; 量 👋 \\u0000'


async def filled(url: str) -> None:
    await store(
        load(database_url=url),
        record(user_id="ada", prompt_snapshot=json.dumps(ODD), error_message=ODD, cost_usd=Decimal("0.000000001"),
               attributes={"a": [1, None, ODD]}, temperature=0.5, streamed=True),
        record(user_id="o'hara", prompt_snapshot=""),
        record(user_id="bob"),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "csv", "sqlite"])
async def test_what_is_handed_out_is_what_was_there(any_layout: str, tmp_path: Path, form: export.Format) -> None:
    """Every column of the rows that were asked for, and only those; odd text survives, in CSV with visible escapes."""
    await filled(any_layout)
    settings = load(database_url=any_layout)
    assert await export.count(settings, Filters(user="ada")) == 1
    to = tmp_path / f"out.{form}"
    assert await export.export(settings, Filters(user="ada"), to, form) == 1
    assert to.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    (row,) = rows_of(to, form)
    assert set(COLUMNS) <= set(row)
    assert (row["user_id"], row["error_message"]) == ("ada", ODD.replace("\x0b", r"\x0b") if form == "csv" else ODD)
    assert json.loads(row["prompt_snapshot"]) == ODD
    attributes = row["attributes"] if form == "jsonl" else json.loads(row["attributes"])
    assert attributes == {"a": [1, None, ODD]}
    assert Decimal(row["cost_usd"]) == Decimal("0.000000001")
    assert datetime.fromisoformat(row["created_at"]).tzinfo is not None
    with pytest.raises(Exception, match="already exists"):
        await export.export(settings, Filters(), to, form)
    everybody = tmp_path / f"all.{form}"
    assert await export.export(settings, Filters(), everybody, form) == 3


def rows_of(path: Path, form: str) -> list[dict[str, Any]]:
    if form == "jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    if form == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f"SELECT * FROM {DEFAULT_TABLE}")]
    finally:
        connection.close()


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_an_older_table_is_handed_out_with_its_own_columns(
    empty_database: str, tmp_path: Path, shape: older.Shape
) -> None:
    """Numbered users are found by their number, times say their zone."""
    await do(empty_database, *older.made(shape), *(older.row(shape, n, user_id=n) for n in range(1, 4)))
    settings = load(database_url=empty_database)
    to = tmp_path / "out.jsonl"
    since = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
    assert await export.export(settings, Filters(user="2", since=since), to, "jsonl") == 1
    (row,) = rows_of(to, "jsonl")
    assert (row["call_id"], str(row["user_id"])) == ("call-2", "2")
    assert "id" in row
    assert row["created_at"] == "2026-11-20T12:02:00+00:00"
    assert await export.count(settings, Filters(user="ada")) == 0


def test_what_cannot_be_written_is_said_beforehand(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, half a file or a traceback."""

    def llmctx(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        return cli.run(["--database-url", database, "export", *arguments]), capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert llmctx("--to", str(tmp_path / "a.parquet")) == (2, ANY_PYARROW)
    assert llmctx("--format", "sqlite")[0] == 2
    assert llmctx("--to", str(tmp_path / "a.docx"))[0] == 2
    assert llmctx("--to", str(tmp_path / "no" / "a.csv"))[0] == 1
    assert list(tmp_path.iterdir()) == []
    assert llmctx("--to", str(tmp_path / "a.csv"))[0] == 0


ANY_PYARROW = 'error: Parquet needs an extra: pip install "llmctx[parquet]". Or choose jsonl, csv or sqlite.\n'


async def test_parquet_has_the_types_of_the_columns(any_database: str, tmp_path: Path) -> None:
    """Numbers, flags and times are what they are, exact money and JSON are text, and odd text survives."""
    import pyarrow.parquet

    await filled(any_database)
    assert await export.export(load(database_url=any_database), Filters(), tmp_path / "a.parquet", "parquet") == 3
    found = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    kinds = {field.name: str(field.type) for field in found.schema}
    assert kinds["created_at"] == "timestamp[us, tz=UTC]"
    assert (kinds["latency_ms"], kinds["temperature"], kinds["success"], kinds["cost_usd"]) == (
        "int64", "double", "bool", "string",
    )  # fmt: skip
    rows = {row["user_id"]: row for row in found.to_pylist()}
    ada = rows["ada"]
    assert (ada["error_message"], json.loads(ada["attributes"])) == (ODD, {"a": [1, None, ODD]})
    assert (ada["cost_usd"], ada["temperature"], ada["streamed"]) == ("0.000000001", 0.5, True)
    assert ada["created_at"].tzinfo is not None
    assert (rows["o'hara"]["prompt_snapshot"], rows["bob"]["prompt_snapshot"]) == ("", None)


def test_memory_does_not_grow_with_the_rows(database: str, tmp_path: Path) -> None:
    """40 MB of rows pass through a process that never holds them."""
    execute(
        database,
        f"INSERT INTO {DEFAULT_TABLE} (call_id, created_at, model, prompt_snapshot) "
        "SELECT gen_random_uuid(), now() - n * interval '1 second', 'm', repeat(md5(n::text), 128) "
        "FROM generate_series(1, 10000) n",
    )
    program = (
        "import asyncio, resource, sys\nfrom pathlib import Path\nfrom llmctx.ops import export\n"
        "from llmctx.storage.filters import Filters\nfrom llmctx.settings import load\n"
        "settings = load(database_url=sys.argv[1])\n"
        "peaks = []\n"
        "def note(more): peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "work = export.export(settings, Filters(), Path(sys.argv[2]), 'jsonl', progress=note)\n"
        "print(asyncio.run(work), peaks[20], peaks[-1])\n"
    )
    out = tmp_path / "all.jsonl"
    arguments = [sys.executable, "-c", program, database, str(out)]
    said = subprocess.run(arguments, capture_output=True, text=True, timeout=100, cwd=ROOT, check=True).stdout
    rows, early_kib, peak_kib = map(int, said.split())
    assert rows == 10000
    assert out.stat().st_size > 40e6
    assert peak_kib - early_kib < 8_000


async def test_a_break_leaves_no_file(database: str, tmp_path: Path) -> None:
    """Ctrl-C in the middle: neither the file nor a part of it."""
    await filled(database)

    def interrupt(more: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await export.export(load(database_url=database), Filters(), tmp_path / "a.csv", "csv", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert len(await query(database, f"SELECT 1 FROM {DEFAULT_TABLE}")) == 3


async def test_a_kill_leaves_no_file_that_looks_whole(database: str, tmp_path: Path) -> None:
    """The next run takes what is left away."""
    await filled(database)
    program = (
        "import asyncio, os, signal, sys\nfrom pathlib import Path\nfrom llmctx.ops import export\n"
        "from llmctx.storage.filters import Filters\nfrom llmctx.settings import load\n"
        "def die(more): os.kill(os.getpid(), 9)\n"
        "settings = load(database_url=sys.argv[1])\n"
        "asyncio.run(export.export(settings, Filters(), Path(sys.argv[2]), 'csv', progress=die))\n"
    )
    to = tmp_path / "a.csv"
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, database, str(to)], timeout=60, cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".a.csv.partial"]
    assert await export.export(load(database_url=database), Filters(), to, "csv") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


async def test_all_of_a_table_is_not_sorted(database: str, tmp_path: Path) -> None:
    """The database would write all of it down once more; what one user did is in its order."""
    seen: list[str] = []
    times = [datetime(2026, 11, day, tzinfo=UTC) for day in (3, 1, 2)]
    await store(load(database_url=database), *(record(user_id="ada", created_at=time) for time in times))
    with listening(seen):
        await export.export(load(database_url=database), Filters(), tmp_path / "all.jsonl", "jsonl")
        await export.export(load(database_url=database), Filters(user="ada"), tmp_path / "ada.jsonl", "jsonl")
    assert ["ORDER BY" in statement for statement in seen if "prompt_snapshot" in statement] == [False, True]
    told = [row["created_at"] for row in rows_of(tmp_path / "ada.jsonl", "jsonl")]
    assert told == [time.isoformat() for time in sorted(times)]


@contextmanager
def listening(seen: list[str]) -> Iterator[None]:
    """All statements that any engine sends."""

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_numbers_that_no_machine_word_holds_are_written_out(tmp_path: Path) -> None:
    """As JSON has them, whatever else stands in the row."""
    told = {"n": 2**70, "at": datetime(2026, 1, 2, tzinfo=UTC), "cost": Decimal("1E-9"), "half": "\ud83d"}
    back = json.loads(export._line(told))
    assert back == {"n": 2**70, "at": "2026-01-02T00:00:00+00:00", "cost": "0.000000001", "half": "\ud83d"}


def test_columns_that_differ_by_case_alone(empty_database: str, tmp_path: Path) -> None:
    """SQLite takes them for one: the second is numbered, and its values are there."""
    execute(
        empty_database,
        'CREATE TABLE biz_agent_llm_call_logs (call_id text, model text, created_at timestamptz, "Model" text)',
        "INSERT INTO biz_agent_llm_call_logs VALUES ('a', 'm', now(), 'M')",
    )
    path = tmp_path / "all.sqlite"
    asyncio.run(export.export(load(database_url=empty_database), Filters(), path, "sqlite"))
    with closing(sqlite3.connect(path)) as made:
        assert made.execute("SELECT model, Model_2 FROM biz_agent_llm_call_logs").fetchall() == [("m", "M")]
