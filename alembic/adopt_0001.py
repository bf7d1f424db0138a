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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alembic.util import load_python_file

_look, _fits = (load_python_file(Path(__file__).parent, f"{name}_0001.py") for name in ("look", "fits"))
look, quote, MARK, COLUMNS = _look.look, _look.quote, _look.MARK, _look.COLUMNS
Found, NEVER_NULL, sequence = _look.Found, _fits.NEVER_NULL, _fits.sequence
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
    problems = list(_fits.problems(found, widen))
    if problems:
        return Plan([], [], problems)
    steps = [*_leftovers(found, widen), *_alterations(found, widen), *_indexes(found, widen)]
    if steps and not found.mine:
        mine = (
            f"table {found.sql} belongs to the role {found.owner}, and {found.me} may not change it: let {found.owner} "
            "run the output of `llmctx migrate --sql`, or `llmctx migrate` itself"
        )
        return Plan(steps, [], [mine])
    if steps and found.closed:
        room = (
            f"the role {found.me} may make no index in the schema {found.closed}: "
            f"GRANT CREATE ON SCHEMA {found.closed} TO {quote(found.me)}"
        )
        return Plan(steps, [], [room])
    return Plan(steps, list(_fits.notes(found, widen)), [])


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
        and _fits.plain(key.predicate) != _fits.plain(wanted)
        for key in found.keys
    )


def _alterations(found: Found, widen: bool) -> Iterator[Step]:
    alter = f"ALTER TABLE {found.sql} "
    strange = _fits.strange_ids(found)
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
            default = _fits.default_of(found, column)
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
    for column in _fits.too_strict(found):
        yield Step(
            f"let {column.name} be NULL, for not every call has one",
            (f"{alter}ALTER COLUMN {quote(column.name)} DROP NOT NULL", *noted("nullable", column.name)),
            "a moment",
        )
    for name in strange if widen else ():
        took = max(1, found.bytes // _fits.REWRITTEN_PER_S)
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
    two = [] if widen else _fits.strange_ids(found)
    return " OR ".join(
        f"({name} IS NULL AND llmctx_{name} IS NULL)" if name in two else f"{name} IS NULL"
        for name in ("session_id", "user_id")
    )


def _indexes(found: Found, widen: bool) -> Iterator[Step]:
    took = max(1, found.rows // INDEXED_PER_S)
    wanted: list[tuple[str, tuple[str, ...], str | None, str]] = []
    if not _fits.has_key(found):
        columns = ("call_id",) if found.kind == "r" else ("call_id", "created_at")
        wanted.append(
            ("key", columns, _fits.key_condition(found), "a unique key for rows of llmctx, so that none is double")
        )
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
            for name in _fits.strange_ids(found)
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


def _is_served(found: Found, columns: tuple[str, ...], condition: str | None, suffix: str) -> bool:
    """Whether an index that is there answers the question already."""
    if suffix == "key":
        return False  # it has been looked for
    for key in found.keys:
        if not key.valid or key.method not in ("btree", "brin"):
            continue
        same = key.predicate is None if condition is None else _fits.plain(key.predicate) == _fits.plain(condition)
        if same and key.columns[: len(columns)] == columns:
            return True
    return False


def beside(found: Found, name: str) -> str:
    return f"{quote(found.schema)}.{quote(name)}" if found.schema else quote(name)
