"""The steps from a table as it stands to what a revision wants of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from llmctx.migrate.adoption.checks import REWRITTEN_PER_S, Columns, TableFit, comparable, notes, problems, sequence
from llmctx.migrate.adoption.inspect import MARK, ExistingTable
from llmctx.storage.catalog import literal, quote

INDEXED_PER_S: Final = 300_000
"""Rows."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to be done, in a transaction of its own."""

    what: str
    sql: tuple[str, ...]
    lock: str
    """What waits for it: "none", others for "a moment", or "everybody"."""
    takes_s: int = 0
    concurrently: bool = False
    """A statement that takes its time beside others, and must stand outside of a transaction."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The steps that would be done to a table now."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What one should know before."""
    problems: list[str] = field(default_factory=list)
    """What stands in the way, and what to do about it. Then there are no steps."""


def plan(table: ExistingTable, wanted: Columns, *, widen: bool = False) -> StepPlan:
    """Return what it takes until `table` has the `wanted` columns and what belongs to them.

    A table that llmctx made itself lacks columns at most. With `widen`, ids of another type become text.
    """
    fit = TableFit(table, wanted, widen)
    if table.made_by_us:
        steps = [*_add_columns(table, fit.missing_columns, marked=False)]
        return check_owner(table, steps, [])
    if found := list(problems(fit)):
        return StepPlan(problems=found)
    steps = [*_leftovers(fit), *_alterations(fit), *_indexes(fit)]
    if steps and table.is_owner and table.closed_schema:
        room = (
            f"the role {table.role} may make no index in the schema {table.closed_schema}: "
            f"GRANT CREATE ON SCHEMA {table.closed_schema} TO {quote(table.role)}"
        )
        return StepPlan(steps, [], [room])
    return check_owner(table, steps, list(notes(fit)))


def check_owner(table: ExistingTable, steps: list[Step], notes: list[str]) -> StepPlan:
    """Return `steps` as a plan, or the problem that the table belongs to another role."""
    if not steps or table.is_owner:
        return StepPlan(steps, notes)
    other = (
        f"table {table.sql} belongs to the role {table.owner}, and {table.role} may not change it: let {table.owner} "
        "run the output of `llmctx migrate --sql`, or `llmctx migrate` itself"
    )
    return StepPlan(steps, [], [other])


def note_facts(table: str, column: str, facts: dict[str, list[str]]) -> str:
    """Return the statement that keeps `facts` in the comment of `column`, the first of those that llmctx added."""
    return f"COMMENT ON COLUMN {table}.{quote(column)} IS {literal(f'{MARK} {json.dumps(facts)}')}"


def describe_columns(columns: Iterable[str]) -> str:
    """Return in words that `columns` are added."""
    names = list(columns)
    return f"add {len(names)} {'columns' if len(names) > 1 else 'column'}, which may be NULL: {', '.join(names)}"


def _add_columns(table: ExistingTable, adding: Columns, *, marked: bool) -> Iterator[Step]:
    if adding:
        columns = ", ".join([f"ADD COLUMN {quote(name)} {kind}" for name, kind in adding.items()])
        marks = [f"COMMENT ON COLUMN {table.sql}.{quote(name)} IS '{MARK}'" for name in adding] if marked else []
        yield Step(describe_columns(adding), (f"ALTER TABLE {table.sql} {columns}", *marks), "a moment")


def _leftovers(fit: TableFit) -> Iterator[Step]:
    table = fit.table
    for index in table.added_indexes:
        if not index.valid and table.kind == "r":
            yield drop_index(table, index.name, f"drop index {index.name}, which a break left unfinished")
    name = f"llmctx_{table.name}_unattributed"
    if _is_outdated(fit, name):
        yield drop_index(table, name, f"drop index {name}, which knows of columns that are no longer asked")


def drop_index(table: ExistingTable, name: str, what: str) -> Step:
    """Return the step that drops an index of the table, beside its writers where PostgreSQL can."""
    beside = table.kind == "r"
    drop = f"DROP INDEX {'CONCURRENTLY ' if beside else ''}IF EXISTS {table.qualify(name)}"
    return Step(what, (drop,), "none" if beside else "a moment", concurrently=beside)


def _is_outdated(fit: TableFit, name: str) -> bool:
    """Return whether that index was made while an id stood in two columns, and no longer does."""
    predicates = [index.predicate or "" for index in fit.table.indexes if index.name == name and index.valid]
    return (
        bool(predicates) and "llmctx_" in predicates[0] and comparable(predicates[0]) != comparable(_without_an_id(fit))
    )


def _alterations(fit: TableFit) -> Iterator[Step]:
    table = fit.table
    alter = f"ALTER TABLE {table.sql} "
    others = fit.ids_of_other_types
    adding = dict(fit.missing_columns)
    if not fit.widen:
        adding |= {f"llmctx_{name}": "text" for name in others if f"llmctx_{name}" not in table.columns}
    marked = [column.name for column in table.marked_columns] or list(adding)
    yield from _add_columns(table, adding, marked=True)
    facts = table.changes_by_column

    def note(kind: str, name: str) -> tuple[str, ...]:
        facts[kind].append(name)
        return (note_facts(table.sql, marked[0], facts),) if marked else ()

    for column in fit.required_without_default:
        default = fit.default_of(column)
        setting = f"{alter}ALTER COLUMN {quote(column.name)} SET DEFAULT {default}"
        yield Step(
            f"give {column.name} a default for rows of llmctx: {default}",
            (*_make_sequence(table, column.name, default), setting, *note("defaults", column.name)),
            "a moment",
        )
    for column in fit.too_strict:
        yield Step(
            f"let {column.name} be NULL, for not every call has one",
            (f"{alter}ALTER COLUMN {quote(column.name)} DROP NOT NULL", *note("nullable", column.name)),
            "a moment",
        )
    for name in others if fit.widen else ():
        has_overflow = f"llmctx_{name}" in table.columns  # by an adoption that did not widen
        value = f"coalesce(llmctx_{name}, {quote(name)}::text)" if has_overflow else f"{quote(name)}::text"
        yield Step(
            f"make {name} text: {table.columns[name].type} now; rewrites {table.bytes / 2**20:,.0f} MiB",
            (f"{alter}ALTER COLUMN {quote(name)} TYPE text USING {value}",),
            "everybody",
            max(1, table.bytes // REWRITTEN_PER_S),
        )


def _make_sequence(table: ExistingTable, column: str, default: str | None) -> Iterator[str]:
    if default is not None and default.startswith("nextval"):
        made = sequence(table, column)
        yield f"CREATE SEQUENCE IF NOT EXISTS {made} INCREMENT BY -1 START WITH -1"
        yield f"ALTER SEQUENCE {made} OWNER TO {quote(table.owner)}"  # else it cannot be the column's
        yield f"ALTER SEQUENCE {made} OWNED BY {table.sql}.{quote(column)}"
        yield from (f"GRANT USAGE ON SEQUENCE {made} TO {role}" for role in table.inserting_roles)


def _without_an_id(fit: TableFit) -> str:
    """Return which rows lack an id: it may stand in either of two columns."""
    two = () if fit.widen else fit.ids_of_other_types
    return " OR ".join(
        f"({name} IS NULL AND llmctx_{name} IS NULL)" if name in two else f"{name} IS NULL"
        for name in ("session_id", "user_id")
    )


def _wanted_indexes(fit: TableFit) -> Iterator[tuple[str, tuple[str, ...], str | None, str]]:
    """Yield suffix, columns, condition and purpose of each index."""
    if not fit.has_key:
        columns = ("call_id",) if fit.table.kind == "r" else ("call_id", "created_at")
        yield "key", columns, fit.key_condition, "a unique key for rows of llmctx, so that none is double"
    yield "session", ("session_id", "created_at"), None, "what did this session say"
    yield "user", ("user_id", "created_at"), None, "what did this user do"
    yield "created", ("created_at",), None, "what happened then"
    yield "unattributed", ("created_at",), _without_an_id(fit), "which rows lack an id"
    for name in ("session_id", "user_id") if not fit.widen else ():
        if name in fit.ids_of_other_types:
            beside = f"llmctx_{name}"
            suffix = f"{name.removesuffix('_id')}_text"
            yield suffix, (beside, "created_at"), f"{beside} IS NOT NULL", f"{name} as text"


def _indexes(fit: TableFit) -> Iterator[Step]:
    table, seconds = fit.table, max(1, fit.table.rows // INDEXED_PER_S)
    valid = {index.name for index in table.indexes if index.valid}
    for suffix, columns, condition, why in _wanted_indexes(fit):
        name = f"llmctx_{table.name}_{suffix}"
        is_there = name in valid and not _is_outdated(fit, name)
        if is_there or (suffix != "key" and _is_served(table, columns, condition)):
            continue
        kind, over = "UNIQUE INDEX" if suffix == "key" else "INDEX", ", ".join(map(quote, columns))
        what = f"index {name} on ({over}){' where ' + condition if condition else ''}: {why}"
        tail = f" ({over})" + (f" WHERE {condition}" if condition else "")
        if table.kind == "r":
            make = f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {quote(name)} ON {table.sql}{tail}"
            yield Step(what, (make,), "none", seconds, concurrently=True)
        else:
            yield from index_each_partition(table, kind, name, tail, what, seconds)


def index_each_partition(
    table: ExistingTable, kind: str, name: str, tail: str, what: str, seconds: int
) -> Iterator[Step]:
    """PostgreSQL makes no index of a partitioned table beside its writers, but of each of its partitions."""
    yield Step(what, (f"CREATE {kind} IF NOT EXISTS {quote(name)} ON ONLY {table.sql}{tail}",), "a moment")
    for at, part in enumerate(table.partitions):
        own = f"{name}_{at}"
        build = f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {quote(own)} ON {part}{tail}"
        yield Step(f"the same on {part}", (build,), "none", seconds, concurrently=True)
        join = f"ALTER INDEX {table.qualify(name)} ATTACH PARTITION {table.qualify(own)}"
        yield Step(f"join {own} to {name}", (join,), "a moment")


def _is_served(table: ExistingTable, columns: tuple[str, ...], condition: str | None) -> bool:
    """Return whether an index that is there answers the question already."""
    for index in table.indexes:
        same = index.predicate is None if condition is None else comparable(index.predicate) == comparable(condition)
        if same and index.valid and index.method in ("btree", "brin") and index.columns[: len(columns)] == columns:
            return True
    return False
