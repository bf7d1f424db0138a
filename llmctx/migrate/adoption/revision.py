"""Functions that a file of `alembic/versions` calls. The next revision is a file of twenty lines:

    \"\"\"Add region: where the model ran.\"\"\"

    from __future__ import annotations

    from llmctx.migrate.adoption import revision as reconciler

    revision = "llmctx_0003"
    down_revision = "llmctx_0002"
    branch_labels = None
    depends_on = None
    COLUMNS = {"region": "text"}

    def upgrade() -> None:
        reconciler.upgrade(revision)

    def downgrade() -> None:
        reconciler.downgrade(revision)

`COLUMNS` are those that the revision adds, with their types on PostgreSQL (a key of `TYPES`); once released they are
never edited. They may be NULL and have no default. The same columns go into `core/record.py`.

A revision also runs inside of a host's alembic tree, whose env.py knows nothing of us: the table's name comes from
-x llmctx_table=… or LLMCTX_TABLE there. With -x llmctx_widen=1 ids of another type become text; -x llmctx_existing=
numbers, texts or unkeyed is for `--sql`, which cannot look: the table is there, and of that shape.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from alembic import context, op
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.dialects.postgresql import JSONB

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate.adoption import offline
from llmctx.migrate.adoption.checks import Columns
from llmctx.migrate.adoption.execute import Say, carry_out
from llmctx.migrate.adoption.inspect import ExistingTable, inspect_table
from llmctx.migrate.adoption.plan import StepPlan, plan
from llmctx.migrate.adoption.undo import columns_with_nulls, plan_undo
from llmctx.storage.catalog import qualify_name
from llmctx.storage.ddl import literal_text
from llmctx.storage.partition_ddl import Month, partition_name

TYPES: Final[dict[str, sa.types.TypeEngine[Any]]] = {
    "text": sa.Text(), "integer": sa.Integer(), "double precision": sa.Double(), "boolean": sa.Boolean(),
    "timestamp with time zone": sa.DateTime(timezone=True), "uuid": sa.Uuid(), "numeric(18, 9)": sa.Numeric(18, 9),
    "jsonb": sa.JSON().with_variant(JSONB(), "postgresql"),
}  # fmt: skip
Create = Callable[[str, str | None, Columns], None]


@dataclass(slots=True)
class Run:
    """One run through the revisions. `llmctx migrate` hands it over whole: the first revision does all of it."""

    target_columns: Columns
    """The columns at the end; none where the way leads back to the base."""
    table: ExistingTable | None = None
    """As it was inspected; None where there is none, or it could not be inspected."""
    with_nulls: Collection[str] = ()
    existing: str | None = None
    """The shape of a table that could not be inspected."""
    plan: StepPlan | None = None
    """The steps up, where they are known already."""
    widen: bool = False
    say: Say | None = None
    patience_s: float | None = None
    is_done: bool = False


def columns_until(script: ScriptDirectory, revision: str | None) -> Columns:
    """Return the columns that a table has at `revision`, in their order; none at the base."""
    if revision is None:
        return {}
    revisions = [one for one in script.iterate_revisions(revision, "base") if one.revision.startswith("llmctx_")]
    return {name: kind for one in reversed(revisions) for name, kind in one.module.COLUMNS.items()}


def upgrade(revision: str, create: Create | None = None) -> None:
    """Bring the table to what `revision` wants, and with `create` make it where there is none."""
    name, schema = _name()
    run = _run(columns_until(context.script, revision), name, schema)
    if run.is_done:
        return
    run.is_done = True
    if context.get_context().dialect.name != "postgresql":
        _upgrade_sqlite(revision, create, run, name, schema)
    elif run.table is not None:
        steps = run.plan or plan(run.table, run.target_columns, widen=run.widen)
        _carry_out(steps, run, f"llmctx cannot adopt {run.table.sql}: ")
    elif run.existing:
        _print(offline.adoption_statements(name, schema, run.existing, run.target_columns))
    elif create is not None:
        create(name, schema, run.target_columns)
    elif context.is_offline_mode():
        _print(offline.add_columns(name, schema, _columns_of(revision)))
    else:
        raise CommandError(f"There is no table {name}: `llmctx migrate` makes it. Nothing was changed.")


def _upgrade_sqlite(revision: str, create: Create | None, run: Run, name: str, schema: str | None) -> None:
    seen = None if context.is_offline_mode() else sa.inspect(op.get_bind())
    if create is None:
        there = {column["name"] for column in seen.get_columns(name, schema)} if seen else set()
        for column, kind in (run.target_columns if seen else _columns_of(revision)).items():
            if column not in {"call_id", "created_at", *there}:
                op.add_column(name, sa.Column(column, TYPES[kind]), schema=schema)
        return
    if seen is not None and seen.has_table(name, schema):
        raise CommandError(
            f"Table {name} exists already, and was not made by llmctx, which adopts tables of PostgreSQL only. "
            "Nothing was changed. Choose another name with LLMCTX_TABLE."
        )
    create(name, schema, run.target_columns)


def downgrade(revision: str) -> None:
    """Take away what `revision` has added; of the first one the table itself, where llmctx made it."""
    name, schema = _name()
    before = context.script.get_revision(revision).down_revision
    run = _run(columns_until(context.script, before if isinstance(before, str) else None), name, schema)
    if run.is_done:
        return
    run.is_done = True
    is_postgresql, unseen = context.get_context().dialect.name == "postgresql", run.table is None
    if run.table is not None and not (run.table.made_by_us and not run.target_columns):
        nulls = run.with_nulls or (() if context.is_offline_mode() else columns_with_nulls(op.get_bind(), run.table))
        _carry_out(plan_undo(run.table, nulls, only=_columns_of(revision) if run.target_columns else None), run)
    elif is_postgresql and unseen and not context.is_offline_mode():
        return
    elif not run.target_columns:
        if is_postgresql and unseen:
            op.execute(literal_text(offline.refuse_others(name, schema)))
        op.drop_table(name, schema=schema)  # its partitions go with it
    elif is_postgresql:
        for statement in offline.drop_columns(name, schema, _columns_of(revision)):
            op.execute(literal_text(statement))
    else:
        for column in _columns_of(revision):
            op.drop_column(name, column, schema=schema)


def create_partitions(name: str, schema: str | None, months_ahead: int) -> None:
    """Make the default partition, so that no month can ever refuse a row, and a few months' own."""
    make = "CREATE TABLE {} PARTITION OF " + qualify_name(name, schema)
    op.execute(make.format(qualify_name(f"{name}_default", schema)) + " DEFAULT")
    for ahead in range(months_ahead + 1):
        month = Month.after(datetime.now(UTC), ahead)
        first, after = month.bounds()
        part = qualify_name(partition_name(name, month.first), schema)
        op.execute(f"{make.format(part)} FOR VALUES FROM ({first}) TO ({after})")


def _run(wanted: Columns, name: str, schema: str | None) -> Run:
    """Return the run of `llmctx migrate`, or one of this revision alone."""
    run = context.config.attributes.get("llmctx_run")
    if isinstance(run, Run):
        return run
    table = None
    if not context.is_offline_mode() and context.get_context().dialect.name == "postgresql":
        table = inspect_table(op.get_bind(), name, schema)
    existing = _argument("existing") if context.is_offline_mode() else None
    return Run(wanted, table, existing=existing, widen=bool(_argument("widen")))


def _columns_of(revision: str) -> Columns:
    columns: Columns = context.script.get_revision(revision).module.COLUMNS
    return columns


def _carry_out(steps: StepPlan, run: Run, lead: str = "") -> None:
    assert run.table is not None
    if steps.problems:
        raise CommandError(f"{lead}{'; '.join(steps.problems)}. Nothing was changed.")
    carry_out(context.get_context(), steps.steps, run.table, say=run.say, patience_s=run.patience_s)


def _print(statements: Iterable[str]) -> None:
    with context.get_context().autocommit_block():
        for statement in statements:
            context.get_context().execute(literal_text(statement))


def _name() -> tuple[str, str | None]:
    """Return the table and its schema: from our env.py, alembic's -x arguments, or the environment, in this order."""
    name = _argument("table") or os.environ.get("LLMCTX_TABLE") or DEFAULT_TABLE
    return name, _argument("schema") or os.environ.get("LLMCTX_DB_SCHEMA") or None


def _argument(key: str) -> str | None:
    given = context.config.attributes.get(f"llmctx_{key}")
    return given or context.get_x_argument(as_dictionary=True).get(f"llmctx_{key}") or None
