"""No input to any verb or setting ends in a traceback, `--json` is always JSON, and no terminal is written to.

More of it: `LLMCTX_TEST_FUZZ=100000 make test ARGS=tests/integration/cli/test_hostile.py`, with `LLMCTX_TEST_SEED`.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from llmctx import cli
from llmctx.cli.streams import safe_streams
from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit import hostile
from tests.kit.databases import role
from tests.kit.rows import do, record, store

MORE = int(os.environ.get("LLMCTX_TEST_FUZZ", "40"))
SEED = int(os.environ.get("LLMCTX_TEST_SEED", "1"))
ACTED_UPON = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMCTX_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("LLMCTX_DATABASE_URL", f"sqlite:///{tmp_path / 'x.db'}")
    monkeypatch.setenv("LLMCTX_CONNECT_TIMEOUT_S", "1")
    return tmp_path


@pytest.fixture
def filled(folder: Path) -> Path:
    """A SQLite database with rows whose ids are as hostile as the options."""
    migrate.upgrade(load())
    rows = [record(user_id=one, session_id=two) for one, two in zip(hostile.IDS, reversed(hostile.IDS), strict=True)]
    asyncio.run(store(load(), *rows))
    return folder


def judge(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run one command line: a sentence, an exit code, and nothing that a terminal acts on."""
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    assert code in (0, 1, 2, 3), (code, err[-2000:])
    assert "This should not happen" not in err, err[-2000:]
    assert "Traceback" not in err + out, err[-2000:]
    assert not ACTED_UPON.search(err + out), (ACTED_UPON.search(err + out), out[-500:], err[-500:])
    assert code == 0 or err.strip(), "a failure without a word"
    if "--json" in arguments and arguments[0] != "export":
        json.loads(out)


def lines_of(rng: random.Random) -> Iterator[list[str]]:
    yield from hostile.each_option(rng)
    yield from itertools.islice(hostile.at_random(rng), MORE)


def test_no_option_of_any_verb_ends_in_a_traceback(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option of each verb, alone and with others."""
    for arguments in lines_of(random.Random(SEED)):
        diagnostics.reset()
        try:
            judge(arguments, capsys)
        except AssertionError as problem:
            raise AssertionError([one[:100] for one in arguments]) from problem
        os.chdir(filled)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, some in hostile.SETTINGS.items() for value in some])
def test_no_setting_ends_in_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    """Whatever the verb does with it."""
    monkeypatch.setenv(key, value)
    for arguments in (["retain", "--json"], ["journal"], ["erase", "--user=x"]):
        judge(arguments, capsys)


DRY = (
    ["migrate", "--plan"], ["migrate", "check"], ["migrate", "sql"], ["partition"], ["calls"], ["export"], ["coverage"],
    ["stats"], ["prices"], ["journal"], ["journal", "replay"], ["recompute"], ["retain", "--rows", "1"], ["backfill"],
    ["backfill", "--map-query", "SELECT 'a' AS session_id, 'b' AS user_id"], ["erase", "--user", "x", "--mentions"],
    ["erase", "--session", "=HYPERLINK(1)", "--blank"],
)  # fmt: skip


async def test_dry_runs_need_no_right_to_write(folder: Path, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A role that may only read, in a database whose transactions are read-only: every verb says what it would do."""
    rows = [record(user_id=one, session_id=two) for one, two in zip(hostile.IDS, reversed(hostile.IDS), strict=True)]
    await store(load(database_url=own), *rows, record(user_id=None, session_id="@x"))
    async with role(own, "") as (url, name):
        await do(
            own, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
            f"REVOKE INSERT ON {DEFAULT_TABLE} FROM {name}",
            f"ALTER ROLE {name} SET default_transaction_read_only = on",
            f"REVOKE TEMPORARY ON DATABASE {make_url(own).database} FROM PUBLIC",
        )  # fmt: skip
        for arguments in DRY:
            code = await asyncio.to_thread(cli.run, ["--database-url", url, *arguments])
            out, err = capsys.readouterr()
            assert code in (0, 1), (arguments, out, err)
            assert "error" not in err, (arguments, err)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("calls --json >&-", 1, "Bad file descriptor"), ("calls --json >/dev/full", 1, "No space left"),
        ("export >/dev/full", 1, "No space left"), ("--help >/dev/full", 1, "No space left"),
        ("calls -n 0 --json >/dev/full 2>&1", 2, ""), ("calls --csv 2>/dev/full", 0, "csv"),
        ("stats <&- >&- 2>&-", 1, ""), ("calls | head -c 1", 0, ""), ("show nothing", 1, "nothing"),
    ],
)  # fmt: skip
def test_streams_that_are_closed_or_full(filled: Path, line: str, code: int, words: str) -> None:
    """A sentence where one can be said, an exit code, and no file becomes a stream."""
    shell = f"set -o pipefail; COLUMNS=0 {sys.executable} -m llmctx {line}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=filled, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert words in done.stderr or words == "csv"
    if words == "csv":
        rows = list(csv.DictReader(done.stdout.splitlines()))
        users = {row["user_id"] for row in rows}
        assert {"'=HYPERLINK(1)", "'@x", "'＝1", r"\x1b[2J\x1b]0;owned\x07"} <= users
        assert (filled / "x.db").stat().st_mode & 0o777 == 0o600


def test_arguments_that_are_not_utf8_are_said_to_be(
    any_database: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same words for each database, and as a mistake of the command's."""
    for line in (["erase", "--session", "\udcff"], ["calls", "--text", "a\udc80"]):
        assert cli.run(["--database-url", any_database, *line, "--json"]) == 2, line
        assert json.loads(capsys.readouterr().out) == {
            "error": "An argument or a setting holds bytes that are not UTF-8. Correct it.", "exit_code": 2,
        }  # fmt: skip


@pytest.mark.parametrize("size", ["²", "٣", "-5", "x", "9" * 5000, "1"])
def test_the_size_of_the_terminal_may_be_none(
    filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """Whatever COLUMNS and LINES hold."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, size)
    for arguments in (["calls"], ["stats", "--by", "user"], ["--help"]):
        judge(arguments, capsys)


@pytest.mark.parametrize(("words", "shown"), [("Event loop is closed", ""), ("broken", "RuntimeError('broken')")])
def test_a_thread_that_fails_is_no_traceback(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, words: str, shown: str
) -> None:
    """As aiosqlite's, where the command has ended before a file could not be opened."""

    def fail() -> None:
        raise RuntimeError(words)

    with safe_streams():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert "Traceback" not in capsys.readouterr().err + caplog.text
    assert caplog.messages == ([f"llmctx: in the background: {shown}"] if shown else [])


def test_the_query_of_a_mapping_cannot_change_anything(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor make a file."""
    before = sorted(filled.iterdir())
    for query in (f"DELETE FROM {DEFAULT_TABLE}", "VACUUM INTO 'y.db'", "ATTACH 'z.db' AS z", "PRAGMA user_version = 7",
                  f"SELECT 1 AS session_id, 2 AS user_id; DROP TABLE {DEFAULT_TABLE}"):  # fmt: skip
        assert cli.run(["backfill", "--map-query", query, "--json"]) == 2
        assert "Nothing was changed" in json.loads(capsys.readouterr().out)["error"]
    assert sorted(filled.iterdir()) == before
    assert cli.run(["calls", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(hostile.IDS)


def test_the_words_are_the_same_without_docstrings_and_without_forks(folder: Path) -> None:
    """Under `python -OO`, and where the system has no fork."""
    program = (
        "import os, sys; {}; from llmctx import cli; from llmctx.core.errors import InvalidToken; "
        "print(InvalidToken()); cli.run(['journal', '--help']); sys.exit(cli.run(['--help']))"
    )
    usual, *others = (
        subprocess.run([sys.executable, *flags, "-c", program.format(cut)], capture_output=True, text=True, check=True)
        for flags, cut in (([], "pass"), (["-OO"], "pass"), ([], "del os.fork, os.register_at_fork"))
    )
    assert "LLMCTX_HANDOVER_KEY" in usual.stdout
    assert [(one.stdout, one.stderr) for one in others] == [(usual.stdout, usual.stderr)] * 2
