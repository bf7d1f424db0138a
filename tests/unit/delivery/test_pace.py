"""How long a batch waits for company."""

from __future__ import annotations

import pytest

from llmctx.delivery.pace import Pace

BOUND_S = 1.7


def linger(rows_per_s: float, seconds: float = 30.0) -> float:
    """After rows have come at that rate for a while."""
    pace, now = Pace(), 1000.0
    for _ in range(int(rows_per_s * seconds)):
        now += 1 / rows_per_s
        pace.count(now)
    return pace.linger_s(now)


def test_a_row_after_a_silence_waits_for_nobody() -> None:
    """It would wait in vain."""
    pace = Pace()
    assert pace.linger_s(5.0) == 0
    for _ in range(100):
        pace.count(5.0)
    assert pace.linger_s(60.0) == 0
    assert linger(0.2) == 0


@pytest.mark.parametrize("rows_per_s", [2, 10, 30])
def test_rows_that_come_slowly_wait_for_one_another(rows_per_s: float) -> None:
    """As long as they are in the table within two seconds."""
    assert 1 < linger(rows_per_s) < BOUND_S


def test_the_more_come_the_less_they_wait() -> None:
    """A batch of a hundred is nearly as good as a full one."""
    assert linger(10) >= linger(100) > linger(1000) > linger(5000)
    assert linger(1000) == pytest.approx(0.1, rel=0.1)


def test_none_waits_where_that_is_not_wanted() -> None:
    """`linger_ms=0`."""
    pace = Pace(0.0)
    for number in range(100):
        pace.count(number / 100)
    assert pace.linger_s(1.0) == 0
