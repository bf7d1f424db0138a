"""The command line as people and scripts meet it: what it prints where, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE, Reason, Source, Status
from llmctx.identity.explanation import KEY
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.storage.engine import engine
from llmctx.storage.queries import coverage_advice
from llmctx.storage.table import call_log_table
from tests.conftest import execute
from tests.kit.rows import do

TABLE = call_log_table()
NOW = datetime.now(UTC).replace(microsecond=0)
EVIL = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] \u202eevil\u2028 \ud7ff"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Types `llmctx …` at a database, in a terminal of 80 columns."""

    def __init__(self, url: str, capture: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capture = capture

    def __call__(self, *arguments: str) -> Answer:
        self._capture.readouterr()
        code = cli.run(["--database-url", self.url, *arguments])
        return Answer(code, *self._capture.readouterr())


@pytest.fixture
def empty(any_empty_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Before `llmctx migrate`."""
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal(any_empty_database, capsys)


@pytest.fixture
def llmctx(any_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """After it."""
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal(any_database, capsys)


def fill(url: str, *rows: dict[str, Any]) -> None:
    """Store `rows`, each over the values of an ordinary call."""
    usual = dict.fromkeys(column.name for column in TABLE.columns) | {
        "model": "gpt-4o-mini",
        "session_id": "session-0001-abcdefgh",
        "user_id": "ada@clinic.example",
        "agent_key": "medication",
        "status": "ok",
        "success": True,
        "latency_ms": 1234,
        "identity_source": "context",
    }
    full = [
        {
            **usual,
            "call_id": UUID(int=(0x01A20000 + n << 96) + n),
            "created_at": NOW - timedelta(minutes=9 - n),
            **values,
        }
        for n, values in enumerate(rows)
    ]

    async def insert() -> None:
        source = engine(load(database_url=url))
        async with source.begin() as connection:
            await connection.execute(TABLE.insert(), full)
        await source.dispose()

    asyncio.run(insert())


NOBODY = {"session_id": None, "user_id": None, "identity_source": "none", "identity_reason": "no_scope"}


def test_migrate_makes_the_table_at_once_and_then_has_nothing_to_do(empty: Terminal) -> None:
    """The first command that anybody types works without a flag, and again."""
    assert empty("migrate", "check").code == 1
    planned = empty("migrate", "--plan")
    assert planned.code == 0
    assert planned.out.startswith(f"would: make table {DEFAULT_TABLE}")
    assert empty("migrate", "check").code == 1
    made = empty("migrate")
    assert made.code == 0
    assert made.out.startswith(f"done: make table {DEFAULT_TABLE}")
    assert "ready" in made.err
    again = empty("migrate")
    assert (again.code, again.out) == (0, "")
    assert "Nothing to do" in again.err
    assert empty("migrate", "check").code == 0


def test_downgrade_only_shows_until_yes(llmctx: Terminal) -> None:
    """Nothing that takes rows away happens by a slip."""
    fill(llmctx.url, {})
    shown = llmctx("migrate", "--downgrade")
    assert "drop table" in shown.out
    assert "--yes" in shown.err
    assert len(llmctx("calls", "--json").json) == 1
    if llmctx.url.startswith("postgresql"):
        return  # that database is shared by the session's tests
    assert llmctx("migrate", "--downgrade", "--yes").code == 0
    assert llmctx("calls").code == 1


def test_migrate_answers_in_json(empty: Terminal) -> None:
    """Scripts get the steps and whether they were taken."""
    assert empty("migrate", "--plan", "--json").json["done"] is False
    assert empty("migrate", "--json").json["done"] is True
    assert empty("migrate", "--json").json["steps"] == []
    behind = empty("migrate", "check", "--json")
    assert behind.json["table"] == "ours"


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (["migrate", "--check", "--json"], ["migrate", "check", "--json"]),
        (["migrate", "--sql"], ["migrate", "sql"]),
        (["migrate", "--sql", "--existing", "texts"], ["migrate", "sql", "--existing", "texts"]),
        (["migrate", "--partition", "--plan", "--json"], ["partition", "--plan", "--json"]),
        (["migrate", "--partition", "--rehearse"], ["migrate", "partition", "--rehearse"]),
    ],
    ids=lambda arguments: " ".join(arguments),
)  # fmt: skip
def test_former_spellings_of_migrate_still_work(
    database: str, capsys: pytest.CaptureFixture[str], former: list[str], now: list[str]
) -> None:
    """Scripts that say `migrate --check` go on; `--help` lists the commands alone."""
    llmctx = Terminal(database, capsys)
    assert llmctx(*former) == llmctx(*now)
    assert former[1] not in llmctx("migrate", "--help").out


def test_migrate_prints_sql_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    """For the owner of the database: data on stdout, and no connection."""
    answer = Terminal("postgresql://u:hunter2@nowhere.invalid/d", capsys)("migrate", "sql")
    assert answer.code == 0
    assert answer.out.startswith("BEGIN;")
    assert answer.out.rstrip().endswith("COMMIT;")


@pytest.mark.parametrize("verb", [["calls"], ["show", "01a2"], ["coverage"], ["stats"]])
def test_a_missing_table_names_the_command_that_makes_it(empty: Terminal, verb: list[str]) -> None:
    """Exit 1 and `llmctx migrate`, not a traceback."""
    execute(empty.url, "CREATE TABLE other (x integer)")
    answer = empty(*verb)
    assert (answer.code, answer.out) == (1, "")
    assert "llmctx migrate" in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("verb", [["calls"], ["migrate"], ["coverage", "--json"], ["stats"], ["migrate", "--check"]])
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/d", 3),
        ("postgresql://u:hunter2@nowhere.invalid/d", 3),
        ("mysql://u:hunter2@localhost/d", 2),
        ("nonsense", 2),
        ("", 2),
    ],
)
def test_a_wrong_url_and_an_absent_database_are_told_apart(
    capsys: pytest.CaptureFixture[str], url: str, code: int, verb: list[str]
) -> None:
    """2 for what can never work, 3 for what is not there; one line on stderr, no password; stdout is empty or JSON."""
    answer = Terminal(url, capsys)(*verb)
    if "--json" in verb:
        assert (answer.code, answer.json["exit_code"]) == (code, code)
        assert answer.json["error"] in answer.err
    else:
        assert (answer.code, answer.out) == (code, "")
    assert len(answer.err.splitlines()) == 1
    assert "LLMCTX_DATABASE_URL" in answer.err
    assert "hunter2" not in answer.err


def test_a_database_that_does_not_exist_is_said(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The server is there, the database is not: create it."""
    absent = re.sub(r"/\w+(\?|$)", r"/llmctx_not_there\1", postgres_url)
    answer = Terminal(absent, capsys)("migrate")
    assert answer.code == 3
    assert "createdb llmctx_not_there" in answer.err


def test_a_sqlite_file_that_is_not_there_is_not_made_by_looking(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path gets an answer, and no empty file."""
    answer = Terminal(sqlite_url, capsys)("calls")
    assert answer.code == 3
    assert "llmctx migrate" in answer.err
    assert not Path(sqlite_url.removeprefix("sqlite+aiosqlite:///")).exists()


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["nonsense"], ["show"], ["calls", "--since", "yesterday"], ["stats", "--by", "moon"],
     ["calls", "-n", "0"], ["coverage", "--fail-under", "101"], ["migrate", "--plan", "--check"]],
)  # fmt: skip
def test_wrong_usage_is_2(llmctx: Terminal, arguments: list[str]) -> None:
    """And says what is wrong on stderr."""
    answer = llmctx(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "Error" in answer.err


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["calls", "--database-url", "sqlite:///x.db"], "before the command: llmctx --database-url URL calls"),
        (["migrate", "sql", "--database-url=x"], "before the command: llmctx --database-url URL migrate sql"),
        (["erase", "ann"], "follows the name of its option: --user, --session"),
        (["calls", "5"], "-n"),
    ],
)
def test_what_was_meant_is_said(llmctx: Terminal, arguments: list[str], advice: str) -> None:
    """An option in the wrong place, and a value without its option."""
    answer = llmctx(*arguments)
    assert answer.code == 2
    assert advice in answer.err.splitlines()[-1]


def test_a_table_that_is_no_call_log(empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Partitioning it is refused in words, and doctor does not send to what refuses it."""
    terminal = Terminal(empty_database, capsys)
    assert "run `llmctx migrate`" in terminal("partition").err
    asyncio.run(do(empty_database, f"CREATE TABLE {DEFAULT_TABLE} (id serial PRIMARY KEY, user_id text)"))
    answer = terminal("partition")
    assert answer.code == 1
    assert "is not a call log" in answer.err
    assert "LLMCTX_TABLE" in answer.err
    (wrong,) = [one for one in terminal("doctor", "--json").json["findings"] if one["name"] == "migration"]
    assert "LLMCTX_TABLE" in wrong["cause"]
    assert not wrong["fix"].startswith("llmctx migrate")


def test_calls_show_null_where_an_id_is_missing(llmctx: Terminal) -> None:
    """The newest first; a missing id stands out as NULL, a failure as its status; the next command is named."""
    fill(llmctx.url, {}, NOBODY, {"status": "error", "success": False})
    answer = llmctx("calls")
    lines = answer.out.splitlines()
    assert len(lines) == 4
    assert lines[1].endswith("error")
    assert lines[2].count("NULL") == 2
    assert lines[3].endswith("1,234")
    assert "ada" in lines[3]
    short = answer.err.split()[-1]
    assert llmctx("show", short, "--json").json["call_id"] == llmctx("calls", "-n", "1", "--json").json[0]["call_id"]


def test_calls_can_be_narrowed(llmctx: Terminal) -> None:
    """Each filter of the command line reaches the query."""
    fill(
        llmctx.url,
        {},
        {"user_id": "bob", "model": "large"},
        {**NOBODY, "node": "n", "status": "lost", "success": False},
    )
    for arguments, count in [
        (["--user", "bob"], 1), (["--model", "large"], 1), (["--node", "n"], 1), (["--status", "lost"], 1),
        (["--errors"], 1), (["--unattributed"], 1), (["--agent", "medication"], 3), (["--session", "x"], 0),
        (["--since", "1h"], 3), (["--since", (NOW - timedelta(minutes=7)).isoformat()], 1), (["--until", "1h"], 0),
    ]:  # fmt: skip
        assert len(llmctx("calls", "--json", *arguments).json) == count, arguments
    assert "No calls match" in llmctx("calls", "--session", "x").err


def test_show_says_why_this_user(llmctx: Terminal) -> None:
    """One call, whole: who, why in a sentence, what it cost, what was said."""
    fill(
        llmctx.url,
        {"prompt_snapshot": '[{"role":"user","content":"Hello\\nthere"}]', "response_snapshot": '"Hi"',
         "prompt_tokens": 1200, "attributes": {"tags": ["vip"]}, "thread_id": "t-1"},
    )  # fmt: skip
    answer = llmctx("show", "01a20000")
    assert answer.code == 0
    for expected in (
        "ada@clinic.example", "session-0001-abcdefgh", "The scope that was open around the call", "1,200", "vip", "t-1",
        "  user: Hello\n  there\n", "answer\n  Hi",
    ):  # fmt: skip
        assert expected in answer.out, expected
    assert llmctx("show", "01a20000", "--json").json["why"]


def heard(*witnesses: tuple[str, str | None, str | None], **more: str) -> dict[str, Any]:
    """Attributes of a row that keeps what its witnesses said."""
    said = [{"source": source, "user_id": user, "session_id": session} for source, user, session in witnesses]
    return {"plan": "gold", KEY: {"witnesses": said, **more}}


def test_show_of_a_plain_row_says_that_one_witness_was_enough(llmctx: Terminal) -> None:
    """Nothing was kept of its hearing, for there was nothing to weigh."""
    fill(llmctx.url, {}, NOBODY)
    assert "No other source was needed" in llmctx("show", "01a20000").out
    assert llmctx("show", "01a20000", "--json").json["witnesses"] == []
    assert "No other source was needed" not in llmctx("show", "01a20001").out


def test_show_says_what_each_witness_said_and_why_it_was_not_believed(llmctx: Terminal) -> None:
    """One line for each; where the call was made; and nothing of it among the team's own attributes."""
    ada, session = "ada@clinic.example", "session-0001-abcdefgh"
    witnesses = [("context", ada, session), ("carried", ada, None), ("thread", "bob", "s-9"), ("late", None, None)]
    attributes = heard(*witnesses, where="shop/answers.py:42", route="POST /chat")
    attributes[KEY]["witnesses"][2]["note"] = "registered by another request"
    fill(llmctx.url, {"identity_reason": "conflict", "attributes": attributes})
    answer = llmctx("show", "01a20000")
    said = " ".join(answer.out.split())
    for expected in (
        f"context user {ada}, session {session}. Believed.",
        f"carried user {ada}. Agrees.",
        "thread user bob, session s-9. Not believed: names another user, and context comes before thread",
        "(registered by another request).",
        "late no user. Knew neither user nor session.",
        "made at shop/answers.py:42",
        "route POST /chat",
        'attributes {"plan": "gold"} ',
    ):
        assert expected in said, expected
    assert KEY not in answer.out
    found = llmctx("show", "01a20000", "--json").json
    assert found["attributes"] == {"plan": "gold"}
    assert (found["where"], found["route"]) == ("shop/answers.py:42", "POST /chat")
    assert [(one["source"], one["believed"]) for one in found["witnesses"]] == [
        *(("context", True), ("carried", False), ("thread", False), ("late", False)),
    ]


@pytest.mark.parametrize(
    ("values", "witnesses", "more", "expected"),
    [
        (
            {"user_id": "bob", "session_id": "s-9", "identity_source": "thread", "identity_reason": "conflict"},
            [("thread", "bob", "s-9"), ("context", "ada", "s-1")],
            {"inherited": "not believed"},
            "context user ada, session s-1. Not believed: names another user; the scope was inherited",
        ),
        (
            {"user_id": "ada", "session_id": "s-1", "identity_source": "context"},
            [("context", "ada", None), ("thread", "ada", "s-1")],
            {},
            "thread user ada, session s-1. Agrees, and provided the session_id.",
        ),
        (
            {"user_id": "ada", "session_id": "s-1", "identity_source": "context"},
            [("context", "ada", "s-1"), ("thread", "ada", "s-2")],
            {},
            "thread user ada, session s-2. Not believed: names another session, and context comes before thread.",
        ),
        (
            {**NOBODY, "identity_reason": "shared_thread"},
            [("context", "ada", "s-1")],
            {"inherited": "unclear"},
            "context user ada, session s-1. Not believed: its scope may belong to another user.",
        ),
    ],
    ids=["a worker", "it fills", "another session", "nobody is believed"],
)
def test_show_has_a_reason_for_each_witness(
    llmctx: Terminal,
    values: dict[str, Any],
    witnesses: list[tuple[str, str | None, str | None]],
    more: dict[str, str],
    expected: str,
) -> None:
    """Weaker, inherited, of the same opinion, or of no use."""
    fill(llmctx.url, {**values, "attributes": heard(*witnesses, **more)})
    assert expected in " ".join(llmctx("show", "01a20000").out.split())


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("reason", [None, *Reason])
def test_every_witness_and_reason_has_its_sentence(source: Source, reason: Reason | None) -> None:
    """No code is ever answered with the code."""
    from llmctx.identity.reasons import STATUSES, explain

    said = explain({"identity_source": str(source), "identity_reason": reason and str(reason)})
    assert len(said) == (1 if reason is None else 2)
    assert not any(sentence.startswith(("By ", "Reason:")) for sentence in said)
    assert set(STATUSES) == set(Status)


def test_coverage_is_a_gate(llmctx: Terminal) -> None:
    """Exit 1 below the share that was asked for, with the reason and its remedy on the screen."""
    fill(llmctx.url, {}, {}, {**NOBODY, "node": "summarise"})
    answer = llmctx("coverage", "--fail-under", "99.9")
    assert answer.code == 1
    assert answer.out.startswith("66.66 % of 3 rows")
    assert "summarise" in answer.out
    assert "carry()" in answer.out
    assert llmctx("coverage", "--fail-under", "66").code == 0
    found = llmctx("coverage", "--json").json
    assert (found["rows"], found["with_both"], round(found["share"])) == (3, 2, 67)


def test_coverage_says_what_the_misses_have_in_common_and_what_would_cure_them(llmctx: Terminal) -> None:
    """One or two sentences, and each remedy with the number of rows that it might save."""
    letters = {**NOBODY, "node": "summarise", "agent_key": None}
    made = heard(route="POST /letter", where="shop/letters.py:7")
    bare = {**NOBODY, "agent_key": None}
    fill(
        llmctx.url,
        {},
        *({**letters, "attributes": made} for _ in range(8)),
        {**bare, "attributes": heard(where="shop/jobs.py:9")},
        {**bare, "identity_reason": "unknown_thread"},
    )
    answer = llmctx("coverage")
    said = " ".join(answer.out.split())
    expected = "8 of 10 misses: node `summarise`, reason no_scope, made at shop/letters.py:7, route POST /letter."
    assert expected in said
    assert "wrap_graph up to 8 rows." in said
    assert "carry=True up to 1 row." in said
    assert "a shared registry up to 1 row." in said
    found = llmctx("coverage", "--json").json
    assert found["in_common"][0] == expected
    assert sum(cure["rows"] for cure in found["cures"]) == 10
    assert found["misses"][0]["route"] == "POST /letter"


NOTHING = "The {} misses have little in common: no reason, node or route stands out."


@pytest.mark.parametrize(
    ("groups", "sentences"),
    [
        ([], []),
        ([{"rows": 1, "identity_reason": "partial"}], ["1 of 1 miss: reason partial."]),
        (
            [{"rows": 41, "identity_reason": "no_scope", "node": "a"}, {"rows": 2, "identity_reason": "partial"}],
            ["41 of 43 misses: node `a`, reason no_scope.", "Another 2 of 43 misses: reason partial."],
        ),
        (
            [{"rows": 5, "identity_reason": "no_scope", "node": str(n)} for n in range(9)],
            ["45 of 45 misses: reason no_scope."],
        ),
        (
            [{"rows": 1, "identity_reason": str(n), "node": str(n)} for n in range(9)],
            [NOTHING.format(9)],
        ),
        ([{"rows": 3, "identity_reason": None}], [NOTHING.format(3)]),
    ],
)  # fmt: skip
def test_what_misses_have_in_common(groups: list[dict[str, Any]], sentences: list[str]) -> None:
    """Only what most of them share is said, and no more than two sentences."""
    assert coverage_advice.in_common(groups) == sentences


@pytest.mark.parametrize("reason", [None, "of another time", *Reason])
@pytest.mark.parametrize("node", [None, "summarise"])
def test_every_reason_has_its_cure(reason: str | None, node: str | None) -> None:
    """Each row counts once, whatever its reason."""
    (cure,) = coverage_advice.remedies([{"rows": 3, "identity_reason": reason, "node": node}])
    assert cure.rows == 3
    assert cure.how
    assert (cure.name == "something else") == (reason not in set(Reason))


def test_coverage_of_nothing_does_not_pass_a_gate(llmctx: Terminal) -> None:
    """A gate that is green because nothing was recorded would hide the worst failure."""
    assert llmctx("coverage").code == 0
    assert llmctx("coverage", "--fail-under", "1").code == 1


@pytest.mark.parametrize("by", ["user", "session", "agent", "model", "node", "day", "status"])
def test_stats_by_everything(llmctx: Terminal, by: str) -> None:
    """Each grouping prints a table and answers in JSON."""
    fill(llmctx.url, {"cost_usd": 0.25}, {}, NOBODY)
    answer = llmctx("stats", "--by", by)
    assert answer.code == 0
    assert answer.out.split()[0] == by
    assert sum(row["calls"] for row in llmctx("stats", "--by", by, "--json").json) == 3


VIEWS = [["calls"], ["show", "01a20000"], ["coverage"], ["stats", "--by", "user"], ["stats", "--by", "node"]]
WIDE = "一二三四五六七八九十" * 12


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_everything_fits_into_80_columns(llmctx: Terminal, view: list[str]) -> None:
    """Also with ids of 256 characters, wide scripts, and big numbers."""
    from rich.cells import cell_len

    ids = {"user_id": "u" * 256, "session_id": WIDE, "agent_key": WIDE, "node": "n" * 300, "model": "m" * 200}
    numbers = {"latency_ms": 2**31 - 1, "prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1, "cost_usd": 123456}
    prompt = json.dumps([{"role": "user", "content": WIDE}], ensure_ascii=False)
    attributes = heard(("context", "u" * 256, WIDE), ("thread", WIDE, None), where=WIDE, route="/r" * 100)
    fill(
        llmctx.url,
        {**ids, **numbers, "prompt_snapshot": prompt, "attributes": attributes},
        {**ids, **NOBODY, "identity_reason": "shared_thread", "attributes": attributes},
    )
    answer = llmctx(*view)
    assert answer.code == 0
    assert [line for line in answer.out.splitlines() if cell_len(line) > 80] == []


@pytest.mark.parametrize("view", [*VIEWS, *([*view, "--json"] for view in VIEWS)], ids=" ".join)
def test_nothing_from_a_row_reaches_the_terminal_as_a_command(llmctx: Terminal, view: list[str]) -> None:
    """Escape sequences, direction marks and rich's markup are only ever text."""
    columns = ("user_id", "session_id", "agent_key", "node", "model", "error_message", "prompt_snapshot", "thread_id")
    said = dict.fromkeys(("source", "user_id", "note"), EVIL)
    evil = {
        **dict.fromkeys(columns, EVIL),
        "identity_source": EVIL,
        "identity_reason": EVIL,
        "attributes": {
            EVIL: EVIL,
            KEY: {"witnesses": [said], "where": EVIL},
        },
    }
    fill(llmctx.url, {**evil, "status": "error", "success": False}, {**evil, "user_id": None, "status": EVIL})
    answer = llmctx(*view)
    assert answer.code == 0
    for text in (answer.out, answer.err):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", text)
    if "--json" in view:
        assert (
            EVIL in json.dumps(answer.json, ensure_ascii=False).encode().decode("unicode_escape", "ignore")
            or answer.json
        )
    elif view[0] == "show":
        assert "[bold red]x[/]" in answer.out


def test_as_a_process_it_keeps_data_and_words_apart(sqlite_url: str, tmp_path: Path) -> None:
    """`llmctx` and `python -m llmctx` run from anywhere; a pipe gets whole cells, a closed one no traceback."""
    env = {**os.environ, "LLMCTX_DATABASE_URL": sqlite_url}
    env.pop("COLUMNS", None)
    migrate.upgrade(load(database_url=sqlite_url))
    fill(sqlite_url, *({"user_id": f"{n}-" + "u" * 100} for n in range(9)))
    command = [sys.executable, "-m", "llmctx", "calls", "-n", "9"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "8-" + "u" * 100 in done.stdout
    assert done.stderr.startswith("One call in full")
    shell = f"{sys.executable} -m llmctx calls --json -n 9 | head -c 1"
    cut = subprocess.run(shell, shell=True, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert cut.stderr == ""


def test_version_and_help_need_no_database(capsys: pytest.CaptureFixture[str]) -> None:
    """They answer even where the URL is nonsense."""
    import llmctx as package

    answer = Terminal("nonsense", capsys)("--version")
    assert (answer.code, answer.out.strip()) == (0, f"llmctx {package.__version__}")
    listed = Terminal("nonsense", capsys)("--help").out
    for verb in ("demo", "migrate", "doctor", "calls", "show", "coverage", "stats"):
        assert f"\n  {verb} " in listed
