"""The dashboard as its readers meet it: every page in every form, who may see what, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Engine, event, text
from starlette.testclient import TestClient

from llmctx import migrate
from llmctx.calllog import CallLog
from llmctx.core.errors import ConfigError
from llmctx.core.record import DEFAULT_TABLE
from llmctx.dashboard import Access, Dashboard
from llmctx.dashboard.pages import PAGES
from llmctx.settings import load
from llmctx.storage.engine import engine
from llmctx.storage.filters import Filters
from llmctx.storage.queries import Cursor
from tests.conftest import execute
from tests.kit import older
from tests.kit.calls import row
from tests.kit.dashboard import EVERYTHING, FOREIGN, HOSTILE, OF_ONE, PREFIX, application, calls, every_page, fill, path
from tests.kit.rows import set_texts_apart

Client = Callable[..., TestClient]
NOW = datetime.now(UTC)
LIMITED = replace(EVERYTHING, texts=False, export=False)


@pytest.fixture
def filled(any_database: str) -> str:
    fill(any_database)
    return any_database


@pytest.fixture
def client(filled: str) -> Client:
    """A function from what a reader may see to a client of the mounted dashboard."""

    def make(access: Access | None = EVERYTHING, url: str = filled, **options: Any) -> TestClient:
        return TestClient(application(url, access, **options), follow_redirects=False)

    return make


def test_every_page_answers_in_every_form_and_language(client: Client) -> None:
    """Without a template's error, a bare exception or a foreign host."""
    with client() as reader:
        for page, query in every_page():
            for lang in ("en", "zh"):
                shown = reader.get(path(page, lang=lang, **query))
                assert shown.status_code == 200, (page, shown.text)
                assert f'lang="{"zh-CN" if lang == "zh" else "en"}"' in shown.text
                assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", shown.text)
            body = reader.get(path(page, ".json", **query)).json()
            assert {"v", "data", "next", "window", "source", "as_of", "hidden"} <= body.keys(), page
            table = reader.get(path(page, ".csv", **query))
            assert table.status_code == 200, page
            assert table.headers["content-disposition"].startswith("attachment")
            assert "/" not in table.headers["content-disposition"]


def test_every_answer_has_its_headers(client: Client) -> None:
    """Also errors and static files; only files with their hash in the URL may be kept."""
    with client() as reader:
        for url in (path("usage"), path("calls", ".json"), path("nope"), path("static/llmctx.css")):
            headers = reader.get(url).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "private, no-store"
        (versioned,) = set(re.findall(r'href="([^"]*llmctx\.css[^"]*)"', reader.get(path("usage")).text))
        assert "immutable" in reader.get(versioned).headers["cache-control"]
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert reader.request(method, path("calls")).status_code == 405


def test_usage_is_whole_without_a_script(client: Client) -> None:
    """One page with every figure, to which one without figures leads."""
    with client() as reader:
        assert "usage?lazy=0" in reader.get(path("usage")).text
        whole = reader.get(path("usage", lazy="0")).text
    assert (whole.count("data-plot"), whole.count("<main"), whole.count("<h1"), "hx-get" in whole) == (5, 1, 1, False)


def test_links_lead_to_pages_that_are_there(client: Client) -> None:
    """A walk that a reader could take, by every link of every page, under the prefix."""
    with client() as reader:
        seen, waiting = set[str](), [path("usage")]
        while waiting and len(seen) < 100:
            url = waiting.pop(0)
            if url in seen:
                continue
            seen.add(url)
            shown = reader.get(url)
            assert shown.status_code == 200, url
            if "html" in shown.headers["content-type"]:
                links = map(unescape, re.findall(r'(?:href|hx-get)="([^"#]+)"', shown.text))
                found = [one for one in links if "/static/" not in one]
                assert all(one.startswith(PREFIX + "/") for one in found), url
                pages = {one.partition("?")[0] for one in seen}
                waiting += found
                waiting.sort(key=lambda one: one.partition("?")[0] in pages)  # none is left out for the number of links
    assert {one.partition("?")[0] for one in seen} >= {path(page) for page in PAGES}


def test_nobody_without_authorize_and_nobody_whom_it_refuses(filled: str, client: Client) -> None:
    """There is no dashboard that is open by accident."""
    with pytest.raises(ConfigError, match="authorize="):
        Dashboard(CallLog(filled))
    with client(None) as refused:
        for page, query in every_page():
            for form in ("", ".json", ".csv"):
                answer = refused.get(path(page, form, **query))
                assert answer.status_code == 403, page
                assert "ada" not in answer.text
    with client(None, login_url="/login?by=mail") as reader:
        assert reader.get(path("calls", ".json")).status_code == 403
        for wanted in (path("session", id="s-1", tz="Asia/Shanghai"), path("usage")):
            redirected = reader.get(wanted)
            assert redirected.status_code == 303
            login = urlsplit(redirected.headers["location"])
            assert (login.path, parse_qsl(login.query)) == ("/login", [("by", "mail"), ("next", wanted)])


def test_what_authorize_gets_wrong_shows_nothing(filled: str) -> None:
    """It raised, or returned True: closed, and said in the log."""

    def raises(connection: Any) -> Access:
        raise RuntimeError("no session store")

    for authorize in (raises, lambda connection: True):
        with TestClient(Dashboard(CallLog(filled), authorize=authorize)) as reader:  # type: ignore[arg-type]  # wrong
            answer = reader.get("/calls")
        assert answer.status_code in (500, 503)
        assert "ada" not in answer.text


def test_texts_are_hidden_unless_allowed(client: Client) -> None:
    """In every page and form; a search is a way to read, too."""
    with client(LIMITED) as reader:
        for page, query in every_page():
            for form in ("", ".json"):
                assert "secret" not in reader.get(path(page, form, **query)).text, page
        assert reader.get(path("calls", q="secret")).status_code == 403
        assert "prompt_snapshot" in reader.get(path("call", ".json", id=OF_ONE["call"])).json()["hidden"]
        assert reader.get(path("calls", ".csv")).status_code == 403
    with client() as allowed:
        assert "secret question of ada" in allowed.get(path("session", id="s-1")).text
        assert "secret answer" in allowed.get(path("call", id=OF_ONE["call"])).text


def test_texts_that_stand_apart_are_shown(texts_apart: str) -> None:
    """As those in rows: in a call, a session and a search."""
    fill(texts_apart)
    asyncio.run(set_texts_apart(texts_apart))
    with TestClient(application(texts_apart)) as reader:
        assert "secret answer" in reader.get(path("call", id=OF_ONE["call"])).text
        assert "secret question of ada" in reader.get(path("session", id="s-1")).text
        assert OF_ONE["call"][-5:] in reader.get(path("calls", q="secret ANSWER")).text
        assert reader.get(path("health")).status_code == 200


def test_reading_texts_is_audited(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Who, and which session or call."""
    with caplog.at_level(logging.INFO, "llmctx.dashboard.audit"):
        for access in (EVERYTHING, LIMITED):
            with client(access) as reader:
                reader.get(path("session", id="s-1"))
    lines = [record.getMessage() for record in caplog.records if record.name == "llmctx.dashboard.audit"]
    assert lines == ["ada@example.org reads session s-1"]


@pytest.mark.parametrize("within", [Filters(agent="triage"), Filters(user="ada"), Filters(session="s-1")], ids=repr)
def test_rows_outside_of_what_a_reader_may_see_do_not_exist(client: Client, within: Filters) -> None:
    """Neither in a list, by a filter, nor by their id: on each route."""
    with client(Access("team", texts=True, export=True, within=within)) as reader:
        for page, query in every_page(FOREIGN):
            for form in ("", ".json", ".csv"):
                shown = reader.get(path(page, form, **query))
                assert shown.status_code == (404 if page in {*FOREIGN, "health"} - {"trace"} else 200), (
                    page,
                    shown.text,
                )
                assert not re.search(r"\bbob\b|booking", shown.text.replace("id=bob", "")), page
        assert reader.get(path("calls", ".json", user="bob")).json()["data"] == []
        assert reader.get(path("sessions", ".json", agent="booking")).json()["data"] == []
    with client() as unlimited:
        assert len(unlimited.get(path("calls", ".json", user="bob")).json()["data"]) == 1


def test_ids_and_texts_that_attack_the_page(client: Client) -> None:
    """They are text: no tag, no escape, no formula; and their pages are found by them."""
    with client() as reader:
        listed = "".join(reader.get(path(page, n="500")).text for page in ("calls", "sessions", "users"))
        assert "<script>alert" not in listed
        assert "<img" not in listed
        for text in HOSTILE.values():
            shown = reader.get(path("session", id=text[:2000]))
            assert shown.status_code == 200, text[:40]
            assert "<script>alert" not in shown.text
            assert "\x1b" not in shown.text
            (of_session,) = reader.get(path("session", ".json", id=text[:2000])).json()["data"]["calls"]
            assert of_session["session_id"] == text[:2000]
        table = reader.get(path("sessions", ".csv")).text
        assert "\x1b" not in table
        assert not re.search(r"(?m)(^|,)\"?=", table)


def test_short_ids_show_no_user(client: Client) -> None:
    """Where a screen is shared: the page shows ends and a hash."""
    with client(replace(LIMITED, ids="short")) as reader:
        visible = re.sub(r"<[^>]*>", " ", reader.get(path("users")).text)
    assert not re.search(r"\b(ada|bob)\b", visible)


@pytest.mark.parametrize("name", ["foo=1", "since=x", "before=%00", "n=0"])
def test_what_cannot_be_asked_says_so_in_both_forms(client: Client, name: str) -> None:
    """A page with the sentence, and an error object with its code."""
    with client() as reader:
        assert reader.get(f"{PREFIX}/calls?{name}").status_code == 400
        answer = reader.get(f"{PREFIX}/calls.json?{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, f"invalid_{name.partition('=')[0]}")


@pytest.mark.parametrize("page", ["calls", "sessions", "users", "usage/time", "errors"])
def test_the_ends_of_the_calendar_and_cursors_of_another_list(client: Client, page: str) -> None:
    """They are questions without rows, or that cannot be asked; never a failure of the page."""
    places = [Cursor(at, key) for at in (datetime.min, datetime.max, NOW) for key in (None, "no id of a call")]
    with client() as reader:
        for cursor in [*(replace(one, at=one.at and one.at.replace(tzinfo=UTC)) for one in places), Cursor(None, "x")]:
            for name in ("before", "after"):
                assert reader.get(path(page, **{name: str(cursor)})).status_code in (200, 400), (name, cursor)
        for since in ("0001-01-02", "99999d"):
            assert reader.get(path(page, since=since)).status_code in (200, 400), since
        for year, tz in (("0001", "America/New_York"), ("9999", "Asia/Shanghai")):
            until = {"until": f"{year}-01-03T00:00Z", "tz": tz}
            for time in ({"since": f"{year}-01-01T00:00Z"}, {"order": "cost", "count": "1"}):
                assert reader.get(path(page, **until, **time)).status_code in (200, 400), time


def test_pages_go_on_to_the_end(client: Client) -> None:
    """By `next`, each call once."""
    with client() as reader:
        everything = [one["call_id"] for one in reader.get(path("calls", ".json", n="500")).json()["data"]]
        walked: list[str] = []
        query: dict[str, str] = {}
        while True:
            body = reader.get(path("calls", ".json", n="3", **query)).json()
            walked += [one["call_id"] for one in body["data"]]
            if body["next"] is None:
                break
            query = {"before": body["next"]}
    assert walked == everything


def test_what_is_unknown_is_not_zero(client: Client) -> None:
    """A dash, and a word on what to do."""
    with client() as reader:
        shown = reader.get(path("call", id=str(row(20)["call_id"]))).text
        unpriced = reader.get(path("call", id=str(row(5)["call_id"]))).text
        assert reader.get(path("health", ".json")).json()["data"]["unpriced"] == [
            {"model": "unpriced", "calls": 1, "unpriced": 1}  # a call without tokens has no cost whatever the price
        ]
    assert "NULL" in shown
    assert "$0" not in shown
    assert "llmctx prices" not in shown
    assert "llmctx prices" in unpriced


def test_no_table_and_no_database_say_what_to_do(any_empty_database: str, nowhere: str, tmp_path: Any) -> None:
    """Each in words of its own; nothing of the page needs the database."""
    with TestClient(application(any_empty_database)) as empty:
        shown = empty.get(path("calls"))
        assert shown.status_code == 503
        assert "llmctx migrate" in shown.text
    for url in (f"sqlite+aiosqlite:///{tmp_path}/gone/x.db", nowhere):
        with TestClient(application(url)) as away:
            assert away.get(path("sessions")).status_code == 503
            assert away.get(path("sessions", ".json")).json()["error"]["code"] == "database_away"
            assert away.get(path("usage")).status_code == 200


@pytest.mark.parametrize("durability", ["journal", "memory"])
def test_it_says_where_calls_wait_while_the_database_is_away(nowhere: str, tmp_path: Any, durability: Any) -> None:
    """A restart loses those that are in memory alone; without any, nothing is said."""
    call_log = CallLog(nowhere, durability=durability, journal_dir=str(tmp_path / "journal"), shutdown_timeout_s=0.1)
    app = Dashboard(call_log, authorize=lambda _: EVERYTHING)
    with call_log, TestClient(app) as reader:
        assert "of this process" not in reader.get("/sessions").text
        with call_log.record(model="m"):
            pass
        call_log.flush(0.5)
        shown = reader.get("/sessions").text
    assert ("in its memory alone" in shown) is (durability == "memory")
    assert ("nothing of it is lost" in shown) is (durability == "journal")


def test_an_empty_table_shows_how_to_begin(any_database: str) -> None:
    """And a filter that matches nothing says so instead."""
    with TestClient(application(any_database)) as reader:
        assert "CallLog()" in reader.get(path("calls")).text
        assert 'id="waiting"' in reader.get(path("usage/time")).text
        assert "CallLog()" not in reader.get(path("calls", user="nobody")).text
        assert reader.get(path("calls", ".json")).json()["data"] == []


def test_an_adopted_table_is_shown_with_columns_of_its_own(empty_database: str) -> None:
    """Whatever their names and types, and times that mean "never", in each zone."""
    own = {"retry_ms": "text", "budget_tokens": "text", "raw": "bytea", "at_ms": "interval"}
    ever = {"finished_at": "9999-12-31 23:59:59", "user_id": "7"}
    odd = {"retry_ms": "n/a", "budget_tokens": "<unlimited>", "raw": "\\x00ff", "at_ms": "3 seconds"}
    execute(
        empty_database, *older.made("numbered"),
        *(f"ALTER TABLE {DEFAULT_TABLE} ADD {name} {kind}" for name, kind in own.items()),
        older.row("numbered", 1, **odd, **ever, call_id="call 1;ls"),
        older.row("numbered", 2, created_at="0001-01-01"), older.row("numbered", 3, created_at="9999-12-31 23:00:00"),
    )  # fmt: skip
    migrate.upgrade(load(database_url=empty_database))
    with TestClient(application(empty_database)) as reader:
        for zone in ("Asia/Shanghai", "America/New_York"):
            for call in ("call 1;ls", "call-2", "call-3"):
                shown = reader.get(path("call", id=call, tz=zone))
                assert shown.status_code == reader.get(path("call", ".json", id=call, tz=zone)).status_code == 200
                assert call != "call 1;ls" or all(
                    one in shown.text for one in ("n/a", "&lt;unlimited&gt;", "show &#39;")
                )
            for page in ("calls", "sessions", "users", "health", "errors", "coverage", "usage/time"):
                assert reader.get(path(page, tz=zone)).status_code == 200, page
            assert reader.get(path("session", id="s-7", tz=zone)).status_code == 200


def test_the_address_of_a_call(filled: str) -> None:
    """For logs and for the application's own pages."""
    call_log = CallLog(filled)
    with pytest.raises(ConfigError, match="LLMCTX_DASHBOARD_URL"):
        call_log.url("x")
    Dashboard(call_log, authorize=lambda _: EVERYTHING, base_url="https://example.org/admin/llm/")
    assert call_log.url(OF_ONE["call"]) == f"https://example.org/admin/llm/call?id={OF_ONE['call']}"


def test_a_trace_is_read_in_its_order(client: Client) -> None:
    """With the span of each call, from a link of the call's page; another's trace and another time show nothing."""
    trace = OF_ONE["trace"]
    with client() as reader:
        (link,) = re.findall(
            rf'href="([^"]*/trace[?][^"]*{trace}[^"]*)"', reader.get(path("call", id=OF_ONE["call"])).text
        )
        assert reader.get(unescape(link)).text.count("<rect") == 2
        data = reader.get(path("trace", ".json", id=trace)).json()["data"]
        assert [one["span_id"] for one in data["calls"]] == ["1" * 16, "4" * 16]
        assert (data["totals"]["calls"], data["totals"]["errors"], data["totals"]["cost_usd"]) == (2, 1, "0.020000000")
        assert reader.get(path("trace", ".csv", id=trace)).text.count("\n") == 3
        assert "between" in reader.get(path("trace", id=trace, since="2020-01-01", until="2020-01-02")).text
        assert reader.get(path("trace")).status_code == 404
    with client(Access("team", within=Filters(user="ada"))) as limited:
        assert limited.get(path("trace", ".json", id=FOREIGN["trace"])).json()["data"]["calls"] == []


def test_first_words_are_shown_when_asked_for(client: Client) -> None:
    """And to those alone who may read texts; by default no list loads any."""
    with client() as reader:
        assert "secret question" not in reader.get(path("sessions")).text
        assert "secret question of ada" in reader.get(path("sessions", texts="1")).text
        found = reader.get(path("sessions", ".json", texts="1", user="ada")).json()["data"]
        assert [one["first_words"] for one in found] == ["secret question of ada"]
    with client(LIMITED) as limited:
        assert "secret" not in limited.get(path("sessions", texts="1")).text


def test_a_user_without_calls_in_the_time_is_still_there(client: Client) -> None:
    """The page says when the last one was; a user of whom there is no call at all is not found."""
    with client() as reader:
        quiet = reader.get(path("user", id="ada", since="2020-01-01", until="2020-02-01"))
        assert quiet.status_code == 200
        assert "No call of this user in this time" in quiet.text
        days = reader.get(path("user", ".json", id="ada")).json()["data"]["days"]
        assert sum(day["calls"] for day in days) == 3  # it may be past midnight
        assert reader.get(path("user", id="nobody at all")).status_code == 404


def test_lists_by_id_say_what_they_leave_out(client: Client) -> None:
    """Calls without a user are in no line of the users: their sum is below that of Usage."""
    with client() as reader:
        for page in ("users", "sessions"):
            shown = reader.get(path(page, since="1d", order="cost", model="small")).text
            (link,) = re.findall(r'not in this list\. <a href="([^"]*)">Without ids</a>', shown)
            listed = reader.get(unescape(link).replace("/calls?", "/calls.json?")).json()
            assert listed["window"]["since"] is not None
            assert {one["model"] for one in listed["data"]} == {"small"}
            assert any(one[f"{page[:-1]}_id"] is None for one in listed["data"])


def test_how_many_there_are_is_counted_when_asked(client: Client) -> None:
    """Of all calls the database's estimate, where it has one; of filtered ones a count."""
    with client() as reader:
        assert reader.get(path("calls", ".json")).json()["count"] is None
        assert reader.get(path("calls", ".json", count="1", user="ada")).json()["count"] == {
            "value": 3, "capped": False, "estimated": False,
        }  # fmt: skip
        assert reader.get(path("calls", count="1")).status_code == 200
        for page, asked in (("users", {}), ("sessions", {"since": "7d"})):
            counted = reader.get(path(page, ".json", count="1", **asked)).json()
            assert counted["count"]["value"] == len(counted["data"]) > 0
            words = f"{counted['count']['value']} {page}{'' if asked else ' in the last 31 days'}"
            assert words in reader.get(path(page, count="1", **asked)).text


def test_calls_of_a_session_lead_to_one_another(client: Client) -> None:
    """From the first to the next and back."""
    with client() as reader:
        first = reader.get(path("call", id=OF_ONE["call"])).text
        (later,) = re.findall(r'rel="next" href="([^"]+)"', first)
        assert 'rel="prev"' not in first
        (earlier,) = re.findall(r'rel="prev" href="([^"]+)"', reader.get(unescape(later)).text)
    assert earlier.endswith(f"id={OF_ONE['call']}")


async def test_who_asks_the_same_at_the_same_time_gets_one_answer(database: str) -> None:
    """Whoever may see other rows gets another one."""
    await asyncio.to_thread(fill, database)
    of_bob = replace(EVERYTHING, within=Filters(user="bob"))
    dashboard = Dashboard(
        CallLog(database), authorize=lambda asked: of_bob if asked.headers["name"] == "bob" else EVERYTHING
    )
    source = engine(load(database_url=database))
    url = "http://llmctx/coverage.json?since=24h"
    async with AsyncClient(transport=ASGITransport(dashboard)) as reader, source.connect() as other:
        await other.execute(text(f"LOCK TABLE {DEFAULT_TABLE} IN ACCESS EXCLUSIVE MODE"))
        names = ["ada", "bob"] * 10
        asked = [asyncio.create_task(reader.get(url, headers={"name": name})) for name in names]
        async with asyncio.timeout(10):
            while not await other.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                await asyncio.sleep(0.01)
        await other.rollback()
        answers = [one.json() for one in await asyncio.gather(*asked)]
    await dashboard.aclose()
    await source.dispose()
    assert len({one["as_of"] for one in answers[::2]}) == 1
    assert len({one["as_of"] for one in answers[1::2]}) == 1
    assert {one["data"]["coverage"]["rows"] for one in answers[::2]} == {len(calls())}
    assert {one["data"]["coverage"]["rows"] for one in answers[1::2]} == {1}


def test_every_statement_has_a_limit(client: Client) -> None:
    """Whatever a page asks, it never gets more rows than it can show."""
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with client() as reader:
            for page, query in every_page():
                assert reader.get(path(page, texts="1", count="1", **query)).status_code == 200
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    of_rows = [one for one in asked if f"FROM {DEFAULT_TABLE}" in one]
    assert len(of_rows) > 20
    assert [one for one in of_rows if "LIMIT" not in one and not re.match(r"SELECT (count|max)\(", one)] == []
