"""The table: finding what is theirs, taking it away in small transactions, or blanking it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.columns import ColumnKind
from llmctx.core.errors import LlmctxError
from llmctx.core.record import LINKS, SPECS, Reason
from llmctx.identity.explanation import KEY
from llmctx.ops.erase.mentions import Mentions
from llmctx.ops.erase.subject import SHARED, Subject, SubjectIds, drop_ids
from llmctx.settings import Settings
from llmctx.storage.catalog import indexes_of, qualify_name
from llmctx.storage.dependents import Dependent
from llmctx.storage.host_types import as_text
from llmctx.storage.paging import iter_batches
from llmctx.storage.queries.counts import estimate_rows
from llmctx.storage.reflection import (
    UNFIT,
    column_expr,
    count_rows,
    equals,
    held_in,
    id_is_in,
    is_missing,
    is_row,
    key_of,
    key_values,
    physical_position,
    word_values,
)
from llmctx.storage.rollup.marks import mark
from llmctx.storage.texts_table import delete_apart, replace_apart, text_expr

_AT_ONCE: Final = 1000
_IN: Final = 500  # ids in one condition
_LARGE: Final = 200_000  # rows, from which on a plan reads only what an index finds
_PERSONAL: Final = tuple(spec.name for spec in SPECS if spec.personal)
PERSONAL_TEXTS: Final = tuple(
    spec.name for spec in SPECS if spec.personal and spec.kind in (ColumnKind.TEXT, ColumnKind.SNAPSHOT)
)


# -- finding ----------------------------------------------------------------------------------------------------------


def names_subject(log: sa.Table, subject: Subject) -> sa.ColumnElement[bool]:
    """Return the condition of rows that name them."""
    found: list[sa.ColumnElement[bool]] = []
    if subject.user is not None:
        found.append(equals(log, "user_id", subject.user))
    if subject.session is not None:
        found.append(equals(log, "session_id", subject.session))
    return sa.and_(*found) if found else sa.false()


async def unindexed_links(connection: AsyncConnection, log: sa.Table) -> list[str]:
    """Return the links, such as thread_id, by which no index of a large table finds rows; none of a small table."""
    rows = await estimate_rows(connection, log)
    if connection.dialect.name != "postgresql" or rows is None or rows.value < _LARGE:
        return []
    indexes = await connection.run_sync(indexes_of, qualify_name(log.name, log.schema))
    first = {index.columns[0] for index in indexes if index.columns and index.valid and index.predicate is None}
    return [name for name in LINKS if name in log.c and name not in first]


async def find_ids(
    connection: AsyncConnection,
    log: sa.Table,
    subject: Subject,
    unchecked: Collection[str] = (),
    waiting: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> SubjectIds:
    """Return the sessions, threads, … that lead to the subject alone; those `unchecked` perhaps to others as well.

    `waiting` are those of their rows that are not in the table yet.
    """
    own: dict[str, set[str]] = {}
    theirs = names_subject(log, subject)
    for name in LINKS:
        if name not in log.c or (name == "session_id" and subject.user is None):
            continue
        link = as_text(column_expr(log, name))
        values = sa.select(link).where(theirs, link.is_not(None)).distinct()
        used = {value for value in await connection.scalars(values) if value and value.strip()}
        used.update(waiting.get(name, ()))
        taken: set[str] = set()
        if name not in unchecked and ("user_id" in log.c or "identity_reason" in log.c):
            for some in _chunks(sorted(used)):
                others = _of_others(log, subject, name)
                taken.update(await connection.scalars(sa.select(link).where(id_is_in(log, name, some), others)))
        own[name] = used - taken
    return SubjectIds(subject, own)


def _of_others(log: sa.Table, subject: Subject, name: str) -> sa.ColumnElement[bool]:
    """Return the condition of rows by which another user has used the session, thread, …"""
    found: list[sa.ColumnElement[bool]] = []
    kind = _kind(subject)
    given = subject.user if subject.user is not None else subject.session
    assert given is not None
    if kind in log.c:
        whose = as_text(column_expr(log, kind))
        found.append(sa.and_(whose != "", ~sa.func.coalesce(equals(log, kind, given), sa.false())))
    if name == "thread_id" and "identity_reason" in log.c:  # the registry knew of a user of whom no row tells
        found.append(column_expr(log, "identity_reason").in_(SHARED))
    return sa.or_(sa.false(), *found)


def _kind(subject: Subject) -> str:
    return "user_id" if subject.user is not None else "session_id"


def of_no_user(log: sa.Table, subject_ids: SubjectIds, unchecked: Collection[str] = ()) -> list[sa.ColumnElement[bool]]:
    """Return conditions, each small enough, of rows that name no user and lie in what theirs alone have used.

    Links that are `unchecked` are left out: without an index on them, every row without a user would be read.
    """
    unnamed = is_missing(log, _kind(subject_ids.subject))
    return [
        sa.and_(
            unnamed, id_is_in(log, name, some), ~sa.func.coalesce(names_subject(log, subject_ids.subject), sa.false())
        )
        for name, values in subject_ids.own.items()
        if name not in unchecked
        for some in _chunks(sorted(values))
    ]


def _chunks(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[at : at + _IN] for at in range(0, len(values), _IN)]


def with_evidence(log: sa.Table, ids: set[str]) -> sa.ColumnElement[bool]:
    """Return the condition of rows whose attributes may hold one of `ids`: to be looked at one by one."""
    attributes = log.c.get("attributes")
    if attributes is None:
        return sa.false()
    written = sa.cast(attributes, sa.Text)
    marks = {f'"{KEY}"', f'"{UNFIT}"'}
    shortest = sorted(ids, key=len)[:1] + [one for one in ids if len(ids) <= 20]
    for one in shortest:
        marks |= {json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1]}
    return sa.and_(
        attributes.is_not(None), sa.or_(*(written.contains(mark, autoescape=True) for mark in sorted(marks)))
    )


def select_mentions(log: sa.Table, subject_ids: SubjectIds) -> sa.Select[Any] | None:
    """Select others' rows that may have the id in a text, to be looked at one by one; None without columns of texts."""
    columns = [text_expr(log, name) for name in PERSONAL_TEXTS if name in log.c]
    if not columns:
        return None
    held = [sa.cast(column, sa.Text) for column in columns]
    fragments = subject_ids.mentions.fragments
    may = (
        sa.true()
        if fragments is None
        else sa.or_(*(each.contains(one, autoescape=True) for each in held for one in fragments))
    )
    return sa.select(*dict.fromkeys([*key_of(log), *columns])).where(may, ~_all_theirs(log, subject_ids))


def without_mentions(log: sa.Table, row: Mapping[str, Any], mentions: Mentions) -> dict[str, Any]:
    """Return the texts of `row` that have the id, without it."""
    texts = {name: row[name] for name in PERSONAL_TEXTS if name in log.c and row[name] is not None}
    less = {name: mentions.strip_ids(value) for name, value in texts.items()}
    return {name: value for name, value in less.items() if value != texts[name]}


async def count(
    connection: AsyncConnection,
    log: sa.Table,
    subject_ids: SubjectIds,
    children: Sequence[Dependent],
    *,
    mentions: bool,
    unchecked: Collection[str] = (),
) -> dict[str, int]:
    """Return how many rows there are of each kind; with links that are `unchecked` only those that an index finds."""

    rows_of = partial(count_rows, connection, log)
    theirs = names_subject(log, subject_ids.subject)
    of_nobody = of_no_user(log, subject_ids, unchecked)
    found = {log.name: await rows_of(theirs), "rows of nobody": 0}
    for condition in of_nobody:
        found["rows of nobody"] += await rows_of(condition)
    for child in children:
        each = child.table
        belongs = each.c[child.column].in_(sa.select(log.c[child.call_column]).where(sa.or_(theirs, *of_nobody)))
        found[child.name] = await count_rows(connection, each, belongs)
    if not unchecked:
        found["evidence of others"] = len(await _evidence(connection, log, subject_ids))
    if mentions and (wanted := select_mentions(log, subject_ids)) is not None:
        found["texts of others"] = 0
        async with connection.stream(wanted.execution_options(yield_per=_AT_ONCE // 10)) as rows:
            async for row in rows.mappings():
                found["texts of others"] += bool(without_mentions(log, row, subject_ids.mentions))
    return found


def _all_theirs(log: sa.Table, subject_ids: SubjectIds) -> sa.ColumnElement[bool]:
    # a condition on a NULL is unknown, and so would be its contrary
    return sa.func.coalesce(sa.or_(names_subject(log, subject_ids.subject), *of_no_user(log, subject_ids)), sa.false())


async def _evidence(connection: AsyncConnection, log: sa.Table, subject_ids: SubjectIds) -> list[dict[str, Any]]:
    """Return rows of others whose attributes name them: the key, and the attributes without."""
    if "attributes" not in log.c:
        return []
    ids = subject_ids.ids
    condition = sa.and_(with_evidence(log, ids), ~_all_theirs(log, subject_ids))
    found: list[dict[str, Any]] = []
    async with connection.stream(sa.select(*key_of(log), log.c.attributes).where(condition)) as rows:
        async for row in rows.mappings():
            attributes = row["attributes"]
            written = isinstance(attributes, str)
            try:
                less, changed = drop_ids(json.loads(attributes) if written else attributes, ids)
            except (ValueError, RecursionError):  # a column of the team's own, of plain text
                less, changed = drop_ids(attributes, ids)
                written = False
            if changed:
                less = json.dumps(less, ensure_ascii=False) if written else less
                found.append({**key_values(log, row), "less": less})
    return found


# -- doing ------------------------------------------------------------------------------------------------------------


class Work:
    """Takes theirs away, a thousand rows to a transaction: what was done before a break stays done."""

    def __init__(
        self,
        connection: AsyncConnection,
        log: sa.Table,
        subject_ids: SubjectIds,
        children: Sequence[Dependent],
        progress: Callable[[str, int], None],
        settings: Settings,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._log = log
        self._subject_ids = subject_ids
        self._children = children
        self._progress = progress

    async def erase(self, *, blank: bool, mentions: bool) -> None:
        """Erase what is found by way of the rows that name them first, those rows last: so it can be taken up again."""
        log = self._log
        change = self._blanking() if blank else sa.delete(log)
        changes = await _evidence(self._connection, log, self._subject_ids)
        for at in range(0, len(changes), _AT_ONCE):
            less = (
                sa.update(log).where(is_row(log)).values(attributes=sa.bindparam("less", type_=log.c.attributes.type))
            )
            await self._connection.execute(less, changes[at : at + _AT_ONCE])
            await self._connection.commit()
        if mentions:
            await self._replace_mentions()
        for condition in of_no_user(log, self._subject_ids):
            await self._each("rows of nobody", condition, change, with_children=True)
        await self._each(log.name, names_subject(log, self._subject_ids.subject), change, with_children=True)

    async def _each(
        self, what: str, condition: sa.ColumnElement[bool], change: Any, *, with_children: bool = False
    ) -> None:
        log, connection = self._log, self._connection
        links = [log.c[child.call_column] for child in self._children] if with_children else []
        columns = dict.fromkeys([*key_of(log), *links, log.c.created_at])
        wanted = sa.select(*columns).where(condition).limit(_AT_ONCE)
        before: list[dict[str, Any]] = []
        most, seen = 0, 0
        if physical_position(log):  # a row that a trigger changes back stands elsewhere then
            most = 2 * await count_rows(connection, log, condition) + _AT_ONCE
        while rows := [dict(row) for row in (await connection.execute(wanted)).mappings()]:
            seen += len(rows)
            if rows == before or 0 < most < seen:
                raise LlmctxError(f"Rows of {log.name} do not change: look for a trigger or a rule on the table.")
            before = rows
            for child in self._children if with_children else ():
                each = child.table
                linked = [row[child.call_column] for row in rows if row[child.call_column] is not None]
                await connection.execute(sa.delete(each).where(each.c[child.column].in_(linked)))
            keys = [key_values(log, row) for row in rows]
            await delete_apart(connection, log, keys)
            await connection.execute(change.where(is_row(log)), keys)
            if with_children:  # else only texts change
                await mark(connection, log, (row["created_at"] for row in rows))
            await connection.commit()
            self._progress(what, len(rows))

    def _blanking(self) -> Any:
        log = self._log
        personal = [column for name in _PERSONAL for column in held_in(log, name)]
        stuck = [column.name for column in personal if not column.nullable]
        if stuck:
            raise LlmctxError(
                f"{', '.join(stuck)} of {log.name} may not be NULL, so rows cannot be blanked. Erase without --blank."
            )
        values: dict[str, Any] = {column.name: sa.null() for column in personal}
        values |= word_values(log, "identity_reason", Reason.ERASED.value)
        return sa.update(log).values(values)

    async def _replace_mentions(self) -> None:
        log, connection, mentions = self._log, self._connection, self._subject_ids.mentions
        wanted = select_mentions(log, self._subject_ids)
        if wanted is None:
            return
        async with aclosing(iter_batches(connection, self._settings, log, wanted)) as steps:
            async for rows in steps:
                for row in rows:
                    if less := without_mentions(log, row, mentions):
                        key = key_values(log, row)
                        less = await replace_apart(connection, log, key, less)
                        await connection.execute(sa.update(log).where(is_row(log)).values(less), key)
                        self._progress("texts of others", 1)
                await connection.commit()
