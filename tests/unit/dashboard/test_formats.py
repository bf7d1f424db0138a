"""How values are written: unknown is never zero, and nothing is rounded into a lie."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from llmctx.dashboard import formats


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
