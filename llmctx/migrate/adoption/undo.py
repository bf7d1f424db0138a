"""The steps back: what bears llmctx's mark is taken away, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy import Connection, text

from llmctx.migrate.adoption.checks import sequence
from llmctx.migrate.adoption.inspect import ExistingTable
from llmctx.migrate.adoption.plan import Step, StepPlan, drop_index, note_facts
from llmctx.storage.catalog import quote


def columns_with_nulls(connection: Connection, table: ExistingTable) -> set[str]:
    """Return the columns that may be NULL since the adoption, and are in some row."""
    names = [name for name in table.changes_by_column["nullable"] if name in table.columns]
    exists = "SELECT EXISTS (SELECT FROM {} WHERE {} IS NULL)"
    return {name for name in names if connection.scalar(text(exists.format(table.sql, quote(name))))}


def plan_undo(table: ExistingTable, with_nulls: Collection[str], only: Collection[str] | None = None) -> StepPlan:
    """Return what takes away all that was added, or the columns `only`, as one revision has added them.

    `with_nulls` are the columns that may be NULL since the adoption, and are in some row.
    """
    if table.kind not in ("r", "p"):
        return StepPlan()
    if only is not None:
        names = [name for name in only if name in table.columns and (table.made_by_us or name in _marked(table))]
        return _owned(table, [*_drop_columns(table, names)], [], names)
    if any(part.endswith((f"{table.name}_before", f'{table.name}_before"')) for part in table.partitions):
        return StepPlan(problems=["its partitions come first: `llmctx partition --downgrade --yes`"])
    steps = [drop_index(table, index.name, f"drop index {index.name}") for index in table.added_indexes]
    steps += [
        *_compress_as_before(table),
        *_drop_defaults(table),
        *_require_values(table, with_nulls),
        *_drop_columns(table, _marked(table)),
    ]
    notes = [
        f"{name} is NULL in some rows, so it may stay so"
        for name in table.changes_by_column["nullable"]
        if name in with_nulls and name in table.columns and not table.columns[name].not_null
    ]
    return _owned(table, steps, notes, _marked(table))


def _marked(table: ExistingTable) -> list[str]:
    return [column.name for column in table.marked_columns]


def _owned(table: ExistingTable, steps: list[Step], notes: list[str], dropped: Collection[str]) -> StepPlan:
    if users := {what for name in dropped for what in table.dependents_by_column.get(name, ())}:
        problem = f"{' and '.join(sorted(users))} use what llmctx has added: drop them, make them again later"
        return StepPlan(problems=[problem])
    if steps and not table.is_owner:
        problem = f"table {table.sql} belongs to the role {table.owner}: {table.role} may not change it"
        return StepPlan(steps, notes, [problem])
    return StepPlan(steps, notes)


def _compress_as_before(table: ExistingTable) -> Iterator[Step]:
    names = [name for name in table.changes_by_column.get("compressed", ()) if name in table.columns]
    if names:
        back = ", ".join(f"ALTER COLUMN {quote(name)} SET COMPRESSION default" for name in names)
        statements = [f"ALTER TABLE {one} {back}" for one in (table.sql, *table.partitions)]
        left = {kind: its for kind, its in table.changes_by_column.items() if kind != "compressed"}
        done = note_facts(table.sql, _marked(table)[0], left)
        yield Step("compress new texts as before; existing rows stay as they are", (*statements, done), "a moment")


def _drop_defaults(table: ExistingTable) -> Iterator[Step]:
    for name in table.changes_by_column["defaults"]:
        if name in table.columns and not table.columns[name].required:  # else taken away before a break
            drop = f"ALTER TABLE {table.sql} ALTER COLUMN {quote(name)} DROP DEFAULT"
            tidy = f"DROP SEQUENCE IF EXISTS {sequence(table, name)}"
            yield Step(f"{name} loses its default", (drop, tidy), "a moment")


def _require_values(table: ExistingTable, with_nulls: Collection[str]) -> Iterator[Step]:
    """NOT NULL again, proved beside the writers."""
    alter = f"ALTER TABLE {table.sql} "
    for name in table.changes_by_column["nullable"]:
        if name not in table.columns or table.columns[name].not_null or name in with_nulls:
            continue
        check = quote(f"llmctx_{table.name}_{name}")[:63]
        add = f"DROP CONSTRAINT IF EXISTS {check}, ADD CONSTRAINT {check} CHECK ({quote(name)} IS NOT NULL) NOT VALID"
        last = f"ALTER COLUMN {quote(name)} SET NOT NULL, DROP CONSTRAINT {check}"
        yield Step(f"{name} requires a value from now on", (alter + add,), "a moment")
        yield Step("check that every row has one", (f"{alter}VALIDATE CONSTRAINT {check}",), "none")
        yield Step(f"{name} is NOT NULL again", (alter + last,), "a moment")


def _drop_columns(table: ExistingTable, names: Collection[str]) -> Iterator[Step]:
    if not names:
        return
    left = [name for name in _marked(table) if name not in names]
    facts = [note_facts(table.sql, left[0], table.changes_by_column)] if left and _marked(table)[0] in names else []
    drop = ", ".join(f"DROP COLUMN {quote(name)}" for name in names)
    words = f"drop {len(names)} column{'s' if len(names) > 1 else ''} with what is in them: {', '.join(names)}"
    yield Step(words, (*facts, f"ALTER TABLE {table.sql} {drop}"), "a moment")
