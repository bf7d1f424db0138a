"""Collects facts from the table, from LangGraph's checkpoints and from a mapping, in temporary tables: each source is
read once, and what is filled later is no fact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import LINKS
from llmctx.ops.backfill.mapping import Mapping
from llmctx.ops.backfill.rules import CHECKPOINT, CROWD, MAPPING, ON_PURPOSE, Fact
from llmctx.storage.filters import lacks_an_id
from llmctx.storage.reflection import as_text, column_expr

T = TypeVar("T")

_AT_ONCE: Final = 500
_SPOILING: Final = ("shared_thread", "conflict")

_metadata: Final = sa.MetaData()
_wanted: Final = sa.Table(
    "llmctx_wanted", _metadata, sa.Column("kind", sa.Text()), sa.Column("value", sa.Text()), prefixes=["TEMPORARY"]
)
_facts: Final = sa.Table(
    "llmctx_facts",
    _metadata,
    sa.Column("kind", sa.Text()),
    sa.Column("value", sa.Text()),
    sa.Column("user_id", sa.Text()),
    sa.Column("session_id", sa.Text()),
    sa.Column("proves", sa.Boolean()),
    sa.Column("spoils", sa.Boolean()),
    prefixes=["TEMPORARY"],
)
sa.Index("llmctx_facts_by_value", _facts.c.kind, _facts.c.value)


class Collected:
    """Facts about everything that rows with gaps belong to, in this connection.

    With `within_one`, nothing is committed: the facts last for as long as its transaction.
    """

    def __init__(self, connection: AsyncConnection, log: sa.Table, *, within_one: bool = False) -> None:
        self._connection = connection
        self._within_one = within_one
        self._log = log
        self.mapped_by: str | None = None

    async def collect(self, mapping: Mapping | None, checkpoints: sa.Table | None) -> None:
        """Read every source once."""
        connection, log = self._connection, self._log
        await connection.run_sync(_metadata.create_all, checkfirst=False)
        kinds = [name for name in LINKS if name in log.c]
        for kind in kinds:
            value = as_text(column_expr(log, kind))
            gaps = sa.select(sa.literal(kind), value).where(
                lacks_an_id(log), value.is_not(None), sa.func.trim(value) != ""
            )
            await connection.execute(_wanted.insert().from_select(["kind", "value"], gaps.distinct()))
        await self._analyze(_wanted)
        for kind in kinds:
            if kind != "session_id":
                await self._insert(self._rows(kind, _wanted_of(kind)))
        if checkpoints is not None and "thread_id" in log.c:
            await self._insert(_of_checkpoints(checkpoints))
        if mapping is not None:
            self.mapped_by = mapping.key
            for lines in _batches(mapping):
                await connection.execute(_facts.insert(), [_mapped(mapping.key, *line) for line in lines])
        if "session_id" in kinds:  # also of the sessions that a row may get
            offered = sa.select(_facts.c.session_id).where(_facts.c.session_id.is_not(None))
            await self._insert(self._rows("session_id", _wanted_of("session_id").union(offered)))
        await self._analyze(_facts)
        if not self._within_one:
            await connection.commit()

    async def _insert(self, rows: sa.Select[Any]) -> None:
        await self._connection.execute(_facts.insert().from_select([column.name for column in _facts.c], rows))

    async def _analyze(self, table: sa.Table) -> None:
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(sa.text(f"ANALYZE {table.name}"))

    def _rows(self, kind: str, wanted: Any) -> sa.Select[Any]:
        """Select what the table's rows say of each trace, thread, …"""
        log = self._log
        value, user, session = (as_text(column_expr(log, name)) for name in (kind, "user_id", "session_id"))
        reason, source = column_expr(log, "identity_reason"), column_expr(log, "identity_source")
        open_on_purpose = sa.and_(reason.is_not(None), reason.in_(sorted(ON_PURPOSE)))
        filled = sa.and_(source.is_not(None), source.startswith("backfill:"))
        blocks = sa.and_(reason.is_not(None), reason.in_(_SPOILING)) if kind == "thread_id" else sa.false()
        is_proof = sa.case((sa.or_(open_on_purpose, filled), sa.false()), else_=sa.true())
        rows = (
            sa.select(
                sa.literal(kind).label("kind"), value.label("value"), user.label("user_id"),
                session.label("session_id"),
                is_proof.label("proves"), sa.case((blocks, sa.true()), else_=sa.false()).label("spoils"),
            )
            .where(value.in_(wanted), sa.or_(user.is_not(None), session.is_not(None), blocks))
            .distinct()
        )  # fmt: skip
        return _few(rows)

    async def about(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sequence[Fact]]:
        """Return the facts of each kind and value, and of every session that they name."""
        found = await self._fetch(asked)
        sessions = {("session_id", fact.session) for facts in found.values() for fact in facts if fact.session}
        return {**await self._fetch(sessions - found.keys()), **found}

    async def _fetch(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sequence[Fact]]:
        found: dict[tuple[str, str], list[Fact]] = defaultdict(list)
        for some in _batches(sorted(asked)):
            wanted = sa.select(_facts).where(sa.tuple_(_facts.c.kind, _facts.c.value).in_(some))
            for kind, value, user, session, is_proof, blocks in await self._connection.execute(wanted):
                # a name of blanks is no name
                user, session = (name if name and name.strip() else None for name in (user, session))
                found[kind, value].append(Fact(user, session, is_proof, blocks))
        return dict(found)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _wanted_of(kind: str) -> sa.Select[Any]:
    return sa.select(_wanted.c.value).where(_wanted.c.kind == kind)


def _few(rows: Any) -> sa.Select[Any]:
    """Return no more of a thing than shows that it is a crowd's."""
    inner = rows.subquery()
    rank = sa.func.row_number().over(partition_by=inner.c.value)
    ranked = sa.select(*inner.c, rank.label("rank")).subquery()
    return sa.select(*[column for column in ranked.c if column.name != "rank"]).where(ranked.c.rank <= CROWD + 1)


def _mapped(key: str, value: str, user: str | None, session: str | None) -> dict[str, Any]:
    return {
        "kind": f"{MAPPING}:{key}", "value": value, "user_id": user, "session_id": session, "proves": True,
        "spoils": False,
    }  # fmt: skip


# -- LangGraph's checkpoints ------------------------------------------------------------------------------------------


async def checkpoints_of(connection: AsyncConnection, schema: str | None) -> sa.Table | None:
    """LangGraph's table of checkpoints, if it is in this database."""

    def look(sync: Any) -> sa.Table | None:
        try:
            columns = {column["name"]: column["type"] for column in sa.inspect(sync).get_columns("checkpoints", schema)}
        except NoSuchTableError:
            return None
        if not columns.keys() >= {"thread_id", "checkpoint_id", "metadata"}:
            return None
        kept = ("thread_id", "metadata")
        return sa.Table("checkpoints", sa.MetaData(), *(sa.Column(name, columns[name]) for name in kept), schema=schema)

    return await connection.run_sync(look)


def _of_checkpoints(checkpoints: sa.Table) -> sa.Select[Any]:
    """Select who ran the thread, as far as the metadata of its checkpoints say."""
    thread, told = checkpoints.c.thread_id, checkpoints.c.metadata
    if isinstance(told.type, (sa.LargeBinary, sa.Text)):  # SQLite's saver keeps JSON in a blob
        written = sa.cast(told, sa.Text)
        told_of = [_in_json(written, name) for name in ("user_id", "session_id")]
    elif isinstance(told.type, sa.JSON):
        told_of = [told[name].as_string() for name in ("user_id", "session_id")]
    else:
        told_of = [sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.Text)]
    user, session = told_of
    rows = (
        sa.select(
            sa.literal(CHECKPOINT).label("kind"), as_text(thread).label("value"), user.label("user_id"),
            session.label("session_id"), sa.true().label("proves"), sa.false().label("spoils"),
        )
        .where(as_text(thread).in_(_wanted_of("thread_id")), sa.or_(user.is_not(None), session.is_not(None)))
        .distinct()
    )  # fmt: skip
    return _few(rows)


def _in_json(written: sa.ColumnElement[str], name: str) -> sa.ColumnElement[str | None]:
    found = sa.cast(sa.func.json_extract(written, f"$.{name}"), sa.Text)
    return sa.case((sa.func.json_valid(written) == 1, found), else_=sa.cast(sa.null(), sa.Text))
