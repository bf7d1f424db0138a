"""How values are written: unknown is never zero, and nothing is rounded into a lie."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from llmctx.dashboard import formats
from llmctx.dashboard.view import parse


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "—"), (Decimal(0), "$0"), (Decimal("12.485"), "$12.48"), (Decimal("1234567.8"), "$1,234,567.80"),
        (Decimal("0.00123456"), "$0.00123"), (Decimal("0.000000001"), "$1.0e-09"), (Decimal("0.01"), "$0.01"),
    ],
)  # fmt: skip
def test_money(value: Any, written: str) -> None:
    """Of less than a cent the digits that count."""
    assert formats.money(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "—"), (0, "0 ms"), (999, "999 ms"), (1500, "1.5 s"), (119_999, "120.0 s"), (180_000, "3 min"),
        (7_200_000, "2.0 h"), (timedelta(seconds=3), "3.0 s"), (timedelta(microseconds=840_400), "840 ms"),
    ],
)  # fmt: skip
def test_durations(value: Any, written: str) -> None:
    """In the unit that a reader would use."""
    assert formats.duration(value) == written


def test_percent_is_whole_only_where_it_is() -> None:
    """One miss in a million is not 100 %."""
    assert formats.percent(999_999, 1_000_000) == "> 99.9 %"
    assert formats.percent(1, 1_000_000) == "< 0.1 %"
    assert formats.percent(10, 10) == "100 %"
    assert formats.percent(0, 10) == "0 %"
    assert formats.percent(1, 0) == formats.percent(None, 3) == "—"


def test_short_ids_tell_users_apart_and_show_none() -> None:
    """Also where their ends are the same."""
    one, two = formats.short_id("patient-000-05"), formats.short_id("patient-111-05")
    assert one != two
    assert one.startswith("pa…05·")
    assert "tiny" not in formats.short_id("tiny")


@pytest.mark.parametrize("user", ["u-17", "张三", "O'Brien", '$(reboot) "x"', "<b>&amp;", "a b\\c"])
def test_commands_and_json_say_what_they_are_given(user: str) -> None:
    """What is copied into a shell is the id itself, in every script; JSON is readable in each."""
    assert shlex.split(f"llmctx erase --user {formats.shell_word(user)}")[-1] == user
    written = formats.json_text({"name": user})
    assert json.loads(written) == {"name": user}
    assert "\\u" not in written


@pytest.mark.parametrize(
    ("zone", "at", "written"),
    [
        ("UTC", datetime(2026, 11, 30, tzinfo=UTC), "2026-11-30"),
        ("UTC", datetime(2026, 11, 30, 13, tzinfo=UTC), "11-30 13:00"),
        ("Asia/Kolkata", datetime(2026, 11, 29, 18, 30, tzinfo=UTC), "2026-11-30"),
        ("Africa/Cairo", datetime(2026, 4, 23, 22, tzinfo=UTC), "2026-04-24"),
        ("Africa/Cairo", datetime(2026, 4, 23, 23, tzinfo=UTC), "04-24 02:00"),
    ],
)
def test_a_day_is_written_as_a_day(zone: str, at: datetime, written: str) -> None:
    """Also one that begins at one o'clock, because clocks are put forward at midnight."""
    assert formats.bucket_in(parse("usage", (), now=at, zone=zone))(at) == written


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
def test_the_ends_of_the_calendar_are_written(zone: str) -> None:
    """Tables say "never" with them; no zone has their time."""
    write = formats.time_in(parse("calls", (), now=datetime(2026, 11, 30, tzinfo=UTC), zone=zone))
    assert "1-01-01" in write(datetime.min.replace(tzinfo=UTC)) or zone == "Asia/Shanghai"
    assert write(datetime.max.replace(tzinfo=UTC)) >= "9999-12-31"
