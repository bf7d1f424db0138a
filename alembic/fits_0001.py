"""What of a table that is there suits llmctx, what stands in the way, and what one should know before.

For llmctx_0001 alone: see adopt_0001.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from alembic.util import load_python_file

_look = load_python_file(Path(__file__).parent, "look_0001.py")
quote, COLUMNS = _look.quote, _look.COLUMNS
Column, Found, Key = _look.Column, _look.Found, _look.Key
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
SUFFIXES = ("key", "session", "user", "created", "unattributed", "session_text", "user_text")
"""Of the indexes that are added."""
UUID_LENGTH = 36
REWRITTEN_PER_S = 30_000_000
"""Bytes of a table that a modest server rewrites in a second, its indexes included."""


def problems(found: Found, widen: bool) -> Iterator[str]:
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
    if found.fixed and any(name not in found.columns for name in COLUMNS):
        yield f"{found.sql} {found.fixed}, so that llmctx can add nothing to it: choose another name with LLMCTX_TABLE"
    if found.rules:
        yield (
            f"{found.sql} has rules on INSERT or UPDATE ({', '.join(found.rules)}), and PostgreSQL refuses ON CONFLICT "
            "there, which llmctx needs: make triggers of them"
        )
    for suffix in SUFFIXES:
        name = f"llmctx_{found.name}_{suffix}"
        if name in found.taken:
            yield (
                f"an index of {found.taken[name]} bears the name {name} already, as of a table that was renamed: "
                f"ALTER INDEX {quote(name)} RENAME TO …"
            )
    for key in found.keys:
        if key.unique and key.deferrable:
            yield f"the unique key {key.name} is deferrable, which ON CONFLICT refuses: make it immediate"
        if _swallows(key) and key.predicate is None:
            yield (
                f"the unique key {key.name} is over ({', '.join(key.columns)}): a call that is alike there would be "
                "taken for one that is stored already, and be lost. Make it no key, or put call_id into it"
            )
    if not has_key(found) and key_condition(found) is None:
        yield (
            "call_id has no unique key, and status and identity_source are columns of your own, so that no key could "
            "be over rows of llmctx alone: make call_id unique"
        )
    if found.keyless and not has_key(found):
        yield (
            f"{found.sql} is partitioned by {found.keyless}, so that no unique key can be over call_id and created_at "
            "alone, which llmctx needs: partition it by RANGE (created_at), or choose another name with LLMCTX_TABLE"
        )
    for column in found.columns.values():
        if (
            column.required
            and column.name not in ("call_id", "created_at", *COLUMNS)
            and default_of(found, column) is None
        ):
            yield (
                f"column {column.name} ({column.type}) is NOT NULL without a default, and llmctx has nothing to put "
                f"there: ALTER TABLE {found.sql} ALTER COLUMN {quote(column.name)} SET DEFAULT …"
            )
    for key in found.keys:
        for name in set(key.columns) & {column.name for column in too_strict(found)} if key.primary else ():
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
                f"the trigger {name} copies whole rows to another table (in {function}): with columns that are "
                "added here each insert would fail. Name the columns there, and run this again"
            )


def _swallows(key: Key) -> bool:
    """Whether two calls may be alike under a unique key, so that ON CONFLICT DO NOTHING keeps but one of them."""
    ours = {*COLUMNS, "created_at"}
    return key.unique and bool(key.columns) and {*key.columns} <= ours


def strange_ids(found: Found) -> list[str]:
    """Ids that are no text, so that not every id can stand there."""
    return [name for name in IDS if name in found.columns and found.columns[name].family not in TEXTS]


def too_strict(found: Found) -> list[Column]:
    """Columns of ours that must have a value, which not every call has."""
    return [c for c in found.columns.values() if c.not_null and c.name in COLUMNS and c.name not in NEVER_NULL]


def default_of(found: Found, column: Column) -> str | None:
    """What makes an id for a key that so far the application has made; None if nothing does."""
    if not any(key.unique and key.columns == (column.name,) for key in found.keys):
        return None
    if column.family == "uuid":
        return "gen_random_uuid()"
    if column.family in TEXTS:
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


def has_key(found: Found) -> bool:
    """Whether a key that is there keeps a row of ours from being stored twice."""
    condition = plain(key_condition(found))
    return any(
        key.unique
        and key.valid
        and "call_id" in key.columns
        and {*key.columns} <= {"call_id", "created_at"}
        and (key.predicate is None or plain(key.predicate) == condition)
        for key in found.keys
    )


def key_condition(found: Found) -> str | None:
    """Which rows are llmctx's own: only they are under the key, old ones may be double and theirs may become so.

    None where no column tells them apart.
    """
    for name, says in (("status", "IS NOT NULL"), ("identity_source", "NOT LIKE 'backfill:%'")):
        if name not in found.columns or found.columns[name].marked:
            return f"{name} {says}"
    return None


def plain(condition: str | None) -> str:
    return re.sub(r"[()\s]", "", condition or "").lower()


def notes(found: Found, widen: bool) -> Iterator[str]:
    for name in strange_ids(found):
        kind, took = found.columns[name].type, max(1, found.bytes // REWRITTEN_PER_S)
        if not widen:
            yield (
                f"{name} is {kind}: an id that is no {kind} goes into the text column llmctx_{name}. Or choose "
                f"--widen: {name} becomes text; rewrites {found.bytes / 2**20:,.0f} MiB, for about {took} s nobody "
                "reads or writes, and statements that compare it with a number fail afterwards"
            )
    naive = [c.name for c in found.columns.values() if c.family == "timestamp without time zone" and _is_ours(c)]
    if naive:
        yield f"{' and '.join(naive)} {'have' if len(naive) > 1 else 'has'} no time zone: llmctx writes UTC there"
    short = [c.name for c in found.columns.values() if c.size and c.name in IDS and c.family in TEXTS]
    if short:
        have = "have" if len(short) > 1 else "has"
        yield f"{', '.join(short)} {have} a length: longer ids are shortened, with a mark, and the row says so"
    for name, table in found.refers.items():
        if name in COLUMNS:
            yield f"{name} refers to {table}: a call whose {name} is not there is refused, and kept in quarantine"
    if found.homeless:
        yield (
            f"no partition of {found.sql} takes in the calls of now: they wait on disk until there is one, such as "
            f"{found.homeless}"
        )
    computed = [c.name for c in found.columns.values() if c.generated and _is_ours(c)]
    if computed:
        yield f"{' and '.join(computed)}: computed by the database, so llmctx puts nothing there"
    for name, kind in COLUMNS.items():
        column = found.columns.get(name)
        if column is not None and name not in (*IDS, *computed) and column.family not in FITTING[kind]:
            yield f"{name} is {_told(found, column)}, not {kind}: what does not fit is left out, and the row says so"
    for name, (says, columns) in found.checks.items():
        if {*columns} & {"call_id", "created_at", *COLUMNS}:
            yield f"the constraint {name} says {says}: a call that does not meet it is refused, and kept in quarantine"
    for key in found.keys:
        if key.unique and (not key.columns or (_swallows(key) and key.predicate is not None)):
            yield f"the unique key {key.name}: a call that is alike there is taken for one that is stored already"
    for name in found.sent if any(name not in found.columns for name in COLUMNS) else ():
        yield (
            f"the publication {name} sends its rows: where they are received the columns have to be first, or "
            "replication stops there"
        )
    doubles = not has_key(found) and not any(key.name == f"llmctx_{found.name}_key" for key in found.keys)
    if doubles:
        yield "no key on call_id: the one that is added covers rows of llmctx only, so the old ones may stay double"


def _is_ours(column: Column) -> bool:
    return column.name == "created_at" or column.name in COLUMNS


def _told(found: Found, column: Column) -> str:
    """Its type in words; of an enumerated one, what there is."""
    labels = found.labels.get(column.name)
    return f"{column.type} ({', '.join(labels)})" if labels else str(column.type)
