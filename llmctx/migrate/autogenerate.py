"""Filters for the host's own `alembic revision --autogenerate`, which must leave our tables alone.

A table that llmctx made, its partitions and its version table are none of the host's. In a table of the host's that
llmctx has adopted, the host stays in charge of everything but what llmctx has added. Where it has been partitioned, the
host's indexes stand there under other names, its keys with created_at in them, and nothing can refer to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import TEXT, Column, String

from llmctx.core.record import COLUMNS
from llmctx.identity.call_context import ID_FIELDS
from llmctx.settings import load

IncludeObject = Callable[[Any, str | None, str, bool, Any], bool]
_DEFAULTS: Final = ("gen_random_uuid()", "llmctx_")
_DIVIDED: Final = "llmctx_divided"
"""In the `info` of the host's metadata: what the indexes of the partitioned table are over, while it is one."""


def leaving(
    table: str | None = None, schema: str | None = None, *, besides: IncludeObject | None = None
) -> IncludeObject:
    """Return Alembic's `include_object` for a call log of that name; of LLMCTX_TABLE and LLMCTX_DB_SCHEMA unless given.

    `besides` is the host's own: what it refuses stays refused.
    """
    # any URL of PostgreSQL's will do: no connection is made
    settings = load(database_url="postgresql:///llmctx", table=table, db_schema=schema)
    name = re.escape(settings.table)
    beside = "alembic_version|hours|days|stale_hours|rollup"
    parts = r"_default|_p\d{4}\w*|_before|_partitioned"
    whole = re.compile(rf"(llmctx_({beside})(_\w+)?)|({name}(_messages)?({parts})?)")
    index = re.compile(rf"(llmctx_{name}_\w+)|(llmctx_\w+)")

    def include(thing: Any, named: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        if besides is not None and not besides(thing, named, kind, reflected, compare_to):
            return False
        only_there = reflected and compare_to is None
        if kind == "table":
            if compare_to is not None:
                _note(thing.metadata, compare_to.metadata, settings.table)
            elsewhere = settings.db_schema is not None and thing.schema not in (None, settings.db_schema)
            return elsewhere or not (only_there and named is not None and whole.fullmatch(named))
        of = getattr(thing, "table", None)
        if compare_to is None and not reflected and of is not None and _has_other_form(thing, kind, settings.table):
            return False
        if of is None or of.name != settings.table or named is None:
            return True
        if kind == "column":
            return (
                not (named in COLUMNS or named.startswith("llmctx_")) if only_there else not _eased(thing, compare_to)
            )
        return not (only_there and kind == "index" and index.fullmatch(named))

    return include


def _note(host: Any, there: Any, name: str) -> None:
    """Note what is known of a partitioned table before anything that belongs to it is compared."""
    indexes = [index for table in there.tables.values() if table.name == name for index in table.indexes]
    divided = {_over(index.expressions) for index in indexes if str(index.name).startswith("llmctx_whole_")}
    host.info[_DIVIDED] = {**host.info.get(_DIVIDED, {}), name: divided}


def _has_other_form(thing: Any, kind: str, name: str) -> bool:
    """Return whether what the host's model has, and the database lacks, cannot be had by a partitioned table."""
    divided = thing.table.metadata.info.get(_DIVIDED, {}).get(name)
    if not divided:
        return False
    if kind == "foreign_key_constraint":
        return bool(thing.referred_table.name == name)
    if kind not in ("index", "unique_constraint") or thing.table.name != name:
        return False
    over = _over(thing.expressions if kind == "index" else thing.columns)
    return over in divided or (*over, "created_at") in divided


def _over(expressions: Any) -> tuple[str | None, ...]:
    """Return columns by their names; None is an expression."""
    bare = (getattr(one, "element", one) for one in expressions)  # without its DESC
    return tuple(one.name if isinstance(one, Column) else None for one in bare)


def _eased(ours: Any, there: Any) -> bool:
    """Return whether a column of the host's may be NULL, has a default, or is text, only because llmctx needs it so."""
    if there is None:
        return False
    nullable = ours.name in COLUMNS and not ours.nullable and there.nullable
    default = getattr(getattr(there, "server_default", None), "arg", None)
    made = ours.server_default is None and default is not None and any(part in str(default) for part in _DEFAULTS)
    # by `llmctx migrate --widen`: back would rewrite the table, and fail at the first id that is no number
    widened = ours.name in ID_FIELDS and type(there.type) is TEXT and not isinstance(ours.type, String)
    return bool(nullable or made or widened)


def include_object(thing: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Serve as `context.configure(include_object=…)` in the host's env.py."""
    return leaving()(thing, name, kind, reflected, compare_to)
