"""Collects facts from the table, from LangGraph's checkpoints and from a mapping, in temporary tables: each source is
read once, and what is filled later is no fact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Index,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    inspect,
    literal,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import LINKS
from llmctx.ops.backfill.mapping import Mapping
from llmctx.ops.backfill.rules import CHECKPOINT, CROWD, MAPPING, ON_PURPOSE, Fact
from llmctx.storage.filters import lacking
from llmctx.storage.reflection import as_text, of

T = TypeVar("T")

_AT_ONCE: Final = 500
_SPOILING: Final = ("shared_thread", "conflict")

_metadata: Final = MetaData()
_wanted: Final = Table(
    "llmctx_wanted", _metadata, Column("kind", Text()), Column("value", Text()), prefixes=["TEMPORARY"]
)
_facts: Final = Table(
    "llmctx_facts",
    _metadata,
    Column("kind", Text()),
    Column("value", Text()),
    Column("user_id", Text()),
    Column("session_id", Text()),
    Column("proves", Boolean()),
    Column("spoils", Boolean()),
    prefixes=["TEMPORARY"],
)
Index("llmctx_facts_by_value", _facts.c.kind, _facts.c.value)


class Collected:
    """Facts about everything that rows with gaps belong to, in this connection.

    With `within_one`, nothing is committed: the facts last for as long as its transaction.
    """

    def __init__(self, connection: AsyncConnection, log: Table, *, within_one: bool = False) -> None:
        self._connection = connection
        self._within_one = within_one
        self._log = log
        self.mapped_by: str | None = None

    async def collect(self, mapping: Mapping | None, checkpoints: Table | None) -> None:
        """Read every source once."""
        connection, log = self._connection, self._log
        await connection.run_sync(_metadata.create_all, checkfirst=False)
        kinds = [name for name in LINKS if name in log.c]
        for kind in kinds:
            value = as_text(of(log, kind))
            gaps = select(literal(kind), value).where(lacking(log), value.is_not(None), func.trim(value) != "")
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
            offered = select(_facts.c.session_id).where(_facts.c.session_id.is_not(None))
            await self._insert(self._rows("session_id", _wanted_of("session_id").union(offered)))
        await self._analyze(_facts)
        if not self._within_one:
            await connection.commit()

    async def _insert(self, rows: Select[Any]) -> None:
        await self._connection.execute(_facts.insert().from_select([column.name for column in _facts.c], rows))

    async def _analyze(self, table: Table) -> None:
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(text(f"ANALYZE {table.name}"))

    def _rows(self, kind: str, wanted: Any) -> Select[Any]:
        """What the table's rows say of each trace, thread, …"""
        log = self._log
        value, user, session = (as_text(of(log, name)) for name in (kind, "user_id", "session_id"))
        reason, source = of(log, "identity_reason"), of(log, "identity_source")
        open_on_purpose = and_(reason.is_not(None), reason.in_(sorted(ON_PURPOSE)))
        filled = and_(source.is_not(None), source.startswith("backfill:"))
        blocks = and_(reason.is_not(None), reason.in_(_SPOILING)) if kind == "thread_id" else false()
        is_proof = case((or_(open_on_purpose, filled), false()), else_=true())
        rows = (
            select(
                literal(kind).label("kind"), value.label("value"), user.label("user_id"), session.label("session_id"),
                is_proof.label("proves"), case((blocks, true()), else_=false()).label("spoils"),
            )
            .where(value.in_(wanted), or_(user.is_not(None), session.is_not(None), blocks))
            .distinct()
        )  # fmt: skip
        return _few(rows)

    async def about(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sequence[Fact]]:
        """The facts of each kind and value, and of every session that they name."""
        found = await self._fetch(asked)
        sessions = {("session_id", fact.session) for facts in found.values() for fact in facts if fact.session}
        return {**await self._fetch(sessions - found.keys()), **found}

    async def _fetch(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sequence[Fact]]:
        found: dict[tuple[str, str], list[Fact]] = defaultdict(list)
        for some in _batches(sorted(asked)):
            wanted = select(_facts).where(tuple_(_facts.c.kind, _facts.c.value).in_(some))
            for kind, value, user, session, is_proof, blocks in await self._connection.execute(wanted):
                # a name of blanks is no name
                user, session = (name if name and name.strip() else None for name in (user, session))
                found[kind, value].append(Fact(user, session, is_proof, blocks))
        return dict(found)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _wanted_of(kind: str) -> Select[Any]:
    return select(_wanted.c.value).where(_wanted.c.kind == kind)


def _few(rows: Any) -> Select[Any]:
    """No more of a thing than shows that it is a crowd's."""
    inner = rows.subquery()
    rank = func.row_number().over(partition_by=inner.c.value)
    ranked = select(*inner.c, rank.label("rank")).subquery()
    return select(*[column for column in ranked.c if column.name != "rank"]).where(ranked.c.rank <= CROWD + 1)


def _mapped(key: str, value: str, user: str | None, session: str | None) -> dict[str, Any]:
    return {
        "kind": f"{MAPPING}:{key}", "value": value, "user_id": user, "session_id": session, "proves": True,
        "spoils": False,
    }  # fmt: skip


# -- LangGraph's checkpoints ------------------------------------------------------------------------------------------


async def checkpoints_of(connection: AsyncConnection, schema: str | None) -> Table | None:
    """LangGraph's table of checkpoints, if it is in this database."""

    def look(sync: Any) -> Table | None:
        try:
            columns = {column["name"]: column["type"] for column in inspect(sync).get_columns("checkpoints", schema)}
        except NoSuchTableError:
            return None
        if not columns.keys() >= {"thread_id", "checkpoint_id", "metadata"}:
            return None
        kept = ("thread_id", "metadata")
        return Table("checkpoints", MetaData(), *(Column(name, columns[name]) for name in kept), schema=schema)

    return await connection.run_sync(look)


def _of_checkpoints(checkpoints: Table) -> Select[Any]:
    """Who ran the thread, as far as the metadata of its checkpoints say."""
    thread, told = checkpoints.c.thread_id, checkpoints.c.metadata
    if isinstance(told.type, (LargeBinary, Text)):  # SQLite's saver keeps JSON in a blob
        written = cast(told, Text)
        told_of = [_in_json(written, name) for name in ("user_id", "session_id")]
    elif isinstance(told.type, JSON):
        told_of = [told[name].as_string() for name in ("user_id", "session_id")]
    else:
        told_of = [cast(null(), Text), cast(null(), Text)]
    user, session = told_of
    rows = (
        select(
            literal(CHECKPOINT).label("kind"), as_text(thread).label("value"), user.label("user_id"),
            session.label("session_id"), true().label("proves"), false().label("spoils"),
        )
        .where(as_text(thread).in_(_wanted_of("thread_id")), or_(user.is_not(None), session.is_not(None)))
        .distinct()
    )  # fmt: skip
    return _few(rows)


def _in_json(written: ColumnElement[str], name: str) -> ColumnElement[str | None]:
    found = cast(func.json_extract(written, f"$.{name}"), Text)
    return case((func.json_valid(written) == 1, found), else_=cast(null(), Text))
