"""Turns an adopted table into one that is partitioned by month, beside its writers, and back: `migrate --partition`.

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

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import LlmctxError
from llmctx.settings import Settings

Say = Callable[[str], None]
MONTHS_AHEAD: Final = 3
MARGIN: Final = timedelta(days=3)
"""Between now and the end of the old table's time."""
BATCH: Final = 5_000
_CHECK: Final = "llmctx_before"
_STANDING: Final = """
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
UNION ALL SELECT 'other tables inherit from it' FROM pg_inherits WHERE inhparent = to_regclass(:table)
UNION ALL SELECT 'the publication ' || p.pubname || ' replicates it' FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = to_regclass(:table)
UNION ALL SELECT 'it refers to ' || confrelid::regclass || ' by ' || conname FROM pg_constraint
WHERE conrelid = to_regclass(:table) AND contype = 'f'
"""
_INDEXES: Final = """
SELECT pg_get_indexdef(i.indexrelid) AS definition, i.indisunique AS "unique", i.indexprs IS NOT NULL AS expressions,
       pg_get_expr(i.indpred, i.indrelid) AS predicate,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
             WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS columns
FROM pg_index i WHERE i.indrelid = to_regclass(:table) AND i.indisvalid ORDER BY i.indexrelid
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
_FOREIGN: Final = """
SELECT conrelid::regclass::text AS child, conname::text AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(:table) AND conparentid = 0
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
    """One table, seen through a connection; `adopt` and `run` are the parts of the migration that look and act."""

    connection: Connection
    settings: Settings
    adopt: Any
    run: Any
    schema: str | None = None
    """Another than the settings' own: the rehearsal's."""
    say: Say = field(default=lambda _: None)

    def named(self, suffix: str = "") -> str:
        """The table, or one beside it, as it stands in a statement."""
        quote, schema = self.adopt.quote, self.schema or self.settings.db_schema
        name = quote(self.settings.table + suffix)
        return f"{quote(schema)}.{name}" if schema else str(name)

    def ask(self, question: str, **more: Any) -> list[Any]:
        found = list(self.connection.execute(text(question), {"table": self.named(), **more}))
        self.connection.rollback()
        return found

    def standing(self) -> Any:
        (found,) = self.ask(_STANDING, making=self.named("_partitioned"), before=self.named("_before"))
        return found

    def look(self) -> Any:
        found = self.adopt.look(self.connection, self.settings.table, self.schema or self.settings.db_schema)
        self.connection.rollback()
        return found

    def columns(self) -> list[str]:
        """Those that a row is copied by, as they stand in a statement: the others the database computes."""
        return [self.adopt.quote(column.name) for column in self.look().columns.values() if not column.generated]

    # -- there --------------------------------------------------------------------------------------------------------

    def problems(self, *, drop_foreign_keys: bool) -> list[str]:
        """What stands in the way."""
        table = self.look()
        if table is None:
            return ["there is no table"]
        if not table.mine:
            return [f"the table belongs to the role {table.owner}: {table.me} may not change it"]
        found = [row[0] for row in self.ask(_HINDRANCES)]
        if wanted := self.adopt.plan(table).steps:
            found.append(f"it has not been adopted ({wanted[0].what}): run `llmctx migrate --yes` first")
        if not table.columns["created_at"].not_null:
            found.append("created_at may be NULL, and such a row has no month: make it NOT NULL")
        if any(index.expressions and index.unique for index in self.ask(_INDEXES)):
            found.append("a unique key of it is over an expression")
        children = [row.child for row in self.ask(_FOREIGN)]
        if children and not drop_foreign_keys:
            found.append(
                f"{', '.join(children)} refers to it, and no key of a partitioned table is over call_id or id alone: "
                "with --drop-foreign-keys that tie is dropped (the way back ties it again)"
            )
        return found

    def notes(self) -> Iterator[str]:
        """What one should know before: which statements fail or mean something else afterwards."""
        if self.standing().kind != "r":
            return
        lost = [row for row in self.ask(_INDEXES) if row.unique and "created_at" not in row.columns and row.columns]
        for row in lost:
            key, rest = ", ".join(row.columns), f" WHERE {row.predicate}" if row.predicate else ""
            yield (
                f"the key ({key}){rest} becomes ({key}, created_at): {key} alone may be double from then on, and "
                f"ON CONFLICT ({key}) fails. Let statements say ON CONFLICT DO NOTHING, or ({key}, created_at); "
                "ON CONFLICT ON CONSTRAINT fails, too"
            )
        seen = [row[0] for row in self.ask(_CONFLICTS, bare=self.settings.table)] if lost else []
        if lost and self.ask("SELECT to_regclass('pg_stat_statements') IS NOT NULL")[0][0]:
            with contextlib.suppress(DBAPIError):  # installed, and not loaded
                seen += [row[0] for row in self.ask(_STATEMENTS, bare=self.settings.table)]
        self.connection.rollback()
        yield from (f"this would fail: {what}" for what in seen)
        for row in self.ask(_PUBLISHED):
            yield f"the publication {row[0]} of all tables will send its partitions, not itself"
        yield "COPY … TO does not read a partitioned table: COPY (SELECT …) TO does"

    def there(self, *, drop_foreign_keys: bool = False) -> Iterator[Any]:
        """The steps that are left until the table is partitioned."""
        standing = self.standing()
        if standing.kind == "p":
            return
        said = json.loads(standing.making_says) if standing.making else {}
        if said.get("way") == "back":
            raise LlmctxError(
                "The way back is not done: `llmctx migrate --partition --downgrade --yes` goes on with it."
            )
        if problems := self.problems(drop_foreign_keys=drop_foreign_keys):
            raise LlmctxError(f"{self.named()} cannot be partitioned: {'; '.join(problems)}. Nothing was changed.")
        step, table, making = self.adopt.Step, self.named(), self.named("_partitioned")
        bound = datetime.fromisoformat(said["bound"]) if said else _month(datetime.now(UTC) + MARGIN, 1)
        indexes = list(self._indexes())
        foreign = self.ask(_FOREIGN)
        if not standing.making:
            facts = {"bound": bound.isoformat(), "foreign": [list(row) for row in foreign]}
            yield step(
                f"make the table that is to stand in its place, {making}",
                tuple(self._make(bound, indexes, facts)),
                "a moment",
            )
        for row in foreign:
            drop = f"ALTER TABLE {row.child} DROP CONSTRAINT {self.adopt.quote(row.name)}"
            yield step(f"untie {row.child} ({row.definition})", (drop,), "a moment")
        known = {_shape(row.definition) for row in self.ask(_INDEXES)}
        seconds = max(1, self.look().rows // self.adopt.INDEXED_PER_S)
        for name, definition, own in indexes:
            if own and _shape(definition.format(name="x", table=table)) not in known:
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {self._in_schema(name)}"
                make = definition.format(name=f" CONCURRENTLY {self.adopt.quote(name)}", table=table)
                yield step(f"a key with created_at in it, {name}", (drop, make), "none", seconds, concurrently=True)
        at = self._moment(bound)
        columns = self.columns()
        names, values = ", ".join(columns), ", ".join(f"NEW.{name}" for name in columns)
        ahead = self._ahead
        lead = f"INSERT INTO {making} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING; RETURN NULL;"
        function = f"FUNCTION {ahead}() RETURNS trigger LANGUAGE plpgsql AS $llmctx$ BEGIN {lead} END $llmctx$"
        when = f"BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.created_at >= {at})"
        leading = (
            f"CREATE OR REPLACE {function}",
            f"DROP TRIGGER IF EXISTS llmctx_ahead ON {table}",
            f"CREATE TRIGGER llmctx_ahead {when} EXECUTE FUNCTION {ahead}()",
        )
        (done,) = self.ask(_DONE, check=_CHECK)
        if not done.leads:
            yield step(f"lead rows from {bound:%Y-%m-%d} on to where they will belong", leading, "a moment")
        move = f"WITH gone AS (DELETE FROM {table} WHERE created_at >= {at} RETURNING {names}) "
        moving = (f"{move}INSERT INTO {making} ({names}) SELECT {names} FROM gone",)
        if done.promises is None and (not done.leads or self._any_from(at)):
            yield step("move those that are there already", moving, "none")
        if done.promises is None:
            check = f"ADD CONSTRAINT {_CHECK} CHECK (created_at < {at}) NOT VALID"
            promise = f"promise that it holds nothing from {bound:%Y-%m-%d} on"
            yield step(promise, (f"ALTER TABLE {table} {check}",), "a moment")
        if not done.promises:
            yield step("prove it", (f"ALTER TABLE {table} VALIDATE CONSTRAINT {_CHECK}",), "none", seconds)
        yield step("put the new table in its place, and it into that", tuple(self._swap(at, making)), "a moment")

    def _any_from(self, at: str) -> bool:
        """Whether rows are dated that far ahead."""
        return bool(
            self.ask(f"SELECT EXISTS (SELECT FROM {self.named()} WHERE created_at >= {at})".replace(":", r"\:"))[0][0]
        )

    def _make(self, bound: datetime, indexes: list[Any], facts: dict[str, Any]) -> Iterator[str]:
        table, making = self.named(), self.named("_partitioned")
        like = "DEFAULTS INCLUDING COMMENTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE"
        yield f"CREATE TABLE {making} (LIKE {table} INCLUDING {like}) PARTITION BY RANGE (created_at)"
        yield f"COMMENT ON TABLE {making} IS '{json.dumps(facts).replace(chr(39), chr(39) * 2)}'"
        owner = f"OWNER TO {self.adopt.quote(self.look().owner)}"
        yield f"ALTER TABLE {making} {owner}"
        yield from (row[0] for row in self.ask(_RIGHTS.format(to=making)))
        yield f"CREATE TABLE {self.named('_default')} PARTITION OF {making} DEFAULT"
        yield f"ALTER TABLE {self.named('_default')} {owner}"
        for ahead in range(MONTHS_AHEAD):
            first, after = self._moment(_month(bound, ahead)), self._moment(_month(bound, ahead + 1))
            part = self.named(f"_p{_month(bound, ahead):%Y_%m}")
            yield f"CREATE TABLE {part} PARTITION OF {making} FOR VALUES FROM ({first}) TO ({after})"
            yield f"ALTER TABLE {part} {owner}"
        for name, definition, _ in indexes:
            yield definition.format(
                name=f" {self.adopt.quote(name.replace('llmctx_part', 'llmctx_whole', 1))}", table=making
            )

    def _indexes(self) -> Iterator[tuple[str, str, bool]]:
        """Of each index: a name, its definition for `table`, and whether the old table needs one more for it."""
        quote = self.adopt.quote
        seen = set()
        for at, row in enumerate(row for row in self.ask(_INDEXES)):
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

    def _swap(self, at: str, making: str) -> Iterator[str]:
        table, before = self.named(), self.named("_before")
        yield f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
        yield f"DROP TRIGGER llmctx_ahead ON {table}"
        yield f"DROP FUNCTION {self._ahead}()"
        yield f"ALTER TABLE {table} RENAME TO {self.adopt.quote(self.settings.table + '_before')}"
        yield f"ALTER TABLE {making} RENAME TO {self.adopt.quote(self.settings.table)}"
        yield f"ALTER TABLE {table} ATTACH PARTITION {before} FOR VALUES FROM (MINVALUE) TO ({at})"
        yield f"ALTER TABLE {before} DROP CONSTRAINT {_CHECK}"
        # what is known of the way stands on the old table from now on: the host's autogenerate reads comments
        yield (
            f"DO $llmctx$ BEGIN EXECUTE 'COMMENT ON TABLE {before.replace(chr(39), chr(39) * 2)} IS ' || quote_literal("
            f"obj_description('{table}'::regclass, 'pg_class')); END $llmctx$"
        )
        yield f"COMMENT ON TABLE {table} IS NULL"
        for row in self.ask(_SEQUENCES):
            yield f"ALTER SEQUENCE {row.sequence} OWNED BY {table}.{self.adopt.quote(row.column)}"

    # -- and back -----------------------------------------------------------------------------------------------------

    def back(self) -> Iterator[Any]:
        """The steps until the table is as it was; rows of the months since are moved in between, see `move`."""
        standing, step = self.standing(), self.adopt.Step
        table, making, before = self.named(), self.named("_partitioned"), self.named("_before")
        if standing.kind == "p" and standing.before:
            facts = json.loads(standing.before_says) | {"way": "back"}
            owned = [
                f"ALTER SEQUENCE {r.sequence} OWNED BY {before}.{self.adopt.quote(r.column)}"
                for r in self.ask(_SEQUENCES)
            ]
            says = json.dumps(facts).replace("'", "''")
            swap = (
                f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
                *owned,
                f"ALTER TABLE {table} DETACH PARTITION {before}",
                f"ALTER TABLE {table} RENAME TO {self.adopt.quote(self.settings.table + '_partitioned')}",
                f"ALTER TABLE {before} RENAME TO {self.adopt.quote(self.settings.table)}",
                f"COMMENT ON TABLE {table} IS NULL",
                f"COMMENT ON TABLE {making} IS '{says}'",
            )
            yield step("put the old table in its place again", swap, "a moment")
        elif standing.making:
            undo = (
                f"DROP TRIGGER IF EXISTS llmctx_ahead ON {table}",
                f"DROP FUNCTION IF EXISTS {self._ahead}()",
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {_CHECK}",
            )
            yield step("let it hold every month again", undo, "a moment")

    def parts(self) -> list[str]:
        """Partitions whose rows have to go back into the table."""
        question = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(:making) ORDER BY 1"
        return [row[0] for row in self.ask(question, making=self.named("_partitioned"))]

    def move(self, part: str) -> int:
        """Move some rows of `part` back, and say how many."""
        names = ", ".join(self.columns())
        some = f"DELETE FROM {part} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {part} LIMIT {BATCH})) RETURNING {names}"
        done = self.connection.execute(
            text(f"WITH gone AS ({some}) INSERT INTO {self.named()} ({names}) SELECT {names} FROM gone")
        )
        self.connection.commit()
        return int(done.rowcount)

    def tidy(self) -> Iterator[Any]:
        """The last steps back: what was made for the partitions goes, and who was untied is tied again."""
        standing, step = self.standing(), self.adopt.Step
        if not standing.making:
            return
        for row in self.ask(_INDEXES):
            if found := re.search(rf"INDEX (\"?llmctx_part_{self.settings.table}_\d+\"?) ", row.definition):
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {self._in_schema(found[1].strip(chr(34)))}"
                yield step(f"drop index {found[1]}", (drop,), "none", concurrently=True)
        tied = {row.name for row in self.ask(_FOREIGN)}
        for child, name, definition in json.loads(standing.making_says)["foreign"]:
            bare = definition.removesuffix(" NOT VALID")
            add = f"ALTER TABLE {child} ADD CONSTRAINT {self.adopt.quote(name)} {bare} NOT VALID"
            if name not in tied:
                yield step(f"tie {child} again", (add,), "a moment")
            yield step(
                "see that it holds", (f"ALTER TABLE {child} VALIDATE CONSTRAINT {self.adopt.quote(name)}",), "none"
            )
        yield step("drop the partitions, which are empty", (f"DROP TABLE {self.named('_partitioned')}",), "a moment")

    def _moment(self, at: datetime) -> str:
        zone = "+00" if self.look().columns["created_at"].type.endswith("with time zone") else ""
        return f"'{at:%Y-%m-%d} 00:00:00{zone}'"

    @property
    def _ahead(self) -> str:
        """The function of the trigger that leads rows to their partitions before the swap."""
        return self._in_schema(f"llmctx_ahead_{self.settings.table}")

    def _in_schema(self, name: str) -> str:
        quote, schema = self.adopt.quote, self.schema or self.settings.db_schema
        return f"{quote(schema)}.{quote(name)}" if schema else str(quote(name))


def _month(moment: datetime, ahead: int) -> datetime:
    years, month = divmod(moment.month - 1 + ahead, 12)
    return datetime(moment.year + years, month + 1, 1, tzinfo=UTC)


def _shape(definition: str) -> str:
    """An index without its name and its table's."""
    return re.sub(r"^CREATE (UNIQUE )?INDEX.*? ON .*? USING ", r"\1", definition)
