"""The durability of what a server has acknowledged, and may lose: after a crash of its own, or when another takes over.

The writer asks for a commit that waits for the disk (`destinations/sql/connection.py`). What no client can ask for is
told here: by `doctor`, and in one line when the first row is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmctx.core.text import counted

LOOK: Final = """
WITH RECURSIVE parts AS (
    SELECT pg_catalog.to_regclass(:table)::oid AS oid
    UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN parts ON inhparent = parts.oid
)
SELECT pg_catalog.current_setting('fsync', true) AS fsync,
       pg_catalog.current_setting('full_page_writes', true) AS full_pages,
       COALESCE(pg_catalog.current_setting('synchronous_standby_names', true), '') AS synchronous,
       ARRAY(SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c JOIN parts ON parts.oid = c.oid
             WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'p') ORDER BY 1) AS unlogged,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication r
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
                          WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
          AND COALESCE(r.state, '') <> 'backup' AND COALESCE(r.sync_state, 'async') IN ('async', 'potential'))
       AS asynchronous
"""
"""A role without rights sees standbys as well, though not what they are called."""


@dataclass(frozen=True, slots=True)
class Risk:
    """Something that costs rows which the database has acknowledged."""

    cause: str
    consequence: str
    fix: str
    is_chosen: bool = False
    """It was chosen for a server whose rows are to be thrown away."""


def risks_of(settings_row: Mapping[Any, Any]) -> tuple[Risk, ...]:
    """Return what the answers to `LOOK` mean."""
    return tuple(_risks(settings_row))


def _risks(settings_row: Mapping[Any, Any]) -> Iterator[Risk]:
    for name, value in (("fsync", settings_row["fsync"]), ("full_page_writes", settings_row["full_pages"])):
        if value == "off":
            yield Risk(
                f"the server runs with {name} = off",
                "When its machine crashes, acknowledged rows are lost, or the whole table.",
                f"ALTER SYSTEM SET {name} = on; then SELECT pg_reload_conf();",
                is_chosen=True,
            )
    if settings_row["unlogged"]:
        names = ", ".join(settings_row["unlogged"])
        yield Risk(
            f"{names} {'is' if len(settings_row['unlogged']) == 1 else 'are'} UNLOGGED",
            "When the server crashes every row in it is lost, and no standby has a copy.",
            " ".join(f"ALTER TABLE {name} SET LOGGED;" for name in settings_row["unlogged"]),
        )
    count = settings_row["asynchronous"]
    if count and not settings_row["synchronous"]:
        yield Risk(
            f"{counted(count, 'standby server follows', 'standby servers follow')}, and no commit waits for "
            f"{'it' if count == 1 else 'any of them'}",
            f"When {'it' if count == 1 else 'one of them'} takes over, the last rows before that are lost.",
            "Let synchronous_standby_names name a standby, at least two where commits must not wait for one that is "
            "away.",
        )
