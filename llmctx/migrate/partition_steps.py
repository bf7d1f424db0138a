"""Turns an adopted table into one that is partitioned by month, beside its writers, and back: `llmctx partition`.

The old table becomes the first partition, as it is: no row of it is copied. Beforehand its keys are built once more
with created_at in them, and a check proves that it holds nothing of the months to come, so that the swap takes a
moment. While the check is proved, rows that are dated that far ahead are led to where they will belong. Everything is
read from the catalogue, so that after a break the next run goes on, or leads back.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import LlmctxError
from llmctx.migrate.adoption.inspect import ExistingTable, inspect_table
from llmctx.migrate.adoption.plan import INDEXED_PER_S, Step
from llmctx.migrate.adoption.plan import plan as adoption_plan
from llmctx.migrate.state import target
from llmctx.settings import Settings
from llmctx.storage import catalog
from llmctx.storage.catalog import literal, qualify_name, quote
from llmctx.storage.distribution import has_distributed
from llmctx.storage.partition_ddl import Diversion, Month, day_literal, move_rows, partition_name

Say = Callable[[str], None]
MONTHS_AHEAD: Final = 3
MARGIN: Final = timedelta(days=3)
"""Between now and the end of the old table's time."""
BATCH: Final = 5_000
_CHECK: Final = "llmctx_before"
_STATE: Final = """
SELECT (SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:table)) AS kind,
       to_regclass(:making) IS NOT NULL AS making, to_regclass(:before) IS NOT NULL AS before,
       obj_description(to_regclass(:making), 'pg_class') AS making_says,
       obj_description(to_regclass(:before), 'pg_class') AS before_says
"""
_HINDRANCES: Final = """
SELECT 'the view ' || v.ev_class::regclass || ' reads it: drop it, and make it again afterwards'
FROM (SELECT DISTINCT r.ev_class FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
      WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(:table)) v
WHERE v.ev_class <> to_regclass(:table)
UNION ALL SELECT 'it has the trigger ' || tgname || ': drop it, and make it again afterwards' FROM pg_trigger
WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal AND tgname <> 'llmctx_ahead'
UNION ALL SELECT 'it has policies or rules of its own' FROM pg_class
WHERE oid = to_regclass(:table) AND (relrowsecurity OR relhasrules)
UNION ALL SELECT 'its column ' || attname || ' is an identity column' FROM pg_attribute
WHERE attrelid = to_regclass(:table) AND attidentity <> '' AND NOT attisdropped
UNION ALL SELECT DISTINCT 'other tables inherit from it' FROM pg_inherits WHERE inhparent = to_regclass(:table)
UNION ALL SELECT 'the publication ' || p.pubname || ' replicates it' FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = to_regclass(:table)
UNION ALL SELECT 'it refers to ' || confrelid::regclass || ' by ' || conname FROM pg_constraint
WHERE conrelid = to_regclass(:table) AND contype = 'f'
"""
_DONE: Final = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(:table) AND tgname = 'llmctx_ahead') AS leads,
       (SELECT convalidated FROM pg_constraint WHERE conrelid = to_regclass(:table) AND conname = :check) AS promises
"""
_CONFLICTS: Final = r"""
SELECT DISTINCT 'the function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prosrc ~* 'on\s+conflict\s*(\(|on\s)'
  AND strpos(p.prosrc, :bare) > 0
"""
_STATEMENTS: Final = r"""
SELECT DISTINCT 'the statement ' || left(regexp_replace(query, '\s+', ' ', 'g'), 200) FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND query ~* 'on\s+conflict\s*(\(|on\s)' AND strpos(query, :bare) > 0 LIMIT 20
"""
_PUBLISHED: Final = """
SELECT p.pubname FROM pg_publication p WHERE p.puballtables AND NOT p.pubviaroot
"""
_SEQUENCES: Final = """
SELECT d.objid::regclass::text AS sequence, a.attname::text AS "column" FROM pg_depend d
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
WHERE d.refobjid = to_regclass(:table) AND d.classid = 'pg_class'::regclass AND d.deptype = 'a' AND d.refobjsubid > 0
"""
_RIGHTS: Final = """
SELECT 'GRANT ' || a.privilege_type || ' ON {to} TO '
       || CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
       || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = to_regclass(:table) AND a.grantee <> c.relowner
"""


@dataclass(slots=True)
class Conversion:
    """One table, seen through a connection."""

    connection: Connection
    settings: Settings
    schema: str | None = None
    """Another than the settings' own: the rehearsal's."""
    say: Say = field(default=lambda _: None)

    def qualify(self, suffix: str = "") -> str:
        """Return the table, or one beside it, as it stands in a statement."""
        return self._in_schema(self.settings.table + suffix)

    def _in_schema(self, name: str) -> str:
        return qualify_name(name, self.schema or self.settings.db_schema)

    def query(self, question: str, table: str | None = None, **more: Any) -> list[Row[Any]]:
        """Return the answers to a question about the table, or about another one."""
        answers = list(catalog.rows(self.connection, question, table or self.qualify(), **more))
        self.connection.rollback()
        return answers

    def state(self) -> Row[Any]:
        (found,) = self.query(_STATE, making=self.qualify("_partitioned"), before=self.qualify("_before"))
        return found

    def find(self) -> ExistingTable | None:
        """Inspect the table, if there is one."""
        table = inspect_table(self.connection, self.settings.table, self.schema or self.settings.db_schema)
        self.connection.rollback()
        return table

    def inspect(self) -> ExistingTable:
        """Inspect the table, which is there."""
        table = self.find()
        assert table is not None
        return table

    def columns(self, table: str | None = None) -> list[str]:
        """Return those that a row is copied by, as they stand in a statement: the others the database computes."""
        return [quote(row.name) for row in self.query(catalog.COLUMNS, table) if not row.generated]

    def _indexes_now(self) -> list[Row[Any]]:
        return [row for row in self.query(catalog.INDEXES) if row.valid]

    def _children(self) -> list[Row[Any]]:
        """Return the foreign keys that refer to the table."""
        return [row for row in self.query(catalog.FOREIGN_KEYS) if not row.own]

    def _is_distributed(self) -> bool:
        found = has_distributed(self.connection, self.qualify())
        self.connection.rollback()
        return found

    def _undistribute(self) -> str:
        """Return what is to be done with a table whose rows lie on the nodes of a cluster."""
        alone = f"SELECT undistribute_table({literal(self.qualify())})"
        return f"Citus has distributed it: {alone} before, and `llmctx migrate --distribute --yes` afterwards"

    # -- there --------------------------------------------------------------------------------------------------------

    def problems(self, *, drop_foreign_keys: bool) -> list[str]:
        """Return what stands in the way."""
        table = self.find()
        if table is None:
            return ["there is no table: run `llmctx migrate`, which makes one that is partitioned"]
        if not table.is_owner:
            return [f"the table belongs to the role {table.owner}: {table.role} may not change it"]
        adoption = adoption_plan(table, target()[1])
        if "created_at" not in table.columns:
            return adoption.problems
        found = [row[0] for row in self.query(_HINDRANCES)] + ([self._undistribute()] if self._is_distributed() else [])
        if wanted := adoption.steps:
            found.append(f"it has not been adopted ({wanted[0].what}): run `llmctx migrate --yes` first")
        if not table.columns["created_at"].not_null:
            found.append("created_at may be NULL, and a row without it belongs to no month: make it NOT NULL")
        if any(index.expressions and index.unique for index in self._indexes_now()):
            found.append("one of its unique keys is over an expression")
        if self.state().making and self.columns() != self.columns(self.qualify("_partitioned")):
            found.append("its columns have changed: run `llmctx partition --downgrade --yes`, and begin again")
        children = [row.child for row in self._children()]
        if children and not drop_foreign_keys:
            found.append(
                f"{', '.join(children)} refers to it, and no key of a partitioned table is over call_id or id alone: "
                "with --drop-foreign-keys that tie is dropped (the way back ties it again)"
            )
        return found

    def notes(self) -> Iterator[str]:
        """Return what one should know before: which statements fail or mean something else afterwards."""
        if self.state().kind != "r":
            return
        lost = [row for row in self._indexes_now() if row.unique and "created_at" not in row.columns and row.columns]
        for row in lost:
            key, rest = ", ".join(row.columns), f" WHERE {row.predicate}" if row.predicate else ""
            yield (
                f"the key ({key}){rest} becomes ({key}, created_at): {key} alone may be double from then on, and "
                f"ON CONFLICT ({key}) fails. Let statements say ON CONFLICT DO NOTHING, or ({key}, created_at); "
                "ON CONFLICT ON CONSTRAINT fails, too"
            )
        seen = [row[0] for row in self.query(_CONFLICTS, bare=self.settings.table)] if lost else []
        if lost and self.query("SELECT to_regclass('pg_stat_statements') IS NOT NULL")[0][0]:
            with contextlib.suppress(DBAPIError):  # installed, and not loaded
                seen += [row[0] for row in self.query(_STATEMENTS, bare=self.settings.table)]
        self.connection.rollback()
        yield from (f"this would fail: {what}" for what in seen)
        for row in self.query(_PUBLISHED):
            yield f"the publication {row[0]} of all tables will send its partitions, not itself"
        yield "COPY … TO does not read a partitioned table: COPY (SELECT …) TO does"

    def forward_steps(self, *, drop_foreign_keys: bool = False) -> Iterator[Step]:
        """Yield the steps that are left until the table is partitioned."""
        now = self.state()
        if now.kind == "p":
            return
        facts = json.loads(now.making_says) if now.making else {}
        if facts.get("way") == "back":
            raise LlmctxError("The way back is not complete: continue with `llmctx partition --downgrade --yes`.")
        if problems := self.problems(drop_foreign_keys=drop_foreign_keys):
            raise LlmctxError(f"{self.qualify()} cannot be partitioned: {'; '.join(problems)}. Nothing was changed.")
        table, making, old = self.qualify(), self.qualify("_partitioned"), self.inspect()
        bound = datetime.fromisoformat(facts["bound"]) if facts else Month.after(datetime.now(UTC) + MARGIN, 1).first
        indexes, children = list(self._indexes()), self._children()
        if not now.making:
            facts = {
                "bound": bound.isoformat(),
                "foreign": [[child.child, child.name, child.definition] for child in children],
            }
            make = tuple(self._make(old, bound, indexes, facts))
            yield Step(f"create the table that replaces it, {making}", make, "a moment")
        for child in children:
            drop = f"ALTER TABLE {child.child} DROP CONSTRAINT {quote(child.name)}"
            yield Step(f"drop the foreign key of {child.child} ({child.definition})", (drop,), "a moment")
        known = {_shape(row.definition) for row in self._indexes_now()}
        seconds = max(1, old.rows // INDEXED_PER_S)
        for name, definition, own in indexes:
            if own and _shape(definition.format(name="x", table=table)) not in known:
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {self._in_schema(name)}"
                build = definition.format(name=f" CONCURRENTLY {quote(name)}", table=table)
                yield Step(f"a key with created_at in it, {name}", (drop, build), "none", seconds, concurrently=True)
        yield from self._divert(old, bound, seconds)

    def _divert(self, old: ExistingTable, bound: datetime, seconds: int) -> Iterator[Step]:
        """Yield the steps that keep the old table free of the months to come, and put the new one in its place."""
        at = day_literal(bound, naive=_is_naive(old))
        ahead = Diversion(
            source=self.qualify(),
            target=self.qualify("_partitioned"),
            columns=self.columns(),
            moving_condition=f"{{row}}created_at >= {at}",
            staying_condition=f"created_at < {at}",
            check=_CHECK,
            function=self._ahead,
        )
        (done,) = self.query(_DONE, check=_CHECK)
        if not done.leads:
            words = f"route rows from {bound:%Y-%m-%d} on to their new partitions"
            yield Step(words, tuple(ahead.lead()), "a moment")
        if done.promises is None and (not done.leads or self._any_from(at)):
            yield Step("move the existing ones", (ahead.move(),), "none")
        if done.promises is None:
            promise = f"constrain it to rows before {bound:%Y-%m-%d}"
            yield Step(promise, (ahead.constrain(),), "a moment")
        if not done.promises:
            yield Step("prove it", (ahead.validate(),), "none", seconds)
        swap = (*ahead.end(), *self._swap(at))
        yield Step("swap in the new table, with this one as its first partition", swap, "a moment")

    def _any_from(self, at: str) -> bool:
        """Return whether rows are dated that far ahead."""
        question = f"SELECT EXISTS (SELECT FROM {self.qualify()} WHERE created_at >= {at})"
        return bool(self.query(question.replace(":", r"\:"))[0][0])

    def _make(self, old: ExistingTable, bound: datetime, indexes: list[Any], facts: dict[str, Any]) -> Iterator[str]:
        table, making = self.qualify(), self.qualify("_partitioned")
        like = "DEFAULTS INCLUDING COMMENTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE"
        yield f"CREATE TABLE {making} (LIKE {table} INCLUDING {like}) PARTITION BY RANGE (created_at)"
        yield f"COMMENT ON TABLE {making} IS {literal(json.dumps(facts))}"
        owner = f"OWNER TO {quote(old.owner)}"
        yield f"ALTER TABLE {making} {owner}"
        yield from (row[0] for row in self.query(_RIGHTS.format(to=making)))
        yield f"CREATE TABLE {self.qualify('_default')} PARTITION OF {making} DEFAULT"
        yield f"ALTER TABLE {self.qualify('_default')} {owner}"
        for ahead in range(MONTHS_AHEAD):
            month = Month.after(bound, ahead)
            first, after = month.bounds(naive=_is_naive(old))
            part = self._in_schema(partition_name(self.settings.table, month.first))
            yield f"CREATE TABLE {part} PARTITION OF {making} FOR VALUES FROM ({first}) TO ({after})"
            yield f"ALTER TABLE {part} {owner}"
        for name, definition, _ in indexes:
            yield definition.format(name=f" {quote(name.replace('llmctx_part', 'llmctx_whole', 1))}", table=making)

    def _indexes(self) -> Iterator[tuple[str, str, bool]]:
        """Yield of each index a name, its definition for `table`, and whether the old table needs one more for it."""
        seen = set()
        for at, row in enumerate(self._indexes_now()):
            name = f"llmctx_part_{self.settings.table}_{at}"
            if row.unique and "created_at" not in row.columns:
                where = f" WHERE {row.predicate}" if row.predicate else ""
                over = ", ".join(map(quote, [*row.columns, "created_at"]))
                definition, own = f"CREATE UNIQUE INDEX{{name}} ON {{table}} USING btree ({over}){where}", True
            else:
                plain = row.definition.replace("{", "{{").replace("}", "}}")
                definition = re.sub(r"^(CREATE (?:UNIQUE )?INDEX) .*? USING ", r"\1{name} ON {table} USING ", plain)
                own = False
            if (shape := _shape(definition)) not in seen:
                seen.add(shape)
                yield name, definition, own

    def _swap(self, at: str) -> Iterator[str]:
        table, making, before = self.qualify(), self.qualify("_partitioned"), self.qualify("_before")
        yield f"ALTER TABLE {table} RENAME TO {quote(self.settings.table + '_before')}"
        yield f"ALTER TABLE {making} RENAME TO {quote(self.settings.table)}"
        yield f"ALTER TABLE {table} ATTACH PARTITION {before} FOR VALUES FROM (MINVALUE) TO ({at})"
        yield f"ALTER TABLE {before} DROP CONSTRAINT {_CHECK}"
        # what is known of the way stands on the old table from now on: the host's autogenerate reads comments
        yield (
            f"DO $llmctx$ BEGIN EXECUTE 'COMMENT ON TABLE {literal(before)[1:-1]} IS ' || quote_literal("
            f"obj_description('{table}'::regclass, 'pg_class')); END $llmctx$"
        )
        yield f"COMMENT ON TABLE {table} IS NULL"
        for row in self.query(_SEQUENCES):
            yield f"ALTER SEQUENCE {row.sequence} OWNED BY {table}.{quote(row.column)}"

    # -- and back -----------------------------------------------------------------------------------------------------

    def backward_steps(self) -> Iterator[Step]:
        """Yield the steps until the table is as it was; rows of the months since are moved in between, see `move`."""
        now = self.state()
        table, making, before = self.qualify(), self.qualify("_partitioned"), self.qualify("_before")
        if (now.making or now.before) and self._is_distributed():
            raise LlmctxError(f"{table} cannot be converted back: {self._undistribute()}. Nothing was changed.")
        if now.kind == "p" and now.before:
            facts = json.loads(now.before_says) | {"way": "back"}
            owned = [f"ALTER SEQUENCE {r.sequence} OWNED BY {before}.{quote(r.column)}" for r in self.query(_SEQUENCES)]
            swap = (
                f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
                *owned,
                f"ALTER TABLE {table} DETACH PARTITION {before}",
                f"ALTER TABLE {table} RENAME TO {quote(self.settings.table + '_partitioned')}",
                f"ALTER TABLE {before} RENAME TO {quote(self.settings.table)}",
                f"COMMENT ON TABLE {table} IS NULL",
                f"COMMENT ON TABLE {making} IS {literal(json.dumps(facts))}",
                *self._marks_for(before),
            )
            yield Step("swap the old table back in", swap, "a moment")
        elif now.making:
            undo = (
                f"DROP TRIGGER IF EXISTS llmctx_ahead ON {table}",
                f"DROP FUNCTION IF EXISTS {self._ahead}()",
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {_CHECK}",
            )
            yield Step("let it hold every month again", undo, "a moment")

    def _marks_for(self, before: str) -> Iterator[str]:
        """Yield the marks of columns that have come while the table was partitioned: they stand on the whole alone."""
        old = catalog.columns_of(self.connection, before)
        for column in self.inspect().marked_columns:
            if old[column.name].comment != column.comment:
                yield f"COMMENT ON COLUMN {self.qualify()}.{quote(column.name)} IS {literal(column.comment or '')}"

    def parts(self) -> list[str]:
        """Return the partitions whose rows have to go back into the table."""
        return [row.name for row in self.query(catalog.PARTITIONS, self.qualify("_partitioned"))]

    def move(self, part: str) -> int:
        """Move some rows of `part` back, and return how many."""
        some = f"ctid = ANY (ARRAY(SELECT ctid FROM {part} LIMIT {BATCH}))"
        done = self.connection.execute(text(move_rows(part, self.qualify(), self.columns(part), some)))
        self.connection.commit()
        return int(done.rowcount)

    def cleanup_steps(self) -> Iterator[Step]:
        """Yield the last steps back: what was made for the partitions goes, what was untied is tied again."""
        now = self.state()
        if not now.making:
            return
        for row in self._indexes_now():
            if found := re.search(rf"INDEX (\"?llmctx_part_{self.settings.table}_\d+\"?) ", row.definition):
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {self._in_schema(found[1].strip(chr(34)))}"
                yield Step(f"drop index {found[1]}", (drop,), "none", concurrently=True)
        tied = {row.name for row in self._children()}
        for child, name, definition in json.loads(now.making_says)["foreign"]:
            bare = definition.removesuffix(" NOT VALID")
            add = f"ALTER TABLE {child} ADD CONSTRAINT {quote(name)} {bare} NOT VALID"
            if name not in tied:
                yield Step(f"tie {child} again", (add,), "a moment")
            yield Step("validate the constraint", (f"ALTER TABLE {child} VALIDATE CONSTRAINT {quote(name)}",), "none")
        yield Step("drop the partitions, which are empty", (f"DROP TABLE {self.qualify('_partitioned')}",), "a moment")

    @property
    def _ahead(self) -> str:
        """Return the name of the trigger function that leads rows to their partitions before the swap."""
        return self._in_schema(f"llmctx_ahead_{self.settings.table}")


def _is_naive(table: ExistingTable) -> bool:
    return not table.columns["created_at"].type.endswith("with time zone")


def _shape(definition: str) -> str:
    """Return the definition of an index without its name and its table's."""
    return re.sub(r"^CREATE (UNIQUE )?INDEX.*? ON .*? USING ", r"\1", definition)
