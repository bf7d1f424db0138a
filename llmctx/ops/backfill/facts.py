"""Collects facts from the table, from LangGraph's checkpoints and from a mapping, in a temporary file: each source is
read once, and what is filled later is no fact.
"""

from __future__ import annotations

import sqlite3
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
from llmctx.storage.host_types import as_text
from llmctx.storage.reflection import column_expr

T = TypeVar("T")

_MANY: Final = 5000
_SPOILING: Final = ("shared_thread", "conflict")

_FACTS: Final = """
CREATE TABLE facts (kind TEXT, value TEXT, user_id TEXT, session_id TEXT, proves BOOLEAN, spoils BOOLEAN);
CREATE INDEX by_value ON facts (kind, value);
"""


class FactCollection:
    """Facts about everything that rows with gaps belong to, in a temporary file of this process.

    The database is only read, so that a standby can be asked what would be done.
    """

    def __init__(self, connection: AsyncConnection, log: sa.Table) -> None:
        self._connection = connection
        self._log = log
        self._store = sqlite3.connect("", check_same_thread=False)  # SQLite's own temporary file
        self._store.executescript(_FACTS)
        self.mapped_by: str | None = None

    def close(self) -> None:
        self._store.close()

    async def collect(self, mapping: Mapping | None, checkpoints: sa.Table | None) -> None:
        """Read every source once."""
        log = self._log
        kinds = [name for name in LINKS if name in log.c]
        for kind in kinds:
            if kind != "session_id":
                await self._read(self._rows(kind, self._wanted(kind)))
        if checkpoints is not None and "thread_id" in log.c:
            await self._read(_of_checkpoints(checkpoints, self._wanted("thread_id")))
        if mapping is not None:
            self.mapped_by = mapping.key
            self._insert((f"{MAPPING}:{mapping.key}", *line, True, False) for line in mapping)
        if "session_id" in kinds:  # also of the sessions that a row may get
            await self._read(self._rows("session_id", self._wanted("session_id")))
            offered = self._store.execute(
                "SELECT DISTINCT session_id FROM facts WHERE session_id IS NOT NULL EXCEPT "
                "SELECT value FROM facts WHERE kind = 'session_id'"
            ).fetchall()
            for some in _batches([value for (value,) in offered], _MANY):
                await self._read(self._rows("session_id", some))
        await self._connection.rollback()

    def _wanted(self, kind: str) -> sa.Select[Any]:
        """Select the traces, threads, … of the rows with gaps."""
        value = as_text(column_expr(self._log, kind))
        return sa.select(value).where(lacks_an_id(self._log), value.is_not(None), sa.func.trim(value) != "").distinct()

    async def _read(self, rows: sa.Select[Any]) -> None:
        async with self._connection.stream(rows) as found:
            while some := await found.fetchmany(_MANY):
                self._insert(tuple(row) for row in some)

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._store.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?)", rows)

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

    def facts_for(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sequence[Fact]]:
        """Return the facts of each kind and value, and of every session that they name."""
        found = self._fetch(asked)
        sessions = {("session_id", fact.session) for facts in found.values() for fact in facts if fact.session}
        return {**self._fetch(sessions - found.keys()), **found}

    def _fetch(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sequence[Fact]]:
        found: dict[tuple[str, str], list[Fact]] = defaultdict(list)
        for kind, value in asked:
            rows = self._store.execute(
                "SELECT user_id, session_id, proves, spoils FROM facts WHERE kind = ? AND value = ?", (kind, value)
            )
            for user, session, is_proof, blocks in rows:
                # a name of blanks is no name
                user, session = (name if name and name.strip() else None for name in (user, session))
                found[kind, value].append(Fact(user, session, bool(is_proof), bool(blocks)))
        return dict(found)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _few(rows: Any) -> sa.Select[Any]:
    """Return no more of a thing than shows that it is a crowd's."""
    inner = rows.subquery()
    rank = sa.func.row_number().over(partition_by=inner.c.value)
    ranked = sa.select(*inner.c, rank.label("rank")).subquery()
    return sa.select(*[column for column in ranked.c if column.name != "rank"]).where(ranked.c.rank <= CROWD + 1)


# -- LangGraph's checkpoints ------------------------------------------------------------------------------------------


async def checkpoints_of(connection: AsyncConnection, schema: str | None) -> sa.Table | None:
    """Return LangGraph's table of checkpoints, if it is in this database."""

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


def _of_checkpoints(checkpoints: sa.Table, threads: sa.Select[Any]) -> sa.Select[Any]:
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
        .where(as_text(thread).in_(threads), sa.or_(user.is_not(None), session.is_not(None)))
        .distinct()
    )  # fmt: skip
    return _few(rows)


def _in_json(written: sa.ColumnElement[str], name: str) -> sa.ColumnElement[str | None]:
    found = sa.cast(sa.func.json_extract(written, f"$.{name}"), sa.Text)
    return sa.case((sa.func.json_valid(written) == 1, found), else_=sa.cast(sa.null(), sa.Text))
