"""Checks of a table that is there: what suits llmctx, what stands in the way, and what one should know before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

from llmctx.migrate.adoption.inspect import ExistingTable
from llmctx.storage.catalog import Column, Index, quote

Columns = Mapping[str, str]
"""Columns that are wanted, besides call_id and created_at, and their types on PostgreSQL."""
IDS: Final = ("trace_id", "session_id", "conversation_id", "user_id", "agent_key", "thread_id")
NEVER_NULL: Final = ("call_id", "created_at", "model", "success", "status")
TEXTS: Final = ("text", "character varying", "character")
_FITTING: Final = {
    "text": (*TEXTS, "json", "jsonb"),
    "double precision": ("double precision", "real", "numeric"),
    "integer": ("integer", "bigint", "smallint", "numeric"),
    "boolean": ("boolean", "smallint", "integer", "bigint"),
    "timestamp with time zone": ("timestamp with time zone", "timestamp without time zone"),
    "uuid": ("uuid", *TEXTS),
    "numeric(18, 9)": ("numeric", "double precision", "real"),
    "jsonb": ("jsonb", "json", *TEXTS),
}
_SUFFIXES: Final = ("key", "session", "user", "created", "unattributed", "session_text", "user_text")
"""Of the indexes that are added."""
_KINDS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a type"}
_UUID_LENGTH: Final = 36
REWRITTEN_PER_S: Final = 30_000_000
"""Bytes of a table that a modest server rewrites in a second, its indexes included."""


@dataclass(frozen=True)
class TableFit:
    """A table beside what a revision wants of it. With `widen`, ids of another type than text become text."""

    table: ExistingTable
    target_columns: Columns
    widen: bool = False

    @cached_property
    def written_columns(self) -> set[str]:
        """Return all columns that llmctx writes."""
        return {"call_id", "created_at", *self.target_columns}

    @cached_property
    def missing_columns(self) -> dict[str, str]:
        """Return the target columns that are not there, and their types."""
        return {name: kind for name, kind in self.target_columns.items() if name not in self.table.columns}

    @cached_property
    def ids_of_other_types(self) -> list[str]:
        """Return the id columns that are no text, so that they cannot hold every id."""
        columns = self.table.columns
        return [name for name in IDS if name in columns and columns[name].family not in TEXTS]

    @cached_property
    def too_strict(self) -> list[Column]:
        """Return columns of ours that are NOT NULL, though not every call has a value."""
        return [
            c
            for c in self.table.columns.values()
            if c.not_null and c.name in self.written_columns.difference(NEVER_NULL)
        ]

    @cached_property
    def required_without_default(self) -> list[Column]:
        """Return columns of the host's that are NOT NULL without a default."""
        return [c for c in self.table.columns.values() if c.required and c.name not in self.written_columns]

    @cached_property
    def key_condition(self) -> str | None:
        """Return the condition of llmctx's own rows: only they are under the key, old ones may be double.

        None where no column tells them apart.
        """
        marked = {column.name for column in self.table.marked_columns}
        for name, condition in (("status", "IS NOT NULL"), ("identity_source", "NOT LIKE 'backfill:%'")):
            if name not in self.table.columns or name in marked:
                return f"{name} {condition}"
        return None

    @cached_property
    def has_key(self) -> bool:
        """Return whether a key that is there keeps a row of ours from being stored twice."""
        condition = comparable(self.key_condition)
        return any(
            index.unique
            and index.valid
            and "call_id" in index.columns
            and {*index.columns} <= {"call_id", "created_at"}
            and (index.predicate is None or comparable(index.predicate) == condition)
            for index in self.table.indexes
        )

    def merges_calls(self, index: Index) -> bool:
        """Return whether two calls may be alike under a unique key: ON CONFLICT DO NOTHING would keep one of them."""
        return index.unique and bool(index.columns) and {*index.columns} <= self.written_columns - {"call_id"}

    def default_of(self, column: Column) -> str | None:
        """Return what makes an id for a key that so far the application has made; None if nothing does."""
        if not any(index.unique and index.columns == (column.name,) for index in self.table.indexes):
            return None
        if column.family == "uuid":
            return "gen_random_uuid()"
        if column.family in TEXTS:
            size = column.size or _UUID_LENGTH
            if size >= _UUID_LENGTH:
                return "(gen_random_uuid())::text"
            return f"left(replace(gen_random_uuid()::text, '-', ''), {size})" if size >= 20 else None
        if column.family in ("integer", "bigint"):
            # below zero, where the application's own numbers do not come
            return f"nextval('{sequence(self.table, column.name)}'::regclass)"
        return None


def sequence(table: ExistingTable, column: str) -> str:
    """Return the sequence that numbers rows of llmctx in `column`."""
    return table.qualify(f"llmctx_{table.name}_{column}_seq")


@cache
def comparable(condition: str | None) -> str:
    """Return `condition` so that two spellings of it can be compared."""
    return re.sub(r"[()\s]", "", condition or "").lower()


def problems(fit: TableFit) -> Iterator[str]:
    """Yield what stands in the way, and what to do about it."""
    table = fit.table
    if table.kind not in ("r", "p"):
        kind = _KINDS.get(table.kind, "no table")
        yield f"{table.sql} is {kind}, not a table: choose another name with LLMCTX_TABLE"
        return
    lacking = [name for name in ("call_id", "created_at", "model") if name not in table.columns]
    if lacking:
        lack = " and no ".join(lacking)
        yield f"{table.sql} is not a call log: it has no {lack}. Choose another name with LLMCTX_TABLE"
        return
    yield from _unfit_columns(fit)
    yield from _unfit_keys(fit)
    for column in fit.required_without_default:
        if fit.default_of(column) is None:
            yield (
                f"column {column.name} ({column.type}) is NOT NULL without a default, and llmctx has nothing to put "
                f"there: ALTER TABLE {table.sql} ALTER COLUMN {quote(column.name)} SET DEFAULT …"
            )
    for index in table.indexes:
        for name in {*index.columns} & {column.name for column in fit.too_strict} if index.primary else ():
            yield f"{name} is part of the primary key {index.name}, but some calls have none"
    for name in fit.ids_of_other_types if fit.widen else ():
        if name in table.references:
            yield f"{name} refers to {table.references[name]}: because of that foreign key it cannot become text"
        if uses := table.dependents_by_column.get(name):
            yield (
                f"{' and '.join(uses)} use {name}, which therefore cannot become text: drop them, and create them "
                "again later"
            )
    for name, function in table.copying_triggers.items() if fit.missing_columns else ():
        yield (
            f"the trigger {name} copies whole rows to another table (in {function}): with columns that are "
            "added here each insert would fail. Name the columns there, and run this again"
        )


def _unfit_columns(fit: TableFit) -> Iterator[str]:
    table = fit.table
    call_id, created_at = table.columns["call_id"], table.columns["created_at"]
    if call_id.family != "uuid" and (call_id.family not in TEXTS or (call_id.size or 99) < _UUID_LENGTH):
        yield f"call_id is {call_id.type}, which cannot hold a UUID: make it varchar(36) or wider"
    if not created_at.family.startswith("timestamp"):
        yield f"created_at is {created_at.type}: it has to be a timestamp"
    if table.immutable_reason and fit.missing_columns:
        yield (
            f"{table.sql} {table.immutable_reason}, so that llmctx can add nothing to it: choose another name with "
            "LLMCTX_TABLE"
        )
    if table.rules:
        yield (
            f"{table.sql} has rules on INSERT or UPDATE ({', '.join(table.rules)}), and PostgreSQL refuses ON CONFLICT "
            "there, which llmctx needs: make triggers of them"
        )


def _unfit_keys(fit: TableFit) -> Iterator[str]:
    table = fit.table
    for suffix in _SUFFIXES:
        name = f"llmctx_{table.name}_{suffix}"
        if name in table.taken_names:
            yield (
                f"an index of {table.taken_names[name]} bears the name {name} already, as of a table that was renamed: "
                f"ALTER INDEX {quote(name)} RENAME TO …"
            )
    for index in table.indexes:
        if index.unique and index.deferrable:
            yield f"the unique key {index.name} is deferrable, which ON CONFLICT refuses: make it immediate"
        if fit.merges_calls(index) and index.predicate is None:
            yield (
                f"the unique key {index.name} is over ({', '.join(index.columns)}): a call with the same values "
                "would be taken for a stored one, and be lost. Drop the key, or add call_id to it"
            )
    if not fit.has_key and fit.key_condition is None:
        yield (
            "call_id has no unique key, and status and identity_source are columns of your own, so that no key could "
            "be over rows of llmctx alone: make call_id unique"
        )
    if table.partition_key and not fit.has_key:
        yield (
            f"{table.sql} is partitioned by {table.partition_key}, so that no unique key can be over call_id and "
            "created_at alone, which llmctx needs: partition it by RANGE (created_at), or choose another name with "
            "LLMCTX_TABLE"
        )


def notes(fit: TableFit) -> Iterator[str]:
    """Yield what one should know before."""
    table, columns = fit.table, fit.table.columns
    for name in () if fit.widen else fit.ids_of_other_types:
        kind, seconds = columns[name].type, max(1, table.bytes // REWRITTEN_PER_S)
        yield (
            f"{name} is {kind}: an id that is not one goes into the text column llmctx_{name}. Or choose "
            f"--widen: {name} becomes text; rewrites {table.bytes / 2**20:,.0f} MiB, which blocks readers "
            f"and writers for about {seconds} s; statements that compare it with a number fail afterwards"
        )
    ours = [column for column in columns.values() if column.name in fit.written_columns and column.name != "call_id"]
    naive = [column.name for column in ours if column.family == "timestamp without time zone"]
    if naive:
        yield f"{' and '.join(naive)} {'have' if len(naive) > 1 else 'has'} no time zone: llmctx writes UTC"
    short = [column.name for column in ours if column.size and column.name in IDS and column.family in TEXTS]
    if short:
        have = "have" if len(short) > 1 else "has"
        yield f"{', '.join(short)} {have} a length: longer ids are shortened and marked, and the row says so"
    for name, other in table.references.items():
        if name in fit.target_columns:
            yield f"{name} refers to {other}: a call whose {name} does not exist is refused, and kept in quarantine"
    if table.missing_partition:
        yield (
            f"no partition of {table.sql} accepts present calls: they wait on disk until there is one, such as "
            f"{table.missing_partition}"
        )
    computed = [column.name for column in ours if column.generated]
    if computed:
        yield f"{' and '.join(computed)}: computed by the database, so llmctx leaves it out"
    for name, kind in fit.target_columns.items():
        column = columns.get(name)
        if column is not None and name not in (*IDS, *computed) and column.family not in _FITTING[kind]:
            words = f"{column.type} ({', '.join(column.labels)})" if column.labels else column.type
            yield f"{name} is {words}, not {kind}: what does not fit is left out, and the row says so"
    yield from _notes_of_refusals(fit)


def _notes_of_refusals(fit: TableFit) -> Iterator[str]:
    """Yield what may keep a row out, here or where rows are sent."""
    table = fit.table
    for name, (condition, over) in table.checks.items():
        if fit.written_columns.intersection(over):
            yield (
                f"the constraint {name} says {condition}: a call that violates it is refused, and kept in quarantine"
            )
    for index in table.indexes:
        if index.unique and (not index.columns or (fit.merges_calls(index) and index.predicate is not None)):
            yield f"the unique key {index.name}: a call with the same values there is taken for a stored one"
    for name in table.publications if fit.missing_columns else ():
        yield (
            f"the publication {name} sends its rows: add the columns to its subscribers first, or replication "
            "stops there"
        )
    if not fit.has_key and not any(index.name == f"llmctx_{table.name}_key" for index in table.indexes):
        yield "no key on call_id: the one that is added covers rows of llmctx only, so old rows may stay duplicated"
