"""A call log that cannot start, flush or close as it should: the application starts and ends all the same.

As in `test_harmless.py`, a failure is raised at single lines of llmctx; here while an application begins and ends.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.journal import read
from llmctx.delivery.journal.frames import Kind
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.propagation import threads as carrying
from tests.faults.kit import MODEL
from tests.faults.lines import Line, Lines
from tests.kit.support import kept_by
from tests.promises.test_harmless import PROBLEMS

AT_ONCE: Final = 25  # lines of one way of life in `make test`


def by_hand(call_log: CallLog | None) -> list[Any]:
    """`start` and `close`, nested; `with`; `flush`."""
    told: list[Any] = []
    if call_log is not None:
        told.append(call_log.start() is call_log)
        call_log.start()
    told.append(MODEL.invoke("of ada: one").content)
    if call_log is not None:
        told += [type(call_log.flush(10.0)), type(call_log.close())]
        told.append(type(call_log.close(10.0)))
    told.append(MODEL.invoke("of ada: two").content)
    if call_log is not None:
        with call_log as entered:
            told.append(entered is call_log)
            told.append(MODEL.invoke("of ada: three").content)
        call_log.close()
    return told


def as_lifespan(call_log: CallLog | None) -> list[Any]:
    """What a server does with an application: its lifespan begins, requests come, its lifespan ends."""

    @asynccontextmanager
    async def nothing(app: Any) -> AsyncIterator[None]:
        yield

    async def serve() -> list[Any]:
        told: list[Any] = []
        lifespan = nothing if call_log is None else call_log.lifespan
        async with lifespan(None):
            told.append((await MODEL.ainvoke("of ada: one")).content)
            if call_log is not None:
                told.append(type(await call_log.aflush(10.0)))
        if call_log is not None:
            told += [type(await call_log.aclose(10.0)), type(await call_log.aflush(10.0))]
        task = asyncio.current_task()
        return [*told, task is None or task.cancelling()]

    return asyncio.run(serve())


LIVES: Final = (by_hand, as_lifespan)


def _lived(life: Callable[[CallLog | None], list[Any]], lines: Lines) -> tuple[object, CallLog, int]:
    """What came of it, and how many calls have a row at the end."""
    sink = MemorySink()
    call_log = CallLog(sink=sink, carry=True, linger_ms=1)
    try:
        with lines.traced(threads=False):
            told: object = life(call_log)
    except BaseException as problem:
        told = f"raised {problem!r}"
    return told, call_log, len(sink.records)


def _healthy() -> list[str]:
    """The users of a call that is made with another call log, in what the process has become."""
    sink = MemorySink()
    with CallLog(sink=sink, linger_ms=1) as call_log:
        MODEL.invoke("of ada: and now?")
        assert call_log.flush(60) == 0
        assert call_log.stats().balanced
        assert kept_by(call_log._recorder.open_calls) == []
    return [record.status for record in sink.records]


@pytest.mark.filterwarnings("ignore:.*Worker._drain")  # which was about to begin
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_a_failure_while_it_starts_or_ends_is_not_noticed(
    life: Callable[[CallLog | None], list[Any]], pytestconfig: pytest.Config
) -> None:
    """At any line of start, flush and close: nothing raised, the same answers, a count; the next call log is whole."""
    survey = Lines()
    expected, _, usual = _lived(life, survey)
    assert [one for one in expected if isinstance(one, str)] == life(None)[: 3 if life is by_hand else 1] + [  # type: ignore[attr-defined]
        "heard of ada: three"
    ] * (life is by_hand)
    choice = random.Random(life.__name__)
    points: list[tuple[Line, int]] = [(line, choice.randint(1, min(times, 50))) for line, times in survey.runs.items()]
    if pytestconfig.getoption("--every-line"):
        points = [(line, 1) for line in survey.runs] + points
    else:
        points = choice.sample(points, AT_ONCE)
    wrong: list[str] = []
    struck = 0
    for number, (line, nth) in enumerate(points):
        kind = PROBLEMS[number % len(PROBLEMS)]
        noted = Counter(diagnostics.by_cause())
        lines = Lines(line, nth, lambda kind=kind: kind("injected"))  # type: ignore[misc]
        told, call_log, rows = _lived(life, lines)
        struck += lines.raised
        if told != expected:
            wrong.append(f"{told}, not {expected}")
        if rows < usual and not Counter(diagnostics.by_cause()) - noted:
            wrong.append("a call has no row, and that is not counted")
        if (statuses := _healthy()) != ["ok"]:
            wrong.append(f"the next call came out as {statuses}")
        call_log.start().close()  # the second time it does all of it
        left = [*carrying._users, *(["its thread"] if call_log._worker.running else ())]
        if left := left + kept_by(call_log._recorder.open_calls):
            wrong.append(f"it has left behind: {left}")
        wrong[:] = [what if " at " in what else f"{kind.__name__} at {line} run {nth}: {what}" for what in wrong]
    print(f"{len(survey.runs)} lines, {struck} of {len(points)} struck")
    assert struck > 0.8 * len(points)
    assert wrong == [], f"{len(wrong)} differences:\n" + "\n".join(wrong[:40])


class Impatient(Exception):
    """What a host's handler of a signal raises."""


def _interrupt(*_: object) -> None:
    raise Impatient


@pytest.fixture
def waiting(tmp_path: Path) -> CallLog:
    """A call log whose database is not there, with a row that waits for it."""
    call_log = CallLog(
        f"postgresql+asyncpg://u@/d?host={tmp_path}", journal_dir=tmp_path / "journal", shutdown_timeout_s=60
    ).start()
    MODEL.invoke("of ada: hello")
    return call_log


def _left(call_log: CallLog) -> int:
    """How many rows are in the journal of a call log that has been closed."""
    assert not call_log._worker.running
    return sum(
        found.kind == Kind.RECORD
        for place in call_log.settings.journal_directories[:1]
        for path in place.glob("*/records-*")
        for found in read(path)
    )


def test_who_interrupts_a_close_gets_his_way(waiting: CallLog) -> None:
    """Ctrl-C, or a time limit, while it waits for the database: it passes at once, and the rows are in the journal."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Impatient):
            waiting.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 30
    assert _left(waiting) == 1


async def test_a_close_that_is_cancelled_is_one(waiting: CallLog) -> None:
    """A server that has lost patience: the same."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await waiting.aclose()
    assert time.monotonic() - began < 30
    assert _left(waiting) == 1


@pytest.mark.parametrize("timeout", [0.0, 1.0])
def test_a_close_takes_as_long_as_it_may_in_all(waiting: CallLog, timeout: float) -> None:
    """The journal's part included."""
    began = time.monotonic()
    assert waiting.close(timeout) == 1
    assert time.monotonic() - began < timeout + 5  # a busy machine
    assert _left(waiting) == 1
