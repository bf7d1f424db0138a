"""What llmctx_0001 does to a table that is there already: looks at it, and says step by step what it lacks.

Columns are added, nullable and without a default, so nothing is rewritten; rows, columns, keys and whoever refers to
them stay. What was added is marked by the column's comment, in the same transaction, and by the names of indexes: the
plan is made from the table as it stands, so a break at any step is mended by running again, and `downgrade` takes away
what bears the mark and nothing else.

Belongs to llmctx_0001, which loads it by its path, and imports nothing from llmctx. No dataclasses: a module that is
loaded so stands in no `sys.modules`, where they would look for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alembic.util import load_python_file

_look = load_python_file(Path(__file__).parent, "look_0001.py")
look, quote, MARK, COLUMNS = _look.look, _look.quote, _look.MARK, _look.COLUMNS
Column, Found = _look.Column, _look.Found
IDS = ("trace_id", "session_id", "conversation_id", "user_id", "agent_key", "thread_id")
NEVER_NULL = ("call_id", "created_at", "model", "success", "status")
TEXTS = ("text", "character varying", "character")
FITTING = {
    "text": (*TEXTS, "json", "jsonb"),
    "double precision": ("double precision", "real", "numeric"),
    "integer": ("integer", "bigint", "smallint", "numeric"),
    "boolean": ("boolean",),
    "timestamp with time zone": ("timestamp with time zone", "timestamp without time zone"),
    "uuid": ("uuid", *TEXTS),
    "numeric(18, 9)": ("numeric", "double precision", "real"),
    "jsonb": ("jsonb", "json", *TEXTS),
}
UUID_LENGTH = 36
REWRITTEN_PER_S = 30_000_000
"""Bytes of a table that a modest server rewrites in a second, its indexes included."""
INDEXED_PER_S = 300_000
"""Rows."""


class Step(NamedTuple):
    """Something to be done, in a transaction of its own."""

    what: str
    sql: tuple[str, ...]
    lock: str
    """Who waits for it: "none", others for "a moment", or "everybody"."""
    takes_s: int = 0
    concurrently: bool = False
    """A statement that takes its time beside others, and must stand outside of a transaction."""


class Plan(NamedTuple):
    steps: list[Step]
    notes: list[str]
    """What one should know before."""
    problems: list[str]
    """What stands in the way, and what to do about it. Then there are no steps."""


def plan(found: Found, *, widen: bool = False) -> Plan:
    """What `upgrade` would do to this table now. With `widen`, ids of another type become text."""
    problems = list(_problems(found, widen))
    if problems:
        return Plan([], [], problems)
    steps = [*_leftovers(found, widen), *_alterations(found, widen), *_indexes(found, widen)]
    if steps and not found.mine:
        mine = (
            f"table {found.sql} belongs to the role {found.owner}, and {found.me} may not change it: let {found.owner} "
            "run the output of `llmctx migrate --sql`, or `llmctx migrate` itself"
        )
        return Plan(steps, [], [mine])
    return Plan(steps, list(_notes(found, widen)), [])


def _problems(found: Found, widen: bool) -> Iterator[str]:
    kinds = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a type"}
    if found.kind not in ("r", "p"):
        yield f"{found.sql} is {kinds.get(found.kind, 'no table')}, not a table: choose another name with LLMCTX_TABLE"
        return
    lacking = [name for name in ("call_id", "created_at", "model") if name not in found.columns]
    if lacking:
        lack = " and no ".join(lacking)
        yield f"{found.sql} is not a call log: it has no {lack}. Choose another name with LLMCTX_TABLE"
        return
    call_id, created_at = found.columns["call_id"], found.columns["created_at"]
    if call_id.family != "uuid" and (call_id.family not in TEXTS or (call_id.size or 99) < UUID_LENGTH):
        yield f"call_id is {call_id.type}, which has no room for a UUID: make it varchar(36) or wider"
    if not created_at.family.startswith("timestamp"):
        yield f"created_at is {created_at.type}: it has to be a timestamp"
    for key in found.keys:
        if key.unique and key.deferrable:
            yield f"the unique key {key.name} is deferrable, which ON CONFLICT refuses: make it immediate"
    for column in found.columns.values():
        if (
            column.required
            and column.name not in ("call_id", "created_at", *COLUMNS)
            and _default(found, column) is None
        ):
            yield (
                f"column {column.name} ({column.type}) is NOT NULL without a default, and llmctx has nothing to put "
                f"there: ALTER TABLE {found.sql} ALTER COLUMN {quote(column.name)} SET DEFAULT …"
            )
    for key in found.keys:
        for name in set(key.columns) & {column.name for column in _too_strict(found)} if key.primary else ():
            yield f"{name} is part of the primary key {key.name}, but llmctx has calls without one"
    if widen:
        for name in strange_ids(found):
            if name in found.refers:
                yield f"{name} refers to {found.refers[name]}: with that foreign key it cannot become text"
            if uses := found.uses.get(name):
                yield f"{' and '.join(uses)} use {name}, which cannot become text so: drop them, make them again later"
    if any(name not in found.columns for name in COLUMNS):
        for name, function in found.copying.items():
            yield (
                f"the trigger {name} copies whole rows to another table (NEW.* in {function}): with columns that are "
                "added here each insert would fail. Name the columns there, and run this again"
            )


def strange_ids(found: Found) -> list[str]:
    """Ids that are no text, so that not every id can stand there."""
    return [name for name in IDS if name in found.columns and found.columns[name].family not in TEXTS]


def _too_strict(found: Found) -> list[Column]:
    """Columns of ours that must have a value, which not every call has."""
    return [c for c in found.columns.values() if c.not_null and c.name in COLUMNS and c.name not in NEVER_NULL]


def _default(found: Found, column: Column) -> str | None:
    """What makes an id for a key that so far the application has made; None if nothing does."""
    if not any(key.unique and key.columns == (column.name,) for key in found.keys):
        return None
    if column.family == "uuid":
        return "gen_random_uuid()"
    if column.family in ("text", "character varying"):
        size = column.size or UUID_LENGTH
        bare = "replace(gen_random_uuid()::text, '-', '')"
        return "(gen_random_uuid())::text" if size >= UUID_LENGTH else f"left({bare}, {size})" if size >= 20 else None
    if column.family in ("integer", "bigint"):
        # below zero, where the application's own numbers do not come
        return f"nextval('{sequence(found, column.name)}'::regclass)"
    return None


def sequence(found: Found, column: str) -> str:
    name = quote(f"llmctx_{found.name}_{column}_seq")
    return f"{quote(found.schema)}.{name}" if found.schema else name


def _leftovers(found: Found, widen: bool) -> Iterator[Step]:
    for key in found.added:
        if not key.valid and found.kind == "r":
            yield Step(
                f"drop index {key.name}, which a break left unfinished",
                (f"DROP INDEX CONCURRENTLY IF EXISTS {beside(found, key.name)}",),
                "none",
                concurrently=True,
            )
    name = f"llmctx_{found.name}_unattributed"
    if _is_outdated(found, name, widen):
        at_once = "CONCURRENTLY " if found.kind == "r" else ""
        yield Step(
            f"drop index {name}, which knows of columns that are no longer asked",
            (f"DROP INDEX {at_once}IF EXISTS {beside(found, name)}",),
            "none" if at_once else "a moment",
            concurrently=bool(at_once),
        )


def _is_outdated(found: Found, name: str, widen: bool) -> bool:
    """Whether that index was made while an id stood in two columns, and no longer does."""
    wanted = without_an_id(found, widen)
    return any(
        key.name == name
        and key.valid
        and "llmctx_" in (key.predicate or "")
        and _plain(key.predicate) != _plain(wanted)
        for key in found.keys
    )


def _alterations(found: Found, widen: bool) -> Iterator[Step]:
    alter = f"ALTER TABLE {found.sql} "
    strange = strange_ids(found)
    adding = {name: kind for name, kind in COLUMNS.items() if name not in found.columns}
    if not widen:
        adding |= {f"llmctx_{name}": "text" for name in strange if f"llmctx_{name}" not in found.columns}
    ours = [column.name for column in found.marked] or list(adding)
    if adding:
        first = [] if found.marked else [f"COMMENT ON COLUMN {found.sql}.{quote(ours[0])} IS '{MARK}'"]
        rest = [f"COMMENT ON COLUMN {found.sql}.{quote(name)} IS '{MARK}'" for name in adding if name != ours[0]]
        columns = ", ".join(f"ADD COLUMN {quote(name)} {kind}" for name, kind in adding.items())
        yield Step(
            f"add {len(adding)} {'columns' if len(adding) > 1 else 'column'}, which may be NULL: {', '.join(adding)}",
            (alter + columns, *first, *rest),
            "a moment",
        )
    facts = found.facts

    def noted(kind: str, name: str) -> tuple[str, ...]:
        facts[kind].append(name)
        text = f"{MARK} {json.dumps(facts)}".replace("'", "''")
        return (f"COMMENT ON COLUMN {found.sql}.{quote(ours[0])} IS '{text}'",) if ours else ()

    for column in found.columns.values():
        if column.required and column.name not in ("call_id", "created_at", *COLUMNS):
            default = _default(found, column)
            make: tuple[str, ...] = ()
            if default is not None and default.startswith("nextval"):
                made = sequence(found, column.name)
                make = (
                    f"CREATE SEQUENCE IF NOT EXISTS {made} INCREMENT BY -1 START WITH -1",
                    f"ALTER SEQUENCE {made} OWNER TO {quote(found.owner)}",  # else it cannot be the column's
                    f"ALTER SEQUENCE {made} OWNED BY {found.sql}.{quote(column.name)}",
                    *(f"GRANT USAGE ON SEQUENCE {made} TO {role}" for role in found.inserting),
                )
            yield Step(
                f"give {column.name} a default for rows of llmctx: {default}",
                (
                    *make,
                    f"{alter}ALTER COLUMN {quote(column.name)} SET DEFAULT {default}",
                    *noted("defaults", column.name),
                ),
                "a moment",
            )
    for column in _too_strict(found):
        yield Step(
            f"let {column.name} be NULL, for not every call has one",
            (f"{alter}ALTER COLUMN {quote(column.name)} DROP NOT NULL", *noted("nullable", column.name)),
            "a moment",
        )
    for name in strange if widen else ():
        took = max(1, found.bytes // REWRITTEN_PER_S)
        kept = f"llmctx_{name}" in found.columns  # by an adoption that did not widen
        value = f"coalesce(llmctx_{name}, {quote(name)}::text)" if kept else f"{quote(name)}::text"
        yield Step(
            f"make {name} text: {found.columns[name].type} now; rewrites {found.bytes / 2**20:,.0f} MiB",
            (f"{alter}ALTER COLUMN {quote(name)} TYPE text USING {value}",),
            "everybody",
            took,
        )


def without_an_id(found: Found, widen: bool) -> str:
    """Which rows lack an id: it may stand in either of two columns."""
    two = [] if widen else strange_ids(found)
    return " OR ".join(
        f"({name} IS NULL AND llmctx_{name} IS NULL)" if name in two else f"{name} IS NULL"
        for name in ("session_id", "user_id")
    )


def _indexes(found: Found, widen: bool) -> Iterator[Step]:
    took = max(1, found.rows // INDEXED_PER_S)
    wanted: list[tuple[str, tuple[str, ...], str | None, str]] = []
    if not _has_key(found):
        columns = ("call_id",) if found.kind == "r" else ("call_id", "created_at")
        wanted.append(("key", columns, key_condition(found), "a unique key for rows of llmctx, so that none is double"))
    wanted += [
        ("session", ("session_id", "created_at"), None, "what did this session say"),
        ("user", ("user_id", "created_at"), None, "what did this user do"),
        ("created", ("created_at",), None, "what happened then"),
        ("unattributed", ("created_at",), without_an_id(found, widen), "which rows lack an id"),
    ]
    if not widen:
        wanted += [
            (
                f"{name.removesuffix('_id')}_text",
                (f"llmctx_{name}", "created_at"),
                f"llmctx_{name} IS NOT NULL",
                f"{name} as text",
            )
            for name in strange_ids(found)
            if name in ("session_id", "user_id")
        ]
    for suffix, columns, condition, why in wanted:
        name = f"llmctx_{found.name}_{suffix}"
        is_there = any(key.name == name and key.valid for key in found.keys) and not _is_outdated(found, name, widen)
        if is_there or _is_served(found, columns, condition, suffix):
            continue
        unique, over = suffix == "key", ", ".join(map(quote, columns))
        words = f"index {name} on ({over}){' where ' + condition if condition else ''}: {why}"
        tail = f" ({over})" + (f" WHERE {condition}" if condition else "")
        if found.kind == "r":
            start = f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY IF NOT EXISTS {quote(name)} ON {found.sql}"
            yield Step(words, (start + tail,), "none", took, concurrently=True)
        else:
            yield from _on_each(found, name, tail, words, unique=unique)


def _on_each(found: Found, name: str, tail: str, words: str, *, unique: bool) -> Iterator[Step]:
    """PostgreSQL makes no index of a partitioned table beside its writers, but of each of its partitions."""
    make = f"CREATE {'UNIQUE ' if unique else ''}INDEX "
    yield Step(words, (f"{make}IF NOT EXISTS {quote(name)} ON ONLY {found.sql}{tail}",), "a moment")
    for at, part in enumerate(found.partitions):
        own = f"{name}_{at}"
        what = f"the same on {part}"
        build = f"{make}CONCURRENTLY IF NOT EXISTS {quote(own)} ON {part}{tail}"
        yield Step(what, (build,), "none", max(1, found.rows // INDEXED_PER_S), concurrently=True)
        join = f"ALTER INDEX {beside(found, name)} ATTACH PARTITION {beside(found, own)}"
        yield Step(f"join {own} to {name}", (join,), "a moment")


def _has_key(found: Found) -> bool:
    """Whether a key that is there keeps a row of ours from being stored twice."""
    condition = _plain(key_condition(found))
    return any(
        key.unique
        and key.valid
        and key.columns
        and {*key.columns} <= {"call_id", "created_at"}
        and (key.predicate is None or _plain(key.predicate) == condition)
        for key in found.keys
    )


def key_condition(found: Found) -> str:
    """Which rows are llmctx's own: only they are under the key, old ones may be double and theirs may become so."""
    status = found.columns.get("status")
    return "status IS NOT NULL" if status is None or status.marked else "identity_source NOT LIKE 'backfill:%'"


def _is_served(found: Found, columns: tuple[str, ...], condition: str | None, suffix: str) -> bool:
    """Whether an index that is there answers the question already."""
    if suffix == "key":
        return False  # it has been looked for
    for key in found.keys:
        if not key.valid or key.method not in ("btree", "brin"):
            continue
        same = key.predicate is None if condition is None else _plain(key.predicate) == _plain(condition)
        if same and key.columns[: len(columns)] == columns:
            return True
    return False


def _plain(condition: str | None) -> str:
    return re.sub(r"[()\s]", "", condition or "").lower()


def beside(found: Found, name: str) -> str:
    return f"{quote(found.schema)}.{quote(name)}" if found.schema else quote(name)


def _notes(found: Found, widen: bool) -> Iterator[str]:
    for name in strange_ids(found):
        kind, took = found.columns[name].type, max(1, found.bytes // REWRITTEN_PER_S)
        if not widen:
            yield (
                f"{name} is {kind}: an id that is no such number goes into the text column llmctx_{name}. Or choose "
                f"--widen: {name} becomes text; rewrites {found.bytes / 2**20:,.0f} MiB, for about {took} s nobody "
                "reads or writes, and statements that compare it with a number fail afterwards"
            )
    naive = [c.name for c in found.columns.values() if c.family == "timestamp without time zone" and _is_ours(c)]
    if naive:
        yield f"{' and '.join(naive)} have no time zone: llmctx writes UTC there"
    short = [c.name for c in found.columns.values() if c.size and c.name in IDS and c.family in TEXTS]
    if short:
        yield f"{', '.join(short)} have a length: longer ids are shortened, with a mark, and the row says so"
    for name, table in found.refers.items():
        if name in COLUMNS:
            yield f"{name} refers to {table}: a call whose {name} is not there is refused, and kept in quarantine"
    for name, kind in COLUMNS.items():
        column = found.columns.get(name)
        if column is not None and name not in IDS and column.family not in FITTING[kind]:
            yield f"{name} is {column.type}, not {kind}: what does not fit is left out, and the row says so"
    doubles = not _has_key(found) and not any(key.name == f"llmctx_{found.name}_key" for key in found.keys)
    if doubles:
        yield "no key on call_id: the one that is added covers rows of llmctx only, so the old ones may stay double"


def _is_ours(column: Column) -> bool:
    return column.name == "created_at" or column.name in COLUMNS
