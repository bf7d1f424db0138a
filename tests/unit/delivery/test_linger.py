"""Calls that come slowly are taken together; one that comes alone is taken soon, and many are not kept waiting."""

from __future__ import annotations

import time

import pytest

from llmctx.core.scheduling import MOST_CALLS, PATIENCE
from llmctx.delivery.linger import Linger

LINGER_S = 0.01


@pytest.fixture
def linger(monkeypatch: pytest.MonkeyPatch) -> Linger:
    """One whose application needs nothing, at a time that stands still unless a test moves it."""
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", time.thread_time)
    return Linger(LINGER_S)


clock = [1000.0]


def _takes(linger: Linger, waiting: int) -> float:
    """For how long `waiting` calls wait."""
    began = clock[0]
    linger.begin()
    while True:
        clock[0] += linger.next_s()
        if linger.is_over(waiting):
            linger.end(waiting)
            return clock[0] - began


def test_a_call_after_a_silence_waits_for_the_linger_alone(linger: Linger) -> None:
    for _ in range(3):
        clock[0] += 60
        assert _takes(linger, 1) == pytest.approx(LINGER_S)


def test_calls_that_come_slowly_wait_for_one_another(linger: Linger) -> None:
    """Ten lingers at most, so that what a process that is killed has not noted is of its last moments."""
    waits = []
    for _ in range(50):
        clock[0] += 0.005
        waits.append(_takes(linger, 4))
    assert waits[-1] == pytest.approx(PATIENCE * LINGER_S)
    assert max(waits) <= PATIENCE * LINGER_S + 1e-6


def test_many_are_taken_at_the_next_look(linger: Linger) -> None:
    for _ in range(50):
        _takes(linger, 1)
        clock[0] += 0.02
    assert _takes(linger, MOST_CALLS) < PATIENCE * LINGER_S / 2


def test_calls_that_come_steadily_need_not_wake_the_thread(linger: Linger) -> None:
    """It looks by itself, twice while calls wait, until none has come for some seconds."""
    for _ in range(50):
        clock[0] += 0.005
        linger.begin()
        looks = 1
        clock[0] += linger.next_s()
        while not linger.is_over(4):
            clock[0] += linger.next_s()
            looks += 1
        linger.end(4)
    assert (looks, linger.has_company) == (2, True)
    clock[0] += 60
    assert not linger.has_company


def test_without_a_linger_nothing_waits() -> None:
    linger = Linger(0.0)
    for _ in range(20):
        linger.begin()
        assert linger.next_s() == 0
        assert linger.is_over(1)
        linger.end(1)
        assert not linger.has_company
