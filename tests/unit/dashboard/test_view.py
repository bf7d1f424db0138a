"""The URL grammar: what a link asks for, and what it may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import pytest

from llmctx.dashboard.view import InvalidView, PageView, parse
from llmctx.storage.filters import Filters
from llmctx.storage.queries import Cursor

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def view_of(page: str = "calls", query: str = "", **more: str) -> PageView:
    return parse(page, parse_qsl(query, keep_blank_values=True), now=NOW, **more)


def test_filters_are_those_of_the_command_line() -> None:
    """Each name of the query is a field of `Filters`; empty ones do not narrow."""
    query = "user=ada&session=a%2Fb&agent=&errors=1&q=knee&min_cost=0.05&min_ms=200&reason=no_scope"
    filters = view_of(query=query).filters()
    assert (filters.user, filters.session, filters.agent, filters.errors) == ("ada", "a/b", None, True)
    assert (filters.text, filters.min_cost, filters.min_ms) == ("knee", Decimal("0.05"), 200)
    assert "no_scope" in (getattr(filters, "reason", None), filters.more.get("reason"))


def test_what_a_reader_may_see_is_part_of_every_question() -> None:
    """Whatever the query says."""
    within = Filters(agent="triage")
    assert view_of(query="agent=booking").filters(within).within == within


@pytest.mark.parametrize(
    ("since", "zone", "moment"),
    [
        ("24h", "UTC", NOW - timedelta(hours=24)),
        ("7d", "UTC", NOW - timedelta(days=7)),
        ("2w", "UTC", NOW - timedelta(weeks=2)),
        ("2026-11-01", "UTC", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01", "Asia/Shanghai", datetime(2026, 10, 31, 16, tzinfo=UTC)),
        ("2026-11-01T10:00Z", "Asia/Shanghai", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T10:00+02:00", "UTC", datetime(2026, 11, 1, 8, tzinfo=UTC)),
    ],
)
def test_times_are_relative_or_of_the_readers_zone(since: str, zone: str, moment: datetime) -> None:
    """A relative time stays relative in links: tomorrow they mean tomorrow's last seven days."""
    view = parse("calls", [("since", since), ("tz", zone)], now=NOW)
    assert view.since == moment
    assert dict(parse_qsl(urlsplit(view.url()).query))["since"] == since


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("usr=ada", "usr"), ("user=a&user=b", "user"), ("since=yesterday", "since"), ("since=123456d", "since"),
        ("since=2026-13-01", "since"), ("since=1d&until=2d", "since"), ("n=0", "n"), ("n=501", "n"), ("n=-1", "n"),
        ("n=1e3", "n"), ("n=%D9%A3", "n"), ("order=cheap", "order"), ("by=user", "by"), ("tz=Mars/Base", "tz"),
        ("tz=../../etc/passwd", "tz"), ("before=abc", "before"), ("after=%00", "after"), ("errors=yes", "errors"),
        ("min_cost=NaN", "min_cost"), ("min_cost=-1", "min_cost"), ("min_cost=1e99", "min_cost"), ("lang=fr", "lang"),
        ("user=" + "x" * 70_000, "user"), ("user=%00", "user"), ("bucket=minute", "bucket"),
        ("min_ms=99999999999", "min_ms"), ("since=0001-01-01", "since"), ("until=9999-12-31", "until"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_an_error_that_names_it(query: str, name: str) -> None:
    """A filter that is misspelled must not show everything."""
    with pytest.raises(InvalidView) as caught:
        view_of(query=query)
    assert caught.value.name == name


def test_both_cursors_exclude_each_other() -> None:
    """A page is before something, or after it."""
    cursor = Cursor(NOW, "x")
    with pytest.raises(InvalidView):
        view_of(query=f"before={cursor}&after={cursor}")


def test_links_keep_what_is_seen() -> None:
    """Filters stay from page to page; a cursor goes with any change, an id with its page."""
    cursor = str(Cursor(NOW, "x"))
    view = view_of("session", f"id=s%2F1&user=ada&before={cursor}&since=7d&view=talk")
    assert dict(parse_qsl(urlsplit(view.url()).query)) == {
        "id": "s/1", "user": "ada", "before": cursor, "since": "7d", "view": "talk",
    }  # fmt: skip
    assert view.url("users") == "/users?user=ada&since=7d"
    assert "before" not in view.url(user=None)
    assert "user" not in view.url(user=None)
    assert view.url("call", id="é/..#?&") == "/call?user=ada&since=7d&id=%C3%A9%2F..%23%3F%26"


def test_a_cookie_that_is_wrong_is_no_error() -> None:
    """It is not the reader who wrote it."""
    assert view_of(zone="Not/AZone").zone.key == "UTC"
