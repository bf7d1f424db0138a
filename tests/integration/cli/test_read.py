"""The reading verbs over tables that llmctx did not make, and calls as they come in."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE
from llmctx.settings import load
from tests.conftest import ROOT, execute
from tests.kit import older
from tests.kit.rows import record, store

VERBS = [
    ["calls"], ["calls", "--errors"], ["calls", "--user", "7"], ["calls", "--user", "ada"], ["calls", "--status", "ok"],
    ["calls", "--unattributed"], ["calls", "--text", "question"], ["calls", "--node", "n"], ["show", "call-3"],
    ["sessions", "--since", "2020-01-01"], ["sessions", "s-7"], ["users", "--since", "2020-01-01"], ["coverage"],
    ["prices"], ["recompute"], ["stats", "--by", "user"], ["stats", "--by", "status"], ["stats", "--by", "day"],
    ["stats", "--by", "node"], ["export", "--user", "7"], ["retain", "--rows", "3"], ["backfill"],
]  # fmt: skip


class Terminal:
    def __init__(self, url: str, capture: pytest.CaptureFixture[str]) -> None:
        self.url, self._capture = url, capture

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capture.readouterr()
        return cli.run(["--database-url", self.url, *arguments]), *self._capture.readouterr()


@pytest.fixture
def llmctx(
    empty_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return Terminal(empty_database, capsys)


@pytest.mark.parametrize("shape", older.SHAPES)
def test_every_verb_works_before_anything_is_adopted(llmctx: Terminal, shape: older.Shape) -> None:
    """What its columns lack is left out; numbered users are found by their number; 80 columns are enough."""
    rows = [older.row(shape, n) for n in range(1, 4)]
    rows.append(
        older.row(shape, 4, user_id=None, success=False, call_id='o\'hara "4"', created_at="2099-01-01 00:00:00")
    )
    execute(llmctx.url, *older.made(shape), *rows)
    without_cost = {"recompute"}
    for verb in VERBS if shape == "numbered" else ():
        code, out, err = llmctx(*verb)
        assert code == (1 if verb[0] in without_cost else 0), (verb, err)
        if verb[0] != "export":
            assert max(map(len, out.splitlines()), default=0) <= 80, (verb, out)
    calls = json.loads(llmctx("calls", "--json")[1])
    assert [call["call_id"] for call in calls] == ['o\'hara "4"', "call-3", "call-2", "call-1"]
    assert [call["call_id"] for call in json.loads(llmctx("calls", "--errors", "--json")[1])] == ['o\'hara "4"']
    assert len(json.loads(llmctx("calls", "--status", "ok", "--json")[1])) == 3
    assert len(json.loads(llmctx("calls", "--user", "7", "--json")[1])) == 3
    assert json.loads(llmctx("calls", "--user", "ada", "--json")[1]) == []
    (user,) = json.loads(llmctx("users", "--since", "2020-01-01", "--json")[1])
    assert (str(user["user_id"]), user["calls"], user["sessions"]) == ("7", 3, 1)
    listed = list(csv.DictReader(io.StringIO(llmctx("stats", "--by", "user", "--csv")[1])))
    assert {(line["user"], line["calls"]) for line in listed} == {("7", "3"), ("", "1")}
    assert "question 3" in llmctx("show", "call-3")[1]
    assert "question 1" in llmctx("sessions", "s-7")[1]


@pytest.mark.parametrize("verb", [["calls"], ["erase", "--user", "u", "--yes"], ["retain", "--rows", "1", "--yes"],
                                  ["backfill", "--yes"], ["export"], ["recompute", "--yes"], ["prices"]])  # fmt: skip
def test_a_table_that_is_no_call_log_is_left_alone(llmctx: Terminal, verb: list[str]) -> None:
    """An error that says so, and exit 1."""
    execute(
        llmctx.url,
        f"CREATE TABLE {DEFAULT_TABLE} (user_id text, created_at timestamptz)",
        f"INSERT INTO {DEFAULT_TABLE} VALUES ('u', '2001-01-01')",
    )
    code, out, err = llmctx(*verb)
    assert (code, out) == (1, "")
    assert "is not a call log" in err


@pytest.mark.parametrize(
    "verb", [["erase", "--user", "u", "--yes"], ["retain", "--rows", "1", "--yes"], ["backfill", "--yes"]]
)
def test_a_role_without_the_right_is_told(llmctx: Terminal, verb: list[str]) -> None:
    """Nothing is changed, and the error says what is lacking."""
    role = "reader_" + os.urandom(4).hex()
    from sqlalchemy import make_url

    execute(
        llmctx.url, *older.made("loose"), older.row("loose", 1, user_id="u"), older.row("loose", 2, user_id=None),
        f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )  # fmt: skip
    try:
        url = make_url(llmctx.url).set(username=role).render_as_string(hide_password=False)
        code, _, err = Terminal(url, llmctx._capture)(*verb)
        assert code == 1
        assert "permission denied" in err.lower()
        assert len(json.loads(llmctx("calls", "--json")[1])) == 2
    finally:
        execute(llmctx.url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_lists_are_walked_by_their_cursors(any_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With --before or --after an object with the neighbours' cursors; a first page is asked for with a time."""
    settings = load(database_url=any_database)
    asyncio.run(store(settings, *(record(session_id=f"s-{n}", user_id=f"u-{n}") for n in range(5))))
    llmctx = Terminal(any_database, capsys)
    for verb, key in (("calls", "call_id"), ("sessions", "session_id"), ("users", "user_id")):
        (code, out, _), found = llmctx(verb, "-n", "2", "--json", "--before", "0s"), []
        while code == 0:
            page = json.loads(out)
            found += [row[key] for row in page["data"]]
            if page["next"] is None:
                break
            code, out, _ = llmctx(verb, "-n", "2", "--json", "--before", page["next"])
        assert len(set(found)) == len(found) == 5, verb
        newer = json.loads(llmctx(verb, "-n", "9", "--json", "--after", page["previous"])[1])
        assert [row[key] for row in newer["data"]] == found[:4]
        assert [row[key] for row in json.loads(llmctx(verb, "--json")[1])] == found, "a list, as ever"
        assert llmctx(verb, "--before", "nonsense")[0] == 2
        assert llmctx(verb, "--before", "0s", "--after", "1h")[0] == 2


def test_calls_are_followed(any_database: str) -> None:
    """Those that are there, then those that end from now on, each once."""
    settings = load(database_url=any_database)
    asyncio.run(store(settings, record(user_id="before")))
    command = [sys.executable, "-m", "llmctx", "--database-url", any_database, "calls", "-f", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["user_id"] == "before"
        asyncio.run(store(settings, record(user_id="after")))
        assert json.loads(process.stdout.readline())["user_id"] == "after"
    finally:
        process.kill()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
