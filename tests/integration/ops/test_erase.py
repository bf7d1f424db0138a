"""Forgetting somebody: afterwards a search finds nothing of theirs, and everything of everybody else's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx import cli
from llmctx.calllog import CallLog
from llmctx.core.errors import LlmctxError
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery.journal import Journal
from llmctx.identity.explanation import KEY
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import bind, current_scope
from llmctx.ops.erase import Subject, erase
from llmctx.settings import Settings, load
from tests.kit import older
from tests.kit.rows import do, query, record, store

CANARY = "the canary sings at four"
EVE = "eve-0042"


def of_eve(**values: Any) -> CallRecord:
    return record(**{"user_id": EVE, "session_id": "s-eve", "prompt_snapshot": json.dumps(CANARY), **values})


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


async def everything(settings: Settings) -> str:
    """All that is in the database, and on disk."""
    rows = await query(settings.database_url, f"SELECT * FROM {settings.table}")
    files = [file.read_bytes() for place in settings.journal_directories for file in place.rglob("*") if file.is_file()]
    if not settings.is_postgresql:
        path = Path(settings.database_url.partition("///")[2])
        files += [file.read_bytes() for file in path.parent.glob(path.name + "*")]
    return "\n".join(map(str, rows)) + b"\n".join(files).decode("utf-8", "replace")


@pytest.mark.parametrize("blank", [False, True])
async def test_nothing_is_left_anywhere(any_database: str, blank: bool) -> None:
    """Rows, evidence in others' rows, a dead process's journal, the quarantine; and nobody else loses a row."""
    settings = load(database_url=any_database)
    kept = others()
    await store(settings, *kept, *hers())
    directory = settings.journal_directories[0]
    dead = Journal(directory)
    dead.append([of_eve(), record(user_id="bob", attributes={"friend": EVE})])
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


async def test_a_living_process_brings_what_it_holds_before_the_rows_go(database: str) -> None:
    """Its files hold rows long after they were stored: it begins new ones, and the old ones go."""
    async with CallLog(database, linger_ms=0) as call_log:
        settings = call_log.settings
        with bind(user_id=EVE, session_id="s-eve"), call_log.record(model="m", prompt=CANARY):
            pass
        with bind(user_id="ada", session_id="s-ada"), call_log.record(model="m", prompt="hello"):
            pass
        assert await call_log.aflush(20) == 0
        assert CANARY in await everything(settings)
        done = await erase(settings, Subject(user=EVE), do=True)
        assert done.left == 0, done
        text = await everything(settings)
        assert CANARY not in text
        assert EVE not in text
        assert "ada" in text


async def test_a_call_under_way_is_said(database: str) -> None:
    """Its row will come when it ends: the receipt says that something is left."""
    async with CallLog(database, linger_ms=0) as call_log:
        with bind(user_id=EVE, session_id="s-eve"), call_log.record(model="m", prompt=CANARY):
            done = await erase(call_log.settings, Subject(user=EVE), do=True, wait_s=0.5)
            assert done.left == 1
        assert await call_log.aflush(20) == 0
        done = await erase(call_log.settings, Subject(user=EVE), do=True)
        assert (done.found, done.left) == (1, 0)


async def test_redis_forgets_as_well(database: str, redis_url: str) -> None:
    """The user's threads and tasks; of a session all keys that name it. Others' stay."""
    settings = load(database_url=database, registry_url=redis_url, registry_prefix="erase*:")
    registry = RedisRegistry(redis_url, prefix="erase*:")
    for user, session, thread in [(EVE, "s-eve", "t-1"), ("ada", "s-ada", "t-2"), ("bob", "s-bob", "t-3")]:
        with bind(user_id=user, session_id=session):
            registry.put(current_scope(), thread_id=thread, task=f"node:{thread}")
    await registry.publish(10)
    await registry.aclose()
    done = await erase(settings, Subject(user=EVE), do=True)
    assert [(place.found, place.left) for place in done.places if place.name == "registry"] == [(2, 0)]
    done = await erase(settings, Subject(session="s-ada"), do=True)
    assert [(place.found, place.left) for place in done.places if place.name == "registry"] == [(2, 0)]
    done = await erase(settings, Subject(user="bob"))
    assert [place.found for place in done.places if place.name == "registry"] == [2]


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_tables_that_were_there_before(empty_database: str, shape: older.Shape) -> None:
    """Numbered users, and messages that hang on the calls by a foreign key, or by their call_id alone."""
    rows = [
        older.row(shape, 1, prompt_snapshot=CANARY),
        older.row(shape, 2, user_id=None, prompt_snapshot=CANARY),
        older.row(shape, 3, user_id=8, session_id="s-8"),
    ]
    messages = [f"INSERT INTO {older.CHILD} (call_id, content) VALUES ('call-{n}', 'said {n}')" for n in (1, 2, 3)]
    await do(empty_database, *older.made(shape), *rows, *messages)
    settings = load(database_url=empty_database)
    nobody = await erase(settings, Subject(user="o'hara; --"), do=True)
    assert nobody.found == 0
    done = await erase(settings, Subject(user="7"), do=True)
    assert {place.name: place.found for place in done.places if place.found} == {
        DEFAULT_TABLE: 1,
        "rows of nobody": 1,
        older.CHILD: 2,
    }
    assert done.left == 0
    assert await query(empty_database, f"SELECT call_id FROM {DEFAULT_TABLE}") == [("call-3",)]
    assert await query(empty_database, f"SELECT content FROM {older.CHILD}") == [("said 3",)]


async def test_an_id_that_did_not_fit_its_column_is_found(empty_database: str) -> None:
    """A long one was shortened, one that is no number was kept beside it: both are theirs."""
    await do(empty_database, *older.made("numbered")[:1], f"ALTER TABLE {DEFAULT_TABLE} ADD attributes jsonb")
    long = "session-" + "x" * 80
    settings = load(database_url=empty_database)
    await store(settings, of_eve(session_id=long), record(user_id="12", session_id="s"))
    assert EVE in await everything(settings)
    assert (await erase(settings, Subject(session=long))).found == 1
    done = await erase(settings, Subject(user=EVE), do=True)
    assert (done.found, done.left) == (1, 0)
    assert EVE not in await everything(settings)


async def test_texts_of_others_are_searched_on_demand(any_database: str) -> None:
    """`--mentions` takes the id out of them, and leaves the rest."""
    settings = load(database_url=any_database)
    await store(settings, record(user_id="ada", prompt_snapshot=f'"call {EVE} back"', error_message=f"no {EVE}"))
    assert (await erase(settings, Subject(user=EVE))).found == 0
    done = await erase(settings, Subject(user=EVE), do=True, mentions=True)
    assert (done.found, done.left) == (1, 0)
    ((prompt, error),) = await query(any_database, f"SELECT prompt_snapshot, error_message FROM {DEFAULT_TABLE}")
    assert (prompt, error) == ('"call [erased] back"', "no [erased]")


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
    assert "Nothing is known" in llmctx("--user", EVE)[2]


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
    assert "100.00 % of 1 rows" in out
    assert "1 rows were blanked" in err
    told = json.loads(llmctx("coverage", "--json")[1])
    assert (told["rows"], told["erased"], told["misses"], told["cures"]) == (1, 1, [], [])
    assert json.loads(llmctx("calls", "--unattributed", "--json")[1]) == []
    assert sum(row["total_tokens"] or 0 for row in json.loads(llmctx("stats", "--json")[1])) == 7


async def test_rows_that_a_policy_hides_are_not_passed_over(empty_database: str) -> None:
    """A role that sees some of the rows cannot say that nothing is left: it is told which role can."""
    await do(empty_database, *older.made("named"), older.row("named", 1, user_id="ada"), older.row("named", 2))
    role = "llmctx_test_tenant"
    await do(
        empty_database, f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN",
        f"GRANT ALL ON {DEFAULT_TABLE}, {older.CHILD} TO {role}",
        f"ALTER TABLE {DEFAULT_TABLE} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY bobs ON {DEFAULT_TABLE} TO {role} USING (user_id = 'bob')",
    )  # fmt: skip
    try:
        url = make_url(empty_database).set(username=role).render_as_string(hide_password=False)
        for act in (False, True):
            with pytest.raises(LlmctxError, match="BYPASSRLS"):
                await erase(load(database_url=url), Subject(user="ada"), do=act, wait_s=0)
        assert (await erase(load(database_url=empty_database), Subject(user="ada"), do=True, wait_s=0)).left == 0
    finally:
        await do(empty_database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
