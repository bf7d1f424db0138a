"""Forgetting somebody: afterwards a search finds nothing of theirs, and everything of everybody else's."""

from __future__ import annotations

import asyncio
import json

import pytest

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery.journal import Journal
from llmctx.identity.explanation import KEY
from llmctx.ops.erase import Subject, erase
from llmctx.settings import load
from tests.kit.rows import query, record, store
from tests.kit.subjects import CANARY, EVE, everything, of_eve


def others() -> list[CallRecord]:
    """Rows that must stay: of a user in a shared session, of nobody in a shared thread, and with evidence of Eve."""
    witnesses = [
        {"source": "context", "user_id": "ada", "session_id": "s-ada"},
        {"source": "thread", "user_id": EVE, "session_id": "s-eve"},
    ]
    return [
        record(user_id="ada", session_id="s-both"),
        of_eve(session_id="s-both"),
        record(user_id=None, session_id="s-both", prompt_snapshot='"whose?"'),
        record(user_id="ada", session_id="s-ada", identity_reason="conflict",
               attributes={"plan": "gold", KEY: {"witnesses": witnesses, "where": "a.py:1"}}),
        record(user_id="bob", session_id="s-bob", attributes={"friend": EVE, "said": f"ask {EVE} again", "n": 1}),
        record(user_id="eve", session_id="s-eve2"),
        record(user_id=None, session_id=None, thread_id="t-shared", identity_reason="shared_thread"),
        record(user_id=EVE, session_id="s-eve", thread_id="t-shared"),
    ]  # fmt: skip


def hers() -> list[CallRecord]:
    """Rows that must go, some of which do not say whose they are."""
    return [
        of_eve(thread_id="t-eve", trace_id="trace-eve"),
        of_eve(user_id=None),
        of_eve(user_id=None, session_id=None, thread_id="t-eve"),
        of_eve(user_id=None, session_id=None, trace_id="trace-eve"),
    ]


@pytest.mark.parametrize("blank", [False, True])
async def test_nothing_is_left_anywhere(any_layout: str, blank: bool) -> None:
    """Rows, evidence in others' rows, a dead process's journal, the quarantine; and nobody else loses a row."""
    settings = load(database_url=any_layout)
    kept = others()
    await store(settings, *kept, *hers())
    directory = settings.journal_directories[0]
    dead = Journal(directory)
    ended = of_eve()
    dead.start(ended.call_id.bytes, 1.0, {"user_id": EVE, "session_id": "s-eve"})  # a call is one, started and ended
    dead.append([ended, record(user_id="bob", attributes={"friend": EVE})])
    dead.start(b"1" * 16, 1.0, {"user_id": EVE, "session_id": "s-eve"})
    dead.dead_letters.append(of_eve(), "22001", "no")
    dead.dead_letters.append(record(user_id="ada"), "22001", "no")
    dead.close()
    assert CANARY in await everything(settings)

    planned = await erase(settings, Subject(user=EVE), blank=blank)
    found = {place.name: place.found for place in planned.places}
    assert found == {
        DEFAULT_TABLE: 3, "rows of nobody": 3, "evidence of others": 2, "journals of dead processes": 3,
        "journals of living processes": 0, "quarantine": 1,
    }  # fmt: skip
    assert CANARY in await everything(settings)

    done = await erase(settings, Subject(user=EVE), do=True, blank=blank)
    assert done.left == 0
    text = await everything(settings)
    for secret in (CANARY, EVE, "s-eve'", "t-eve", "trace-eve"):
        assert secret not in text, secret
    ((rows,),) = await query(settings.database_url, f"SELECT count(*) FROM {DEFAULT_TABLE}")
    assert rows == (12 if blank else 6)
    for one in kept:
        if one.user_id != EVE:
            assert one.call_id.hex in text.replace("-", "")
    assert "ada" in text
    assert "a.py:1" in text
    again = await erase(settings, Subject(user=EVE), do=True, blank=blank)
    assert again.found == 0


async def test_rows_of_nobody_go_where_only_rows_that_wait_say_whose_they_are(any_database: str) -> None:
    """No row of the table knows the session: a dead process's journal does, or a refused row; others' stay theirs."""
    settings = load(database_url=any_database)
    stored = [
        record(user_id=None, session_id="s-waiting", prompt_snapshot=f'"{CANARY}"'),
        record(user_id=None, session_id="s-refused", prompt_snapshot=f'"{CANARY}"'),
        record(user_id=None, session_id="s-shared", prompt_snapshot='"whose?"'),
    ]
    await store(settings, *stored, record(user_id=EVE, session_id="s-shared"))
    dead = Journal(settings.journal_directories[0])
    dead.append([of_eve(session_id="s-waiting"), record(user_id="ada", session_id="s-shared")])
    dead.dead_letters.append(of_eve(session_id="s-refused"), "22001", "no")
    dead.dead_letters.append(record(user_id=None, session_id="s-refused", prompt_snapshot=f'"{CANARY}"'), "22001", "no")
    dead.close()
    assert (await erase(settings, Subject(user=EVE), do=True)).left == 0
    text = await everything(settings)
    assert CANARY not in text
    assert "s-refused" not in text
    assert stored[-1].call_id.hex in text.replace("-", "")
    assert "ada" in text


def test_on_the_command_line(
    any_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal unless told otherwise, a receipt, and an answer in JSON."""
    monkeypatch.setenv("COLUMNS", "80")
    asyncio.run(store(load(database_url=any_database), of_eve(), record(user_id="ada")))

    def llmctx(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.run(["--database-url", any_database, "erase", *arguments]), *capsys.readouterr()

    assert llmctx()[0] == 2
    assert llmctx("--user", " ")[0] == 2
    code, out, err = llmctx("--user", EVE)
    assert code == 0
    assert DEFAULT_TABLE in out
    assert "--yes" in err
    assert max(map(len, out.splitlines())) <= 80
    code, out, err = llmctx("--user", EVE, "--yes", "--json")
    told = json.loads(out)
    assert (code, told["found"], told["left"], told["done"]) == (0, 1, 0, True)
    assert f"Nothing of user {EVE} was found" in llmctx("--user", EVE)[2]


def test_a_blanked_row_says_so_and_is_no_loss(
    any_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`show` explains it; `coverage` and `calls --unattributed` take it for no miss; `stats` counts its tokens."""
    monkeypatch.setenv("COLUMNS", "80")
    one = of_eve(identity_source="context", total_tokens=7)
    asyncio.run(store(load(database_url=any_database), one, record(user_id="ada", identity_source="context")))

    def llmctx(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.run(["--database-url", any_database, *arguments]), *capsys.readouterr()

    assert llmctx("erase", "--user", EVE, "--blank", "--yes")[0] == 0
    shown = llmctx("show", str(one.call_id))[1]
    assert "Ids and texts were taken out of the row" in " ".join(shown.split())
    assert "(context, erased)" in shown
    code, out, err = llmctx("coverage", "--fail-under", "100")
    assert code == 0
    assert "100.00 % of 1 row has" in out
    assert "1 row blanked" in err
    told = json.loads(llmctx("coverage", "--json")[1])
    assert (told["rows"], told["erased"], told["misses"], told["cures"]) == (1, 1, [], [])
    assert json.loads(llmctx("calls", "--unattributed", "--json")[1]) == []
    assert sum(row["total_tokens"] or 0 for row in json.loads(llmctx("stats", "--json")[1])) == 7
