"""The table: `biz_agent_llm_call_logs` as llmctx makes it, for PostgreSQL and for SQLite.

SQLAlchemy Core, no ORM classes. The columns are those of `core/record.py`, in their order. The revisions do not import
this module; a test compares what they make with what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from llmctx.core.columns import ColumnKind
from llmctx.core.record import DEFAULT_TABLE, SPECS

_NANO: Final = Decimal("0.000000001")


class UtcTime(TypeDecorator[datetime]):
    """An aware time, in UTC on both ways. SQLite keeps no zone, so what stands there is UTC without saying so.

    A naive time is refused: drivers would take it for local time without a word.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a time zone, {value!r}: use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Money(TypeDecorator[Decimal]):
    """Exact in PostgreSQL; in SQLite, which has no decimals, a float that is read back to nine places."""

    impl = sa.Numeric(18, 9)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.Numeric(18, 9, asdecimal=False))
        return dialect.type_descriptor(sa.Numeric(18, 9))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return float(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return Decimal(repr(value)).quantize(_NANO) if isinstance(value, float) else value


def _json() -> TypeEngine[Any]:
    # none_as_null: an unknown is NULL, never the JSON word null
    return sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


_TYPES: Final[Mapping[ColumnKind, Callable[[], TypeEngine[Any]]]] = {
    ColumnKind.ID: sa.Text, ColumnKind.TEXT: sa.Text, ColumnKind.SNAPSHOT: sa.Text, ColumnKind.COUNT: sa.Integer,
    ColumnKind.NUMBER: sa.Double, ColumnKind.MONEY: Money, ColumnKind.FLAG: sa.Boolean, ColumnKind.TIME: UtcTime,
    ColumnKind.UUID: sa.Uuid, ColumnKind.JSON: _json,
}  # fmt: skip


def call_log_table(
    name: str = DEFAULT_TABLE, schema: str | None = None, metadata: sa.MetaData | None = None
) -> sa.Table:
    """Return the table under the given name, in `metadata` or in one of its own."""
    table = sa.Table(
        name,
        sa.MetaData() if metadata is None else metadata,
        *[sa.Column(spec.name, _TYPES[spec.kind](), nullable=not spec.required) for spec in SPECS],
        # call_id alone would do, but a partitioned table's key must hold the partition key
        sa.PrimaryKeyConstraint("call_id", "created_at", name=f"pk_{name}"),
        schema=schema,
        postgresql_partition_by="RANGE (created_at)",
    )
    _indexes(table)
    return table


def _indexes(table: sa.Table) -> None:
    """Add the indexes. Each states the question it serves, for every insert pays for one more."""
    c, name = table.c, table.name
    sa.Index(f"ix_{name}_session", c.session_id, c.created_at)  # what did this session say, in order?
    sa.Index(f"ix_{name}_user", c.user_id, c.created_at)  # what did this user do, and cost, since then?
    sa.Index(f"ix_{name}_created", c.created_at, postgresql_using="brin")  # what happened between then and then?
    lacks_an_id = sa.or_(c.session_id.is_(None), c.user_id.is_(None))
    sa.Index(  # which rows lack an id? (`coverage`, `calls --unattributed`, `backfill`)
        f"ix_{name}_unattributed", c.created_at, postgresql_where=lacks_an_id, sqlite_where=lacks_an_id
    )
