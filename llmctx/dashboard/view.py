"""The question in a URL. It is the only state of the dashboard: a link shows what its sender saw.

`ROOT/PAGE[.json|.csv]?FILTERS&ORDER&CURSOR&VIEW`. Ids stand in the query, never in the path: they hold slashes, dots
and letters of every script. A name that is not known is an error, in HTML as in JSON: a filter with a typing mistake
must not show everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from llmctx.storage.filters import Filters
from llmctx.storage.queries import BUCKETS, BY, ORDERS, Bucket, By, Cursor, InvalidCursor, Order

WORDS: Final = (
    "user", "session", "thread", "trace", "agent", "model", "node", "provider", "status", "error", "reason", "source",
)  # fmt: skip
"""Filters by a value, as `Filters` and the command line name them."""
FLAGS: Final = ("errors", "unattributed", "unpriced")
LANGUAGES: Final = ("en", "zh")

_LAST: Final = "last"
_KNOWN: Final[tuple[str, ...]] = (
    *WORDS, *FLAGS, "min_cost", "min_ms", "q", "since", "until", "tz", "order", "before", "after", "n", "by", "bucket",
    "view", "lang", "id", "lazy", "texts", "count",
)  # fmt: skip
_AGO: Final = re.compile(r"([1-9]\d{0,4})([hdw])")
_YEARS: Final = range(2, 9999)
"""Of a time that is asked for: in each zone, and with a month before and behind it, it is still in the calendar."""
_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}
_MOST: Final = 500
_LONGEST: Final = 65_536
_FIELDS: Final = frozenset(one.name for one in fields(Filters))


class InvalidView(Exception):
    """A URL asks for what does not exist. `name` is the part of the query that is wrong."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """The question in one URL. `query` is how it was written, without what was empty."""

    page: str
    query: Mapping[str, str]
    now: datetime
    zone: ZoneInfo
    lang: str = "en"
    since_written: str = ""
    """`since` as the query has it, or the page by itself."""
    since: datetime | None = None
    until: datetime | None = None
    before: Cursor | None = None
    after: Cursor | None = None
    n: int = 50
    order: Order | None = None
    """What a list is sorted by; None is the last call."""
    by: By = "model"
    bucket: Bucket | None = None
    id: str | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """The filters but for the time, as fields of `Filters`."""

    def filters(self, within: Filters | None = None, **more: Any) -> Filters:
        """Return the rows that are asked for, as far as they are `within`."""
        return Filters(**{"since": self.since, "until": self.until, **self.conditions, "within": within, **more})

    def url(self, page: str | None = None, /, **changes: Any) -> str:
        """Return the URL, from the dashboard's root, of this view with `changes`; None takes a part away.

        A cursor belongs to one list in one order: it goes with any change of either. An id belongs to its page.
        """
        kept = dict(self.query)
        if page is not None and page.partition(".")[0] != self.page:
            for name in ("id", "view", "order", "count"):
                kept.pop(name, None)
        if changes or page is not None:
            kept.pop("before", None)
            kept.pop("after", None)
        for name, value in changes.items():
            kept.pop(name, None)
            if value is not None and value != "":
                kept[name] = value.isoformat() if isinstance(value, datetime) else str(value)
        query = urlencode({name: kept[name] for name in _KNOWN if name in kept})
        return f"/{page or self.page}" + (f"?{query}" if query else "")

    @property
    def is_relative(self) -> bool:
        """Return whether the time goes with the clock: tomorrow the same URL shows other calls."""
        written = [self.query.get(name, "") for name in ("since", "until")]
        return self.since is not None and (not any(written) or any(map(_AGO.fullmatch, written)))

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Return the filters that are set, by name, as they were written."""
        names = (*WORDS, *FLAGS, "min_cost", "min_ms", "q")
        return [(name, self.query[name]) for name in names if name in self.query]


def parse(
    page: str, query: Iterable[tuple[str, str]], *, now: datetime, zone: str = "UTC", lang: str = "en", span: str = ""
) -> PageView:
    """Return what `query` asks of `page`. Raises `InvalidView`.

    Args:
        zone: of the reader, where the query names none; one that does not exist is UTC.
        span: how far back the page looks, where the query does not say: `7d`; empty for all.
    """
    given: dict[str, str] = {}
    for name, value in query:
        if name not in _KNOWN:
            raise InvalidView(name, f"There is no filter or option {name[:64]!r}. Choose from {', '.join(_KNOWN)}.")
        if name in given:
            raise InvalidView(name, f"{name} is given twice.")
        if len(value) > _LONGEST or "\0" in value:
            raise InvalidView(name, f"{name} is longer than {_LONGEST} characters, or holds a NUL.")
        if value:
            given[name] = value
    tz = _zone(given["tz"]) if "tz" in given else _zone_or_utc(zone)
    cursors = {name: _cursor(name, given[name]) for name in ("before", "after") if name in given}
    if len(cursors) > 1:
        raise InvalidView("after", "before and after exclude each other.")
    since_written = given.get("since", span)
    since = _moment("since", since_written, now, tz)
    until = _moment("until", given.get("until", ""), now, tz)
    if since is not None and until is not None and since >= until:
        raise InvalidView("since", "since has to be earlier than until.")
    return PageView(
        page=page,
        query=given,
        now=now,
        zone=tz,
        lang=_choice("lang", given, LANGUAGES, lang),
        since_written=since_written,
        since=since,
        until=until,
        n=_number("n", given, 50, _MOST),
        order=next((one for one in ORDERS if one == _choice("order", given, (_LAST, *ORDERS), _LAST)), None),
        by=next(one for one in BY if one == _choice("by", given, tuple(BY), "model")),
        bucket=next((one for one in BUCKETS if one == _choice("bucket", given, tuple(BUCKETS), "")), None),
        id=given.get("id"),
        conditions=_conditions(given),
        **cursors,
    )


def _conditions(parameters: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: parameters[name] for name in WORDS if name in parameters and name in _FIELDS}
    if more := {name: parameters[name] for name in WORDS if name in parameters and name not in _FIELDS}:
        found["more"] = more
    for name in FLAGS:
        if _choice(name, parameters, ("1", "0"), "0") == "1":
            found[name] = True
    if "min_cost" in parameters:
        found["min_cost"] = _money(parameters["min_cost"])
    if "min_ms" in parameters:
        found["min_ms"] = _number("min_ms", parameters, 0, 2**31 - 1)
    if "q" in parameters:
        found["text"] = parameters["q"]
    return found


def _choice(name: str, parameters: Mapping[str, str], allowed: tuple[str, ...], otherwise: str) -> str:
    value = parameters.get(name, otherwise)
    if value not in (*allowed, otherwise):
        raise InvalidView(name, f"{name}: choose from {', '.join(allowed)}.")
    return value


def _number(name: str, parameters: Mapping[str, str], otherwise: int, most: int) -> int:
    text = parameters.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= most:
        raise InvalidView(name, f"{name}: a whole number from 1 to {most}.")
    return int(text)


def _money(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount < 10**9:
        raise InvalidView("min_cost", "min_cost: an amount in US dollars, such as 0.05.")
    return amount


def _cursor(name: str, text: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except InvalidCursor:
        raise InvalidView(name, f"{name} is not a cursor: take it from a link on a page.") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise InvalidView("tz", "tz: a time zone such as UTC or Asia/Shanghai.") from None


def _zone_or_utc(name: str) -> ZoneInfo:
    try:
        return _zone(name)
    except InvalidView:
        return ZoneInfo("UTC")


def _moment(name: str, text: str, now: datetime, zone: ZoneInfo) -> datetime | None:
    """Return `7d` (ago), or a date or time in `zone` unless it has an offset."""
    if not text:
        return None
    try:
        if match := _AGO.fullmatch(text.strip().lower()):
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        time = datetime.fromisoformat(text.strip())
        if time.year not in _YEARS:
            raise ValueError
        return (time.replace(tzinfo=zone) if time.tzinfo is None else time).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{name}: 24h, 7d, 4w (ago), or a date such as 2026-11-22 or 2026-11-22T10:30Z."
        raise InvalidView(name, message) from None
