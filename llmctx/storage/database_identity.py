"""The identity of a database, whatever its URL calls it: an id that `llmctx migrate` notes in the database itself.

On PostgreSQL it is the comment of our version table, which every role may read. Beside it stands where it was noted, by
the cluster's own number and the database's, so that a copy of the database is not taken for the database. Where these
numbers can be asked for, they tell the database even without a note. On SQLite it is the file's `application_id`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, text

from llmctx.core.endpoint import Endpoint
from llmctx.core.urls import shown_url
from llmctx.settings import Settings
from llmctx.storage.catalog import literal, qualify_name

_NOTE: Final = re.compile(r"llmctx database ([0-9a-f]{16,64})(?: at (\S+))?")
_SQLITE_OURS: Final = 0x4C  # the first byte of an `application_id` of ours: "L"

LOOK: Final = """
SELECT pg_catalog.obj_description(pg_catalog.to_regclass(:versions), 'pg_class') AS note,
       pg_catalog.to_regclass(:versions) IS NOT NULL AS has_versions,
       (SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = pg_catalog.to_regclass(:table)) AS relation
"""
LOOK_AT_HOME: Final = """
SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text || '/' ||
       (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())::text AS home
"""
"""Not every server that speaks PostgreSQL's protocol can answer this."""


def names_for(settings: Settings) -> dict[str, str]:
    """Return the parameters of `LOOK`."""
    return {
        "versions": qualify_name(settings.version_table, settings.db_schema),
        "table": qualify_name(settings.table, settings.db_schema),
    }


def ids_of(row: Mapping[Any, Any], home: str | None) -> frozenset[str]:
    """Return what the database with these answers to `LOOK` and `LOOK_AT_HOME` is known by."""
    ids = set()
    noted = _noted(row)
    if noted is not None and (noted[1] is None or home is None or noted[1] == home):
        ids.add(noted[0])
    if home is not None:
        ids.add(home)
    return frozenset(f"{one} {row['relation']}" for one in ids)


def _noted(row: Mapping[Any, Any]) -> tuple[str, str | None] | None:
    match = _NOTE.search(row["note"] or "")
    return None if match is None else (match[1], match[2])


def ids_of_sqlite(application_id: int, table: str) -> frozenset[str]:
    """Return what a file is known by; nothing if nothing of ours is noted in it."""
    return frozenset({f"sqlite {application_id:08x} {table}"} if application_id >> 24 == _SQLITE_OURS else ())


def endpoint_of(connection: Connection, settings: Settings) -> Endpoint:
    """Return which database `connection` leads to."""
    name = shown_url(settings.database_url)
    if not settings.is_postgresql:
        number = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        return Endpoint(name, ids_of_sqlite(int(number), settings.table))
    found = connection.execute(text(LOOK), names_for(settings)).mappings().one()
    return Endpoint(name, ids_of(found, _home(connection)))


def _home(connection: Connection) -> str | None:
    try:
        with connection.begin_nested():
            return str(connection.scalar(text(LOOK_AT_HOME)) or "") or None
    except Exception:  # noqa: BLE001  another kind of server, which has other words for that
        return None


def write_identity(connection: Connection, settings: Settings) -> bool:
    """Note an id in the database unless it has one; a copy gets one of its own. Return whether it was necessary.

    The caller commits. Raise what the database says to a role that may not.
    """
    if not settings.is_postgresql:
        if connection.exec_driver_sql("PRAGMA application_id").scalar_one():
            return False  # ours, or one that the host gave it
        connection.exec_driver_sql(f"PRAGMA application_id = {_SQLITE_OURS << 24 | secrets.randbits(24)}")
        return True
    names = names_for(settings)
    found, home = connection.execute(text(LOOK), names).mappings().one(), _home(connection)
    noted = _noted(found)
    if noted is not None and (noted[1] is None or home is None or noted[1] == home):
        return False
    if not found["has_versions"]:  # the host's own alembic notes our version, and compares its comments
        return False
    made = f"llmctx database {secrets.token_hex(16)}{f' at {home}' if home else ''}"
    connection.exec_driver_sql(f"COMMENT ON TABLE {names['versions']} IS {literal(made)}")
    return True
