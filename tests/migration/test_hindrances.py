"""What else is in a table that is there already: what llmctx could not write beside is said before anything is done."""

from __future__ import annotations

import asyncio

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.errors import LlmctxError, NotACallLog
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import execute
from tests.migration.filling import fill
from tests.migration.psql import dumped, psql

T = DEFAULT_TABLE
IDS = "user_id text, session_id text, trace_id text"
UNKEYED = f"call_id varchar(64), model text, created_at timestamptz NOT NULL, {IDS}"
PLAIN = UNKEYED.replace("(64)", "(64) UNIQUE")

COPYING = {
    "new": "INSERT INTO copies SELECT now(), NEW.*;",
    "in brackets": "INSERT INTO copies VALUES (now(), (NEW).*);",
    "a variable": "row := NEW; INSERT INTO copies SELECT now(), row.*;",
    "executed": "EXECUTE 'INSERT INTO copies SELECT now(), ($1).*' USING NEW;",
    "executed with a format": "EXECUTE format('INSERT INTO %I VALUES (now(), $1.*)', 'copies') USING NEW;",
}
HARMLESS = {
    "as JSON": "INSERT INTO notes VALUES (to_jsonb(NEW.*));",
    "named": "INSERT INTO notes VALUES (to_jsonb(NEW.call_id));",
    "commented": "-- INSERT INTO copies SELECT NEW.*\n INSERT INTO notes VALUES ('1');",
    "another table's": "INSERT INTO notes SELECT to_jsonb(o.*) FROM others o WHERE o.at = NEW.created_at;",
    "one value of it": "EXECUTE 'INSERT INTO notes SELECT to_jsonb($1)' USING NEW.call_id;",
}


def trigger(url: str, body: str, how: str = "FOR EACH ROW") -> None:
    made = f"CREATE OR REPLACE FUNCTION copied() RETURNS trigger LANGUAGE plpgsql AS $f$ DECLARE row {T}; BEGIN"
    execute(url, f"{made} {body} RETURN NULL; END $f$", f"DROP TRIGGER IF EXISTS copies ON {T}",
            f"CREATE TRIGGER copies AFTER INSERT ON {T} {how} EXECUTE FUNCTION copied()")  # fmt: skip


def test_triggers_that_copy_whole_rows_by_whatever_way(empty_database: str) -> None:
    """With a column more each insert of the application's would fail: such a table is not adopted, others are."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "texts", 10))
    execute(url, f"CREATE TABLE copies AS SELECT now() AS at, * FROM {T}", "CREATE TABLE notes (note jsonb)",
            "CREATE TABLE others (at timestamptz)")  # fmt: skip
    of_statements = "REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT"
    for body in COPYING.values():
        trigger(url, body)
        with pytest.raises(NotACallLog, match="The trigger copies copies whole rows"):
            migrate.upgrade(settings)
    for body in (
        "INSERT INTO copies SELECT now(), * FROM fresh;",
        "INSERT INTO copies SELECT now(), f.* FROM fresh f;",
    ):
        trigger(url, body, of_statements)
        with pytest.raises(NotACallLog, match="The trigger copies copies whole rows"):
            migrate.upgrade(settings)
    trigger(url, "INSERT INTO notes SELECT to_jsonb(count(*)) FROM fresh;", of_statements)
    migrate.plan(settings)
    for body in HARMLESS.values():
        trigger(url, body)
        migrate.plan(settings)
    migrate.upgrade(settings)
    execute(url, f"INSERT INTO {T} (id, call_id, model, created_at) VALUES ('h', 'h', 'm', now())")


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            [f"CREATE TABLE {T} ({PLAIN})", "CREATE TABLE audit (call_id text)",
             f"CREATE RULE audited AS ON INSERT TO {T} DO ALSO INSERT INTO audit VALUES (NEW.call_id)"],
            r"rules on INSERT or UPDATE \(audited\).*triggers",
        ),
        ([f"CREATE TABLE {T} ({PLAIN}, UNIQUE (trace_id))"], r"is over \(trace_id\).*be lost"),
        ([f"CREATE TABLE {T} ({PLAIN}, UNIQUE (session_id, created_at))"], r"is over \(session_id, created_at\)"),
        ([f"CREATE TABLE {T} ({UNKEYED}, status text, identity_source integer)"], "make call_id unique"),
        (
            [f"CREATE TABLE big ({UNKEYED}) PARTITION BY RANGE (created_at)",
             f"CREATE TABLE {T} PARTITION OF big DEFAULT"],
            "is itself a partition of another table",
        ),
        (
            ["CREATE TYPE call AS (call_id text, model text, created_at timestamptz)", f"CREATE TABLE {T} OF call"],
            "was made OF a type",
        ),
        (
            [f"CREATE TABLE {T} ({UNKEYED}) PARTITION BY RANGE (created_at)",
             f"CREATE TABLE part PARTITION OF {T} DEFAULT PARTITION BY LIST (user_id)"],
            "a partition that is divided again, part",
        ),
    ],
)  # fmt: skip
def test_what_llmctx_could_not_write_to_is_left_alone(empty_database: str, statements: list[str], said: str) -> None:
    """Nothing is begun that could not be ended, and no call is lost to a key that was made for others."""
    execute(empty_database, *statements)
    before, settings = dumped(empty_database), load(database_url=empty_database)
    for attempt in (migrate.plan, migrate.upgrade):
        with pytest.raises(NotACallLog, match=f"(?i){said}"):
            attempt(settings)
    assert dumped(empty_database) == before


def test_what_will_be_refused_or_left_out_is_said_beforehand(empty_database: str) -> None:
    """Constraints of the team's, enumerated types, and who receives the rows."""
    execute(
        empty_database,
        "CREATE TYPE outcome AS ENUM ('success', 'failed')",
        f"CREATE TABLE {T} ({PLAIN}, status outcome, agent_key text CONSTRAINT known CHECK (agent_key <> 'x'), "
        "note text CONSTRAINT theirs CHECK (note <> ''))",
        f"CREATE UNIQUE INDEX calm ON {T} (trace_id) WHERE user_id = 'calm'",
        f"CREATE PUBLICATION everywhere FOR TABLE {T}",
        f"CREATE PUBLICATION partial FOR TABLE {T} (call_id, model)",
    )
    notes = "\n".join(migrate.plan(load(database_url=empty_database)).notes)
    assert "the constraint known says CHECK ((agent_key <> 'x'::text)): a call that violates it is refused" in notes
    assert "status is outcome (success, failed), not text: what does not fit is left out" in notes
    assert "the unique key calm: a call with the same values there" in notes
    assert "the publication everywhere sends its rows" in notes
    assert "theirs" not in notes
    assert "partial" not in notes


def test_values_that_an_enumerated_type_does_not_know_are_left_out(empty_database: str) -> None:
    """The call is stored, and its row says what is missing; so where the type is none that text could be."""
    execute(
        empty_database,
        "CREATE TYPE outcome AS ENUM ('success', 'ok')",
        "CREATE DOMAIN result AS outcome",
        f"CREATE TABLE {T} ({PLAIN}, status result, provider outcome, node integer[], conversation_id inet)",
    )
    migrate.upgrade(load(database_url=empty_database))
    with CallLog(empty_database) as call_log, bind(session_id="s", conversation_id="scribe"):
        with call_log.record(model="m", provider="openai"):
            pass
        assert call_log.flush(60) == 0
        assert call_log.stats().quarantined == 0
    shown = psql(
        empty_database, f"SELECT status, provider, conversation_id, llmctx_conversation_id, attributes FROM {T}"
    )
    assert shown.strip().startswith("ok|||scribe|")
    assert '"llmctx_cleaned": ["provider"]' in shown


def test_an_id_in_the_application_s_hands_has_a_default_whatever_text_it_is(empty_database: str) -> None:
    """Also where it is padded with blanks."""
    execute(empty_database, f"CREATE TABLE {T} (id char(40) PRIMARY KEY, {PLAIN})")
    migrate.upgrade(load(database_url=empty_database))
    with CallLog(empty_database) as call_log, call_log.record(model="m"):
        pass
    assert len(psql(empty_database, f"SELECT id FROM {T}").strip()) == 36


def test_a_comment_that_somebody_has_changed(empty_database: str) -> None:
    """What llmctx cannot read there is no reason to fail, and what it added still goes."""
    execute(empty_database, f"CREATE TABLE {T} ({PLAIN})")
    settings, before = load(database_url=empty_database), dumped(empty_database)
    migrate.upgrade(settings)
    column = migrate.plan(settings, down=True).steps[-1].what.rpartition(": ")[2].partition(",")[0]
    execute(empty_database, f"COMMENT ON COLUMN {T}.{column} IS 'added by llmctx in May, ask Ann'")
    assert migrate.check(settings).is_current
    migrate.downgrade(settings)
    assert dumped(empty_database) == before


def test_a_view_over_what_was_added_is_named_before_the_way_back(empty_database: str) -> None:
    """Nothing is taken away while somebody's view stands on it."""
    execute(empty_database, f"CREATE TABLE {T} ({PLAIN})")
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    execute(empty_database, f"CREATE VIEW costs AS SELECT user_id, cost_usd FROM {T}")
    before = dumped(empty_database)
    for attempt in (lambda: migrate.plan(settings, down=True), lambda: migrate.downgrade(settings)):
        with pytest.raises(LlmctxError, match="view costs"):
            attempt()
    assert dumped(empty_database) == before


def test_a_table_that_was_renamed_and_made_anew(empty_database: str) -> None:
    """The indexes of the old one bear the names still: that is said, where nothing would have been built under them."""
    execute(empty_database, f"CREATE TABLE {T} ({UNKEYED})", f"CREATE TABLE {T}_archive ({PLAIN})")
    settings = load(database_url=empty_database)
    migrate.upgrade(load(database_url=empty_database, table=f"{T}_archive"))
    migrate.upgrade(settings)
    execute(empty_database, f"ALTER TABLE {T} RENAME TO calls_of_last_year", f"CREATE TABLE {T} ({UNKEYED})")
    before = dumped(empty_database)
    with pytest.raises(NotACallLog, match=f"An index of calls_of_last_year bears the name llmctx_{T}_key"):
        migrate.upgrade(settings)
    assert dumped(empty_database) == before
    renamed = [f"ALTER INDEX llmctx_{T}_{one} RENAME TO last_year_{one}" for one in
               ("key", "session", "user", "created", "unattributed")]  # fmt: skip
    execute(empty_database, *renamed)
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
