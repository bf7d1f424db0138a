"""The pipeline gives way to a busy application, and never for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from llmctx.calllog import CallLog
from llmctx.core import scheduling
from llmctx.core.record import CallRecord
from llmctx.core.scheduling import MOST_CALLS, Throttle, yield_gil
from llmctx.delivery.sink import RecordingSink
from tests.kit.support import Talker, wait_until


@pytest.fixture
def busy() -> Iterator[None]:
    """A thread that computes."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    yield
    over.set()
    thread.join()


def _waited(throttle: Throttle, waiting: int, most_s: float) -> float:
    """For how long `throttle` lets so many calls wait."""
    begin = time.monotonic()
    throttle.begin()
    while (now := time.monotonic()) - begin < most_s:
        time.sleep(0.01)
        if not throttle.should_wait(waiting, time.monotonic() - now - 0.01):
            break
    return time.monotonic() - begin


def test_an_idle_application_is_not_waited_for() -> None:
    assert _waited(Throttle(0.5), 1, 30) < 5


@pytest.mark.usefixtures("busy")
def test_a_busy_one_is_but_not_for_ever() -> None:
    """On a machine that has no processor to spare it may not look busy for a moment, so the best of some counts."""
    assert max(_waited(Throttle(0.03), 1, 30) for _ in range(10)) > 0.25
    assert _waited(Throttle(0.03), 1, 30) < 10


@pytest.mark.usefixtures("busy")
def test_nor_while_many_calls_wait() -> None:
    throttle = Throttle(60)
    throttle.begin()
    assert not throttle.should_wait(MOST_CALLS)


def test_on_a_machine_that_is_overloaded_the_pipeline_works_an_eighth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pause in which the kernel lets others run for 24 ms is followed by 3 ms of work, not by half a one."""
    now, pauses = 1000.0, list[float]()

    def pause(_: float) -> None:
        nonlocal now
        pauses.append(now)
        now += 0.024

    monkeypatch.setattr(scheduling.time, "monotonic", lambda: now)
    monkeypatch.setattr(scheduling.time, "sleep", pause)
    monkeypatch.setattr(scheduling, "_used_by_others", lambda: now)
    monkeypatch.setattr(scheduling._Pauses, "looked", 0.0)
    for name in ("since", "piece_s", "least_s", "others"):
        monkeypatch.setattr(scheduling._Pauses, name, 0.0)
    for _ in range(100):
        yield_gil()
        now += 0.0005
    assert 14 <= len(pauses) <= 18


class Batches(RecordingSink):
    """A sink that counts how often it is given something."""

    deduplicates = True

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def submit(self, record: CallRecord) -> bool:
        raise AssertionError("there is submit_all")

    def submit_all(self, records: Sequence[CallRecord]) -> int:
        self.sizes.append(len(records))
        return 0


def test_calls_one_after_another_go_together() -> None:
    """The first of them wakes the pipeline, which then waits for company."""
    sink = Batches()
    with CallLog(sink=sink, linger_ms=2000) as call_log:
        for _ in range(20):
            Talker().invoke("hello")
        assert sink.sizes == []
        assert call_log.flush(30) == 0
        wait_until(lambda: sum(sink.sizes) == 20, "all calls")
    assert len(sink.sizes) <= 5  # rows are made for 20 ms at a time: on a slow machine that is a few of them
