"""The pages: each asks the database, and its HTML, JSON and CSV all show the same answer.

A page is one coroutine function from what is asked to an `Answer`; templates draw nothing that is not in its data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import SNAPSHOTS
from llmctx.core.text import escape_controls
from llmctx.dashboard.access import Access
from llmctx.dashboard.readers import broker, journals
from llmctx.dashboard.transcript import first_words, turns
from llmctx.dashboard.view import PageView
from llmctx.identity import reasons
from llmctx.identity.explanation import KEY
from llmctx.storage import queries
from llmctx.storage.filters import Filters
from llmctx.storage.queries.coverage_advice import common_traits, in_common, remedies
from llmctx.storage.queries.usage import OTHERS

if TYPE_CHECKING:
    from llmctx.calllog import CallLog

audit: Final = logging.getLogger("llmctx.dashboard.audit")
_MOST_MODELS: Final = 100
_TEXTS: Final = (*SNAPSHOTS, "error_message")


class NotFound(Exception):
    """There is no such row, or it is not this reader's: the page does not tell which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowPage:
    """A page that took long: which, when and for how long, but not what it was asked."""

    page: str
    at: datetime
    ms: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: who asks what, and the connection that may answer."""

    connection: AsyncConnection
    table: Table
    view: PageView
    access: Access
    call_log: CallLog
    slow: Collection[SlowPage] = ()
    """The latest pages of this process that took long."""

    def filters(self, **more: Any) -> Filters:
        """Return the rows that are asked for, as far as the reader may see them."""
        return self.view.filters(self.access.within, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The content of a page. `rows` is its main table, for CSV."""

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


def answer_of(page: queries.Page[Any], **more: Any) -> Answer:
    """Return the answer that is one page of a list."""
    return Answer(data=page.rows, rows=page.rows, next=page.next, previous=page.previous, **more)


async def sessions(ask: Ask) -> Answer:
    """List the sessions used last, or of a span of time those with most of something."""
    found = await _last_or_top(ask, queries.sessions, queries.top_sessions, queries.count_sessions)
    if not ask.access.texts or ask.view.query.get("texts") != "1":
        return found
    prompts = await queries.first_prompts(ask.connection, ask.table, found.rows, ask.filters())
    audit.info("%s reads the first words of %d sessions", ask.access.name, len(found.rows))
    words = {key: first_words(prompt) for key, prompt in prompts.items()}
    rows = [{**asdict(row), "first_words": words.get(row.session_id)} for row in found.rows]
    return replace(found, data=rows, rows=rows)


async def users(ask: Ask) -> Answer:
    """List the users who were there last, or of a span of time those with most of something."""
    return await _last_or_top(ask, queries.users, queries.top_users, queries.count_users)


async def _last_or_top(
    ask: Ask,
    last: Callable[..., Awaitable[queries.Page[Any]]],
    top: Callable[..., Awaitable[Sequence[Any]]],
    count_them: Callable[..., Awaitable[queries.Count]],
) -> Answer:
    view = ask.view
    count = None
    if view.query.get("count") == "1":
        count = asdict(await count_them(ask.connection, ask.table, ask.filters()))
    if view.order is not None:
        rows = await top(ask.connection, ask.table, ask.filters(), by=view.order, limit=view.n)
        return Answer(data=rows, rows=rows, count=count)
    found = await last(ask.connection, ask.table, ask.filters(), before=view.before, after=view.after, limit=view.n)
    return answer_of(found, count=count)


async def calls(ask: Ask) -> Answer:
    """List the calls, newest first."""
    view = ask.view
    found = await queries.call_page(
        ask.connection, ask.table, ask.filters(), before=view.before, after=view.after, limit=view.n
    )
    count = await _count(ask) if view.query.get("count") == "1" else None
    return answer_of(replace(found, rows=_visible(found.rows, _hidden(ask))), hidden=_hidden(ask), count=count)


async def _count(ask: Ask) -> Mapping[str, Any] | None:
    """Return how many calls match: of all the database's estimate, else counted up to a limit."""
    filters = ask.filters()
    found = await queries.estimate_rows(ask.connection, ask.table) if filters == Filters() else None
    return asdict(found or await queries.count_calls(ask.connection, ask.table, filters))


async def trace(ask: Ask) -> Answer:
    """Show all calls of a trace in their order, each with its span and where in the time of all it lies."""
    view = ask.view
    page = await queries.calls_in_order(
        ask.connection, ask.table, ask.filters(trace=_id(ask)), before=view.before, after=view.after
    )
    rows = _visible(page.rows, _hidden(ask))
    starts = [row["created_at"] for row in rows if row["created_at"]]
    ends = [row["created_at"] + timedelta(milliseconds=row["latency_ms"] or 0) for row in rows if row["created_at"]]
    costs = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
    first, after = min(starts, default=None), max(ends, default=None)
    totals = {
        "calls": len(rows), "errors": sum(row["success"] is False for row in rows), "first": first, "after": after,
        "total_tokens": sum(row["total_tokens"] or 0 for row in rows), "cost_usd": sum(costs) if costs else None,
        "unpriced": len(rows) - len(costs),
    }  # fmt: skip
    return Answer(
        data={"trace_id": view.id, "totals": totals, "calls": rows}, rows=rows, next=page.next, previous=page.previous,
        hidden=_hidden(ask),
    )  # fmt: skip


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
        audit.info("%s reads session %s", ask.access.name, escape_controls(_id(ask)))
    data = {"session": found.session, "threads": found.threads, "traces": found.traces, "calls": rows}
    return Answer(
        data=data, rows=rows, next=found.next, previous=found.previous, hidden=hidden, more={"turns": turns(rows)}
    )


async def user(ask: Ask) -> Answer:
    """Show one user: what they add up to, and day by day, and the sessions they used last."""
    connection, table, view = ask.connection, ask.table, ask.view
    of_user = ask.filters(user=_id(ask))
    totals = await queries.top_users(connection, table, of_user, by="calls", limit=1)
    last = None
    if not totals:
        rows = await queries.calls(connection, table, replace(of_user, since=None, until=None), limit=1)
        if not rows:
            raise NotFound
        last = rows[0]["created_at"]
    found = await queries.usage(connection, table, of_user, bucket=_bucket(view), zone=view.zone.key, percentiles=False)
    page = await queries.sessions(connection, table, of_user, before=view.before, after=view.after, limit=view.n)
    data = {"user": totals[0] if totals else None, "days": _filled(found), "sessions": page.rows}
    return replace(answer_of(page), data=data, more={"last": last})


async def call(ask: Ask) -> Answer:
    """Show one call: what it was, whose, and why; its texts where the reader may see them."""
    within = Filters(within=ask.access.within)
    try:
        row = await queries.call(ask.connection, ask.table, _id(ask), within)
    except (queries.NoSuchCall, queries.AmbiguousCall):
        raise NotFound from None
    attributes = dict(row["attributes"] or {})
    evidence = attributes.pop(KEY, None)
    evidence = evidence if isinstance(evidence, Mapping) else {}
    outcomes = reasons.candidate_outcomes(row, evidence)
    hidden = _hidden(ask)
    (shown,) = _visible([row], hidden)
    if not hidden:
        audit.info("%s reads call %s", ask.access.name, escape_controls(row["call_id"]))
    return Answer(
        data={
            **shown, "attributes": attributes or None, "why": reasons.explain(row), "witnesses": outcomes,
            "route": evidence.get("route"), "where": evidence.get("where"),
        },
        rows=[shown], hidden=hidden, more={"turns": turns([shown]), **await _beside(ask, row, within)},
    )  # fmt: skip


async def _beside(ask: Ask, row: queries.Row, within: Filters) -> dict[str, Any]:
    """Return the ids of the calls before and after `row` in its session, as `earlier` and `later`."""
    if row["session_id"] is None or row["created_at"] is None or row["call_id"] is None:
        return {"earlier": None, "later": None}
    session = replace(within, session=str(row["session_id"]))
    place = queries.Cursor(row["created_at"], str(row["call_id"]))
    earlier = await queries.call_page(ask.connection, ask.table, session, before=place, limit=1)
    later = await queries.call_page(ask.connection, ask.table, session, after=place, limit=1)
    return {
        name: page.rows[0]["call_id"] if page.rows else None for name, page in (("earlier", earlier), ("later", later))
    }


async def coverage(ask: Ask) -> Answer:
    """Show which share of the calls has both ids, what the others have in common, and what would give them theirs."""
    found = await queries.coverage(ask.connection, ask.table, ask.filters())
    data = {
        "coverage": found, "share": found.share, "in_common": in_common(found.by_place),
        "remedies": remedies(found.by_place),
    }  # fmt: skip
    over_time = await _over_time(ask, "source")
    shares = {at: queries.UsageRow(at=at) for at in over_time.times}
    for row in over_time.rows:
        if row.at is not None:
            sums = shares[row.at]
            shares[row.at] = replace(sums, calls=sums.calls + row.calls, with_both=sums.with_both + row.with_both)
    more = {"shares": list(shares.values()), "alike": common_traits(found.by_place), **_grid(over_time)}
    return Answer(data=data, rows=found.by_place, more=more)


async def _over_time(ask: Ask, by: queries.By) -> queries.Usage:
    """Return sums by hour or day and by `by`, of the most frequent ones."""
    return await queries.usage(
        ask.connection, ask.table, ask.filters(), bucket=_bucket(ask.view), by=by, zone=ask.view.zone.key,
        keys=7, percentiles=False,
    )  # fmt: skip


def _grid(usage: queries.Usage, *, only_errors: bool = False) -> dict[str, Any]:
    """Return the times and the keys of `usage`, and its rows by both; or only those of errors."""
    rows = [row for row in usage.rows if row.errors or not only_errors]
    return {
        "times": usage.times,
        "keys": list(dict.fromkeys(row.key for row in sorted(rows, key=lambda row: row.key == OTHERS))),
        "cells": {(row.at, row.key): row for row in rows},
    }


def _filled(usage: queries.Usage) -> list[queries.UsageRow]:
    """Return the row of each time, an empty one where there was no call: a plot has no gaps to hide."""
    by_time = {row.at: row for row in usage.rows}
    return [by_time.get(at, queries.UsageRow(at=at)) for at in usage.times]


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
    over_time = await _over_time(ask, "error")
    more = {"calls": over_time.total.calls, **_grid(over_time, only_errors=True)}
    return Answer(data=replace(found, groups=groups), rows=groups, hidden=hidden, more=more)


async def health(ask: Ask) -> Answer:
    """Show how fresh and how large the table is, and what this process has on its way to it."""
    if ask.access.within is not None:
        raise NotFound  # its figures are those of all rows
    connection, table, now = ask.connection, ask.table, ask.view.now
    found = await queries.health(connection, table)
    days = [Filters(since=now - timedelta(days=count)) for count in (1, 7)]
    hours = await queries.usage(connection, table, days[0], bucket="hour", zone=ask.view.zone.key, percentiles=False)
    models = await queries.usage(connection, table, days[1], by="model", keys=_MOST_MODELS, percentiles=False)
    unpriced = [  # a call without tokens has no cost whatever its model's price
        {"model": row.key, "calls": row.calls, "unpriced": row.unpriced - row.unmetered}
        for row in models.rows
        if row.unpriced > row.unmetered
    ]
    data = {
        "table": found, "ledger": ask.call_log.stats(), "hours": _filled(hours), "unpriced": unpriced,
        "journals": await asyncio.to_thread(journals, ask.call_log.settings), "slow": list(ask.slow),
        "broker": await broker(ask.call_log.settings),
    }  # fmt: skip
    return Answer(data=data, rows=found.partitions)


async def usage_over_time(ask: Ask) -> Answer:
    """Show calls, errors, latency and coverage by hour or day, and what they add up to."""
    found = await queries.usage(
        ask.connection, ask.table, ask.filters(), bucket=_bucket(ask.view), zone=ask.view.zone.key
    )
    return replace(_of_usage(found), more={"rows": _filled(found)})


async def usage_by_group(ask: Ask) -> Answer:
    """Show cost, calls or tokens by hour or day and by model, agent, provider, node or status."""
    found = await _over_time(ask, ask.view.by)
    return replace(_of_usage(found), more=_grid(found))


async def usage(ask: Ask) -> Answer:
    """Show the figures over time, and in the page that is to be whole those by group too."""
    found = await usage_over_time(ask)
    if ask.view.query.get("lazy") != "0":
        return found
    return replace(found, more={**found.more, "groups": await usage_by_group(ask)})


def _of_usage(found: queries.Usage) -> Answer:
    return Answer(
        data=found, rows=found.rows, source=found.source,
        as_of=None if found.as_of is None else found.as_of.isoformat(),
    )  # fmt: skip


def _bucket(view: PageView) -> queries.Bucket:
    """Return how time is cut: as asked, else by hour up to two days, by day up to a quarter, then by week or month."""
    if view.bucket is not None:
        return view.bucket
    days = ((view.until or view.now) - (view.since or view.now)).total_seconds() / 86_400
    return "hour" if days <= 2 else "day" if days <= 100 else "week" if days <= 700 else "month"


PAGES: Final[Mapping[str, Page]] = {
    "usage": usage,
    "usage/time": usage_over_time,
    "usage/groups": usage_by_group,
    "sessions": sessions,
    "session": session,
    "users": users,
    "user": user,
    "calls": calls,
    "call": call,
    "trace": trace,
    "errors": errors,
    "coverage": coverage,
    "health": health,
}
FRAMES: Final = frozenset({"usage"})
"""Pages that ask nothing themselves as HTML, unless it is to be whole (`lazy=0`): their panels come by requests of
their own."""
AGGREGATES: Final = frozenset({"coverage", "errors", "health", "user", "usage", "usage/time", "usage/groups"})
"""Pages that add up many rows: few of them are answered at once."""
SHARED: Final = AGGREGATES - {"health"}
"""Pages of which one answer is for all who ask the same; of its health a process tells what is."""
SPANS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("usage", "usage/time", "usage/groups", "coverage", "errors", "trace"), "7d"), "user": "30d",
}  # fmt: skip
"""How far back a page looks that adds up rows, where its URL does not say."""
