"""Every row that names a user is found in whatever table it is."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx.core.errors import LlmctxError
from llmctx.core.record import DEFAULT_TABLE
from llmctx.ops.erase import Subject, erase
from llmctx.settings import Settings, load
from llmctx.storage import queries
from llmctx.storage.engine import read_connection
from llmctx.storage.reflection import reflect
from tests.kit import older
from tests.kit.rows import do, query, record, store
from tests.kit.subjects import CANARY, EVE, everything, of_eve


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


async def texts(settings: Settings) -> list[tuple[Any, ...]]:
    """Return the prompt, the response and the error of every row, as they are read."""
    async with read_connection(settings) as connection:
        rows = await queries.calls(connection, await reflect(connection, settings), whole=True)
    return [tuple(row[name] for name in ("prompt_snapshot", "response_snapshot", "error_message")) for row in rows]


async def test_texts_of_others_are_searched_on_demand(any_layout: str) -> None:
    """`--mentions` takes the id out of them, and leaves the rest."""
    settings = load(database_url=any_layout)
    await store(settings, record(user_id="ada", prompt_snapshot=f'"call {EVE} back"', error_message=f"no {EVE}"))
    assert (await erase(settings, Subject(user=EVE))).found == 0
    done = await erase(settings, Subject(user=EVE), do=True, mentions=True)
    assert (done.found, done.left) == (1, 0)
    assert await texts(settings) == [('"call [erased] back"', None, "no [erased]")]
    assert EVE not in await everything(settings)


async def test_mentions_are_whole_ids_in_what_json_says(any_layout: str) -> None:
    """A short id is no reason to touch others' ids; rows that only seem to have it are not counted, and stay."""
    settings = load(database_url=any_layout)
    prompt = '[{"role":"user","content":"I am 1, not 21 or 1-b"},{"user_id":1,"tokens":1}]'
    others = [record(user_id="b", prompt_snapshot='"21"', error_message=f"1{n}") for n in range(3)]
    await store(settings, record(user_id="ada", prompt_snapshot=prompt, response_snapshot='"1"'), *others)
    found = await erase(settings, Subject(user="1"), mentions=True)
    assert {place.name: place.found for place in found.places}["texts of others"] == 1
    done = await erase(settings, Subject(user="1"), do=True, mentions=True)
    assert (done.found, done.left) == (1, 0)
    less = '[{"role":"user","content":"I am [erased], not 21 or 1-b"},{"user_id":"[erased]","tokens":1}]'
    assert sorted(await texts(settings), key=str) == sorted(
        [(less, '"[erased]"', None), *(('"21"', None, f"1{n}") for n in range(3))], key=str
    )


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


async def test_the_plan_of_a_large_table_reads_what_indexes_find(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of nobody in their sessions are counted, those in their threads left for `--yes`, and it says so."""
    monkeypatch.setattr("llmctx.ops.erase.table._LARGE", 1)
    settings = load(database_url=database)
    await store(settings, of_eve(thread_id="t-eve", trace_id="trace"), record(user_id="ada", session_id="s-ada"))
    in_session = record(user_id=None, session_id="s-eve")
    in_thread = record(user_id=None, session_id=None, thread_id="t-eve")
    await store(settings, in_session, in_thread)
    await do(database, f"ANALYZE {DEFAULT_TABLE}")
    plan = await erase(settings, Subject(user=EVE))
    assert {place.name: place.found for place in plan.places if place.found} == {DEFAULT_TABLE: 1, "rows of nobody": 1}
    assert any("thread_id" in note and "session_id" not in note and "--yes" in note for note in plan.notes)
    done = await erase(settings, Subject(user=EVE), do=True)
    assert (done.found, done.left) == (3, 0)
    assert await query(database, f"SELECT user_id FROM {DEFAULT_TABLE}") == [("ada",)]
