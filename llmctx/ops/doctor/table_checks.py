"""Checks of a table as it grows: partitions that are missing, rows that went astray, indexes, rights, statistics.

Looks into PostgreSQL's catalog, reads no rows but through an index, and changes nothing. Each finding brings the SQL
that mends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import DatabaseUnavailable, LlmctxError
from llmctx.core.text import counted
from llmctx.ops.doctor import texts_checks
from llmctx.ops.doctor.finding import Finding
from llmctx.settings import Settings
from llmctx.storage import catalog, durability
from llmctx.storage.dependents import Dependent, dependents
from llmctx.storage.distribution import is_distributed, total_bytes
from llmctx.storage.durability import Risk
from llmctx.storage.engine import read_connection
from llmctx.storage.reflection import overflow_column, reflect
from llmctx.storage.retention import partitions
from llmctx.storage.retention.partitions import Partition

_LARGE: Final = 1_000_000  # rows from which on a missing index, or partitions, are felt
_MANY: Final = 100_000  # rows of a table beside from which on reading all of it for one call is felt
_AHEAD_DAYS: Final = 365  # so much sooner one is told
_SERVED: Final = {
    "created_at": ("every query for a time range reads all rows", "USING brin (created_at)"),
    "session_id": ("a session is found only by reading all rows", "(session_id, created_at)"),
    "user_id": ("a user is found only by reading all rows", "(user_id, created_at)"),
}


@dataclass(frozen=True, slots=True)
class _Seen:
    log: Table
    name: str
    """For statements."""
    facts: dict[str, Any]
    parts: Sequence[Partition] | None
    indexes: Sequence[Any]
    children: Sequence[Dependent]
    """Tables that refer to it and are large, without an index for that."""
    settings: Settings
    risks: Sequence[Risk]


async def table(settings: Settings) -> list[Finding]:
    """Return what is wrong with the table; nothing for SQLite, which has none of this."""
    if not settings.is_postgresql:
        return []
    try:
        async with read_connection(settings) as connection:
            seen = await _look(connection, settings)
            of_texts = await texts_checks.findings(connection, seen.log)
    except LlmctxError as problem:
        fix = "llmctx doctor, with a role that may read it."
        if isinstance(problem, DatabaseUnavailable):
            fix = "llmctx doctor, when every server of the database can be reached."
        return [
            Finding(
                "table", False, f"not looked at: {problem}",
                "What it lacks and how it grows is not known.", fix, settings.table,
            )
        ]  # fmt: skip
    checks: Sequence[Callable[[_Seen], list[Finding]]] = (
        _months, _astray, _durability, _indexes, _children, _rights, _statistics, _growth,
    )  # fmt: skip
    found = [*(finding for check in checks for finding in check(seen)), *of_texts]
    if not found:
        found.append(Finding("table", True, f"healthy: {_grown(seen.facts)}", where=settings.table))
    return found


async def _look(connection: AsyncConnection, settings: Settings) -> _Seen:
    log = await reflect(connection, settings)
    name = connection.dialect.identifier_preparer.format_table(log)
    facts = dict((await connection.execute(text(_FACTS), {"name": name})).mappings().one())
    distributed = await is_distributed(connection, log)
    if distributed:
        facts["bytes"] = await total_bytes(connection, log)
    parts = await partitions.list_partitions(connection, log)
    indexes = await catalog.rows_async(connection, catalog.INDEXES, name)
    rights = (await connection.execute(text(_RIGHTS), {"name": name})).mappings().one()
    children = [
        child
        for child in await dependents(connection, log)
        if not child.is_indexed and (await connection.scalar(text(_ROWS), {"name": child.name}) or 0) >= _MANY
    ]
    # of a distributed table the planner has no idea, nor of one that was never analyzed
    is_known = rights["may_select"] and facts["analyzed"] and not distributed
    daily = await _daily(connection, log) if is_known else 0
    risks = durability.risks_of((await connection.execute(text(durability.LOOK), {"table": name})).mappings().one())
    facts |= {**rights, "daily": daily, "distributed": distributed}
    return _Seen(log, name, facts, parts, indexes, children, settings, risks)


async def _daily(connection: AsyncConnection, log: Table) -> int:
    """About how many rows a day brings, by the last seven: as the planner guesses, without reading one.

    Of a table that is younger, by the days that it has.
    """
    now = datetime.now(UTC)

    async def within(days: int) -> int:
        some = select(log.c.created_at).where(log.c.created_at.between(now - timedelta(days=days), now))
        asked = some.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        plan = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {asked}")
        return int(plan.scalar_one()[0]["Plan"]["Plan Rows"])

    week = await within(7)
    for days in range(1, 7):
        if await within(days) >= 0.95 * week:
            return week // days
    return week // 7


_FACTS: Final = """
WITH leaves AS (
  SELECT c.oid, c.reltuples, c.relpages, s.last_analyze, s.last_autoanalyze, s.n_live_tup, s.n_dead_tup,
         s.n_mod_since_analyze
  FROM pg_partition_tree(to_regclass(:name)) t JOIN pg_class c ON c.oid = t.relid
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.relkind = 'r'
  UNION SELECT c.oid, c.reltuples, c.relpages, s.last_analyze, s.last_autoanalyze, s.n_live_tup, s.n_dead_tup,
         s.n_mod_since_analyze
  FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
  WHERE c.oid = to_regclass(:name) AND c.relkind = 'r'
)
SELECT coalesce(sum(greatest(reltuples, n_live_tup, 0)), 0)::bigint AS rows,
       coalesce(sum(pg_total_relation_size(oid)), 0)::bigint AS bytes,
       coalesce(sum(n_dead_tup), 0)::bigint AS dead,
       coalesce(bool_or(coalesce(last_analyze, last_autoanalyze) IS NOT NULL), false) AS analyzed,
       count(*) FILTER (WHERE n_live_tup > 10000 AND last_analyze IS NULL AND last_autoanalyze IS NULL) AS unknown,
       count(*) FILTER (WHERE n_live_tup > 100000 AND n_mod_since_analyze > n_live_tup / 2) AS stale
FROM leaves
"""

_ROWS: Final = """
SELECT coalesce(sum(greatest(c.reltuples, s.n_live_tup, 0)), 0)::bigint
FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind = 'r' AND (c.oid = to_regclass(:name)
                           OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name))))
"""

_RIGHTS: Final = """
WITH log AS (SELECT oid, relowner, relacl FROM pg_class WHERE oid = to_regclass(:name)),
used AS MATERIALIZED (  -- sequences of its defaults, from which an INSERT takes numbers
  SELECT d.refobjid AS oid FROM pg_attrdef a JOIN log ON a.adrelid = log.oid
  JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
)
SELECT quote_ident(current_user) AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR pg_has_role(log.relowner, 'USAGE') AS is_owner,
       has_table_privilege(log.oid, 'INSERT') AS may_insert, has_table_privilege(log.oid, 'SELECT') AS may_select,
       has_table_privilege(log.oid, 'UPDATE') AS may_update, has_table_privilege(log.oid, 'DELETE') AS may_delete,
       ARRAY(SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
             FROM aclexplode(log.relacl) a WHERE a.privilege_type IN ('UPDATE', 'DELETE')
             AND CASE WHEN a.grantee = 0 THEN true ELSE pg_has_role(a.grantee, 'USAGE') END) AS by,
       ARRAY(SELECT oid::regclass::text FROM used WHERE NOT has_sequence_privilege(oid, 'USAGE')
             AND NOT has_sequence_privilege(oid, 'UPDATE')) AS no_numbers
FROM log
"""


def _months(seen: _Seen) -> list[Finding]:
    if seen.parts is None:
        return []
    gone = partitions.months_without_partition(seen.parts, datetime.now(UTC), 1)
    if not gone:
        return []
    has_default = any(part.is_default for part in seen.parts)
    consequence = (
        "Rows of that time go into the default partition, which can never be dropped month by month."
        if has_default
        else "The database refuses rows of that time: they wait on disk."
    )
    statements = [partitions.make_in_sql(seen.log, month) for month in gone]
    return [
        Finding(
            "partitions", False, f"no partition for {', '.join(map(str, gone))}", consequence,
            f"llmctx retain --yes, from cron; or LLMCTX_RETAIN=on. As SQL: {' '.join(statements)}",
            seen.settings.table,
        )
    ]  # fmt: skip


def _durability(seen: _Seen) -> list[Finding]:
    """Report settings of the server with which a commit may be lost although the writer asks to wait for the disk."""
    return [
        Finding("durability", False, risk.cause, risk.consequence, risk.fix, seen.settings.table)
        for risk in seen.risks
        if not risk.is_chosen
    ]


def _astray(seen: _Seen) -> list[Finding]:
    """Report rows in the default partition: of months that had none yet, or of clocks that are wrong."""
    found = [part for part in seen.parts or () if part.is_default and part.rows > 0]
    return [
        Finding(
            "default partition", False, f"about {counted(part.rows, 'row lies', 'rows lie')} in {part.name}",
            "They came in a month without a partition, or their times are wrong; they can only be deleted row by row.",
            f"SELECT date_trunc('month', created_at), count(*) FROM {part.name} GROUP BY 1; then llmctx retain --yes, "  # noqa: S608
            "which moves those of this month and the next ones.",
            seen.settings.table,
        )
        for part in found
    ]  # fmt: skip


def _indexes(seen: _Seen) -> list[Finding]:
    broken = [index.qualified for index in seen.indexes if not index.valid and seen.parts is None]
    findings = [
        Finding(
            "indexes", False, f"{name} is invalid: its creation was interrupted",
            "It is kept up to date, and serves no query.", f"DROP INDEX CONCURRENTLY {name}; then llmctx migrate --yes",
            seen.settings.table,
        )
        for name in broken
    ]  # fmt: skip
    leading = {index.columns[0] for index in seen.indexes if index.valid and index.columns and index.predicate is None}
    if seen.facts["rows"] >= _LARGE:
        at_once = "" if seen.parts is not None else "CONCURRENTLY "
        findings += [
            Finding(
                "indexes", False, f"no index begins with {column}", f"At this size {consequence}.",
                f"CREATE INDEX {at_once}ON {seen.name} {how};", seen.settings.table,
            )
            for column, (consequence, how) in _SERVED.items()
            if column in seen.log.c and column not in leading
        ]  # fmt: skip
        findings += [
            Finding(
                "indexes", False, f"no index begins with {beside.name}",
                f"At this size {_SERVED[name][0]}: it holds what does not fit into {name}.",
                f"CREATE INDEX {at_once}ON {seen.name} ({beside.name}, created_at) WHERE {beside.name} IS NOT NULL;",
                seen.settings.table,
            )
            for name in ("session_id", "user_id")
            if (beside := overflow_column(seen.log, name)) is not None and beside.name not in leading | _beside(seen)
        ]  # fmt: skip
    if not any(index.unique and "call_id" in index.columns and index.valid for index in seen.indexes):
        findings.append(
            Finding(
                "unique key", False, "no unique key holds call_id",
                "A row that is delivered twice, after an outage, is stored twice.",
                f"llmctx migrate --yes; or CREATE UNIQUE INDEX CONCURRENTLY ON {seen.name} (call_id, created_at);",
                seen.settings.table,
            )
        )  # fmt: skip
    return findings


def _beside(seen: _Seen) -> set[str]:
    """Return columns that begin an index that has all rows in which they are not NULL."""
    return {
        index.columns[0]
        for index in seen.indexes
        if index.valid and index.columns and index.predicate == f"({index.columns[0]} IS NOT NULL)"
    }


def _children(seen: _Seen) -> list[Finding]:
    return [
        Finding(
            "indexes", False, f"{child.name} has no index on {child.column}, which refers to a call",
            f"For every call that retain or erase deletes, all of {child.name} is read.",
            f"CREATE INDEX CONCURRENTLY ON {child.name} ({child.column});", seen.settings.table,
        )
        for child in seen.children
    ]  # fmt: skip


def _rights(seen: _Seen) -> list[Finding]:
    """Report missing rights: the application needs INSERT and nothing else; the table's owner may be another role."""
    facts = seen.facts
    role = facts["role"]
    if facts["is_owner"]:
        return []
    lacking = [] if facts["may_insert"] else [("INSERT into it", f"GRANT INSERT ON {seen.name} TO {role};")]
    lacking += [
        (f"take numbers from {name}, as an INSERT does", f"GRANT USAGE ON SEQUENCE {name} TO {role};")
        for name in facts["no_numbers"]
    ]
    findings = [
        Finding(
            "rights", False, f"the role {role} may not {what}",
            "An application with this role can store no rows: they wait on disk. (A role that only reads does not "
            "need it.)",
            grant, seen.settings.table,
        )
        for what, grant in lacking
    ]  # fmt: skip
    more = [word for word, has in (("UPDATE", facts["may_update"]), ("DELETE", facts["may_delete"])) if has]
    if more:
        revokes = [f"REVOKE {', '.join(more)} ON {seen.name} FROM {whom};" for whom in facts["by"]]
        findings.append(
            Finding(
                "rights", False, f"the role {role} may {' and '.join(more)}",
                "Rows are written once: an application that is compromised could change them.",
                " ".join(revokes) or f"REVOKE pg_write_all_data FROM {role};", seen.settings.table,
            )
        )  # fmt: skip
    return findings


def _statistics(seen: _Seen) -> list[Finding]:
    facts = seen.facts
    if not facts["unknown"] and not facts["stale"]:
        return []
    cause = "PostgreSQL has never analyzed the rows"
    if not facts["unknown"]:
        cause = "more than half of the rows are newer than its statistics"
    return [
        Finding(
            "statistics", False, cause, "PostgreSQL's plans are guesses. Check that autovacuum is on.",
            f"ANALYZE {seen.name};", seen.settings.table,
        )
    ]  # fmt: skip


def _growth(seen: _Seen) -> list[Finding]:
    facts = seen.facts
    findings = []
    if facts["rows"] + _AHEAD_DAYS * facts["daily"] >= 10 * _LARGE and seen.parts is None:
        findings.append(
            Finding(
                "growth", False, f"{_grown(facts)}, and no partitions",
                "Expired rows can only be deleted row by row.",
                "llmctx retain --rows DAYS --yes, from cron; or, permanently, llmctx partition", seen.settings.table,
            )
        )  # fmt: skip
    if facts["dead"] > max(facts["rows"] // 5, 100_000):
        findings.append(
            Finding(
                "growth", False, f"{counted(facts['dead'], 'dead row')} beside {counted(facts['rows'], 'living one')}",
                "The table takes more space than its rows need, and queries take longer.",
                f"VACUUM (ANALYZE) {seen.name};", seen.settings.table,
            )
        )  # fmt: skip
    return findings


def _grown(facts: dict[str, Any]) -> str:
    """Return how large it is, and what a day adds."""
    rows = max(facts["rows"], 0)
    if facts["distributed"]:
        return f"distributed by Citus, {_size(facts['bytes'])}"
    size = f"{counted(rows, 'row')}, {_size(facts['bytes'])}"
    if not rows or not facts["daily"]:
        return size
    return (
        f"{size}, about {counted(facts['daily'], 'row')} and {_size(facts['bytes'] * facts['daily'] / rows)} more a day"
    )


def _size(number: float) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} TB"
