"""What each page asks of the database, and the answer that its HTML, JSON and CSV all show.

A page is one coroutine function from what is asked to an `Answer`; templates draw nothing that is not in its data.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import SNAPSHOTS
from llmctx.core.text import plain
from llmctx.dashboard.access import Access
from llmctx.dashboard.transcript import turns
from llmctx.dashboard.view import View
from llmctx.identity import reasons
from llmctx.identity.explanation import KEY
from llmctx.storage import queries
from llmctx.storage.filters import Filters
from llmctx.storage.queries.coverage_advice import in_common, remedies
from llmctx.storage.queries.usage import OTHERS

if TYPE_CHECKING:
    from llmctx.calllog import CallLog

audit: Final = logging.getLogger("llmctx.dashboard.audit")
_TEXTS: Final = (*SNAPSHOTS, "error_message")


class NotFound(Exception):
    """There is no such row, or it is not this reader's: the page does not tell which."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: who asks what, and the connection that may answer."""

    connection: AsyncConnection
    table: Table
    view: View
    access: Access
    call_log: CallLog

    def filters(self, **more: Any) -> Filters:
        """Return the rows that are asked for, as far as the reader may see them."""
        return self.view.filters(self.access.within, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a page shows. `rows` is its main table, for CSV."""

    data: Any
    rows: Sequence[Any] = ()
    next: str | None = None
    previous: str | None = None
    source: str = "rows"
    as_of: str | None = None
    hidden: Sequence[str] = ()
    """Columns that this reader may not see."""
    count: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """For the template alone: what is derived from the data."""


Page = Callable[[Ask], Awaitable[Answer]]


def listed(page: queries.Page[Any], **more: Any) -> Answer:
    """Return the answer that is one page of a list."""
    return Answer(data=page.rows, rows=page.rows, next=page.next, previous=page.previous, **more)


async def sessions(ask: Ask) -> Answer:
    """List the sessions used last, or of a span of time those with most of something."""
    return await _last_or_top(ask, queries.sessions, queries.top_sessions)


async def users(ask: Ask) -> Answer:
    """List the users who were there last, or of a span of time those with most of something."""
    return await _last_or_top(ask, queries.users, queries.top_users)


async def _last_or_top(
    ask: Ask, last: Callable[..., Awaitable[queries.Page[Any]]], top: Callable[..., Awaitable[Sequence[Any]]]
) -> Answer:
    view = ask.view
    if view.order is not None:
        rows = await top(ask.connection, ask.table, ask.filters(), by=view.order, limit=view.n)
        return Answer(data=rows, rows=rows)
    found = await last(ask.connection, ask.table, ask.filters(), before=view.before, after=view.after, limit=view.n)
    return listed(found)


async def calls(ask: Ask) -> Answer:
    """List the calls, newest first."""
    view = ask.view
    found = await queries.call_page(
        ask.connection, ask.table, ask.filters(), before=view.before, after=view.after, limit=view.n
    )
    return listed(replace(found, rows=_visible(found.rows, _hidden(ask))), hidden=_hidden(ask))


async def session(ask: Ask) -> Answer:
    """Show what a session said: its calls, oldest first, each with what is new in it."""
    found = await queries.transcript(
        ask.connection, ask.table, _id(ask), before=ask.view.before, after=ask.view.after, within=ask.access.within
    )
    if found is None:
        raise NotFound
    hidden = _hidden(ask)
    rows = _visible(found.rows, hidden)
    if not hidden:
        audit.info("%s reads session %s", ask.access.name, plain(_id(ask)))
    data = {"session": found.session, "threads": found.threads, "traces": found.traces, "calls": rows}
    return Answer(
        data=data, rows=rows, next=found.next, previous=found.previous, hidden=hidden, more={"turns": turns(rows)}
    )


async def user(ask: Ask) -> Answer:
    """Show one user: what they add up to, and the sessions they used last."""
    of_user = ask.filters(user=_id(ask))
    totals = await queries.top_users(ask.connection, ask.table, of_user, by="calls", limit=1)
    if not totals:
        raise NotFound
    page = await queries.sessions(
        ask.connection, ask.table, of_user, before=ask.view.before, after=ask.view.after, limit=ask.view.n
    )
    return replace(listed(page), data={"user": totals[0], "sessions": page.rows})


async def call(ask: Ask) -> Answer:
    """Show one call: what it was, whose, and why; its texts where the reader may see them."""
    try:
        row = await queries.call(ask.connection, ask.table, _id(ask), Filters(within=ask.access.within))
    except (queries.NoSuchCall, queries.AmbiguousCall):
        raise NotFound from None
    attributes = dict(row["attributes"] or {})
    evidence = attributes.pop(KEY, None)
    evidence = evidence if isinstance(evidence, Mapping) else {}
    outcomes = reasons.candidate_outcomes(row, evidence)
    hidden = _hidden(ask)
    (shown,) = _visible([row], hidden)
    if not hidden:
        audit.info("%s reads call %s", ask.access.name, plain(row["call_id"]))
    return Answer(
        data={
            **shown, "attributes": attributes or None, "why": reasons.why(row), "witnesses": outcomes,
            "route": evidence.get("route"), "where": evidence.get("where"),
        },
        rows=[shown], hidden=hidden, more={"turns": turns([shown])},
    )  # fmt: skip


async def coverage(ask: Ask) -> Answer:
    """Show which share of the calls has both ids, what the others have in common, and what would give them theirs."""
    found = await queries.coverage(ask.connection, ask.table, ask.filters())
    data = {
        "coverage": found, "share": found.share, "in_common": in_common(found.by_place),
        "remedies": remedies(found.by_place),
    }  # fmt: skip
    return Answer(data=data, rows=found.by_place)


def _id(ask: Ask) -> str:
    if ask.view.id is None:
        raise NotFound
    return ask.view.id


def _sees_texts(ask: Ask) -> bool:
    return ask.access.texts and ask.view.query.get("texts", "1") != "0"


def _visible(rows: Iterable[queries.Row], hidden: Sequence[str]) -> list[queries.Row]:
    return [{name: value for name, value in row.items() if name not in hidden} for row in rows]


def _hidden(ask: Ask) -> tuple[str, ...]:
    return () if _sees_texts(ask) else _TEXTS


async def errors(ask: Ask) -> Answer:
    """Show what fails, since when, grouped by error, model, node and status."""
    found = await queries.errors(ask.connection, ask.table, ask.filters())
    hidden = () if _sees_texts(ask) else ("messages",)
    groups = [replace(one, messages=()) for one in found.groups] if hidden else found.groups
    return Answer(data=replace(found, groups=groups), rows=groups, hidden=hidden)


async def health(ask: Ask) -> Answer:
    """Show how fresh and how large the table is, and what this process has on its way to it."""
    if ask.access.within is not None:
        raise NotFound  # its figures are those of all rows
    found = await queries.health(ask.connection, ask.table)
    return Answer(data={"table": found, "ledger": ask.call_log.stats()}, rows=found.partitions)


async def usage_over_time(ask: Ask) -> Answer:
    """Show calls, errors, latency and coverage by hour or day, and what they add up to."""
    found = await queries.usage(
        ask.connection, ask.table, ask.filters(), bucket=_bucket(ask.view), zone=ask.view.zone.key
    )
    return _of_usage(found)


async def usage_by_group(ask: Ask) -> Answer:
    """Show cost, calls and tokens by hour or day and by model, agent, provider, node or status."""
    view = ask.view
    found = await queries.usage(
        ask.connection, ask.table, ask.filters(), bucket=_bucket(view), by=view.by, zone=view.zone.key, keys=7,
        percentiles=False,
    )  # fmt: skip
    times = list(dict.fromkeys(row.at for row in found.rows))
    keys = list(dict.fromkeys(row.key for row in sorted(found.rows, key=lambda row: row.key == OTHERS)))
    cells = {(row.at, row.key): row for row in found.rows}
    return replace(_of_usage(found), more={"times": times, "keys": keys, "cells": cells})


def _of_usage(found: queries.Usage) -> Answer:
    return Answer(
        data=found, rows=found.rows, source=found.source,
        as_of=None if found.as_of is None else found.as_of.isoformat(),
    )  # fmt: skip


def _bucket(view: View) -> queries.Bucket:
    """Return how time is cut: as asked, else by hour up to two days, by day up to a quarter, then by week or month."""
    if view.bucket is not None:
        return view.bucket
    days = ((view.until or view.now) - (view.since or view.now)).total_seconds() / 86_400
    return "hour" if days <= 2 else "day" if days <= 100 else "week" if days <= 700 else "month"


PAGES: Final[Mapping[str, Page]] = {
    "usage/time": usage_over_time,
    "usage/groups": usage_by_group,
    "sessions": sessions,
    "session": session,
    "users": users,
    "user": user,
    "calls": calls,
    "call": call,
    "errors": errors,
    "coverage": coverage,
    "health": health,
}
FRAMES: Final = frozenset({"usage"})
"""Pages that ask nothing themselves: their panels come by requests of their own."""
AGGREGATES: Final = frozenset({"coverage", "errors", "usage/time", "usage/groups"})
"""Pages that add up many rows: few of them are answered at once."""
SPANS: Final[Mapping[str, str]] = dict.fromkeys(("usage", "usage/time", "usage/groups", "coverage", "errors"), "7d")
"""How far back a page looks that adds up rows, where its URL does not say."""
