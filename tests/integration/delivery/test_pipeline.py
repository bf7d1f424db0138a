"""The pipeline outlives what it meets: sinks that fail, its own death, a start while it closes."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.lives import run
from tests.kit.rows import rows_of
from tests.kit.support import Completer, Talker, wait_until

model = Talker()


def test_flush_says_what_is_left_and_always_returns(nowhere: str) -> None:
    """The database is away: calls wait, nobody else does."""
    call_log = CallLog(nowhere, shutdown_timeout_s=0.2)
    assert call_log.flush(0.1) == 0
    with call_log:
        for _ in range(7):
            model.invoke("hello")
        assert call_log.flush(0.1) == 7
        assert call_log.flush(0) == 7
        assert asyncio.run(call_log.aflush(0.1)) == 7
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(call_log.flush, [0.2] * 8)) == {7}
        stats = call_log.stats()
        assert (stats.started, stats.waiting, stats.written) == (7, 7, 0)
        assert stats.trouble
        assert stats.balanced
    assert call_log.flush(0.1) == 7
    assert call_log.close(0.1) == 0


def test_a_long_linger_does_not_hold_up_a_flush() -> None:
    """Rows may wait for company, but not while somebody waits for them."""
    sink = MemorySink()
    with CallLog(sink=sink, linger_ms=60_000) as call_log:
        model.invoke("hello")
        assert call_log.flush(60) == 0
        assert len(sink.records) == 1
        model.invoke("hello")
    assert len(sink.records) == 2


def test_a_flush_in_the_middle_of_the_load(any_database: str) -> None:
    """What had ended before the flush is in the database after it."""
    with CallLog(any_database) as call_log:
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                Completer().invoke("hello")

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: call_log.stats().started > 50, "some load")
        stop.set()
        for thread in threads:
            thread.join()
        assert call_log.flush(60) == 0
        started = call_log.stats().started
    assert len(rows_of(any_database)) == started


class Hostile:
    """A sink that fails in a way of its own each time."""

    problems = (RuntimeError, ValueError, MemoryError, RecursionError)

    def __init__(self) -> None:
        self.seen = 0

    def submit(self, record: CallRecord) -> bool:
        self.seen += 1
        raise self.problems[self.seen % 4]


def test_a_sink_that_raises_or_refuses() -> None:
    """The application does not notice; the calls are counted as dropped, and the next ones come through."""
    hostile = Hostile()
    with CallLog(sink=hostile) as call_log:
        for _ in range(8):
            assert model.invoke("hello").content == "heard hello"
        assert call_log.flush(60) == 0
        assert hostile.seen == 8
        assert (call_log.stats().dropped, call_log.stats().balanced) == (8, True)
    with CallLog(sink=MemorySink(full=True)) as call_log:
        model.invoke("hello")
        assert call_log.flush(60) == 0
        assert (call_log.stats().dropped, call_log.stats().balanced) == (1, True)


class Dying(MemorySink):
    """Takes the pipeline's thread along, once."""

    def submit(self, record: CallRecord) -> bool:
        if not self.records:
            super().submit(record)
            raise SystemExit
        return super().submit(record)


class Patient(MemorySink):
    """Lets whoever drains it wait, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    async def drain(self, timeout: float) -> int:
        self.asked.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.001)
        return 0


def test_started_again_while_it_closes() -> None:
    """By another thread, or a signal's handler: it records, whoever was first."""
    sink = Patient()
    call_log = CallLog(sink=sink).start()
    closing = threading.Thread(target=call_log.close)
    closing.start()
    assert sink.asked.wait(60)
    call_log.start()
    sink.go_on.set()
    closing.join(60)
    with bind(user_id="u"):
        model.invoke("hello")
    assert call_log.close(60) == 0
    assert [row.user_id for row in sink.records] == ["u"]
    assert call_log.stats().balanced


class Careless(MemorySink):
    """Leaves a failure behind that nobody waits for, as a driver does whose connection is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.been = threading.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("refused: o.hara@example.com"))
        self.been.set()
        await asyncio.Event().wait()


def test_what_fails_in_its_loop_unseen_is_told_in_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    """Once, under its own name, and without what must not be in a log; asyncio has nothing to say."""
    sink = Careless()
    diagnostics.reset()
    with CallLog(sink=sink):
        assert sink.been.wait(60)
        wait_until(lambda: diagnostics.counts["loop_failed"] > 0, "the failure to be noted")
    assert {line.name for line in caplog.records} == {"llmctx"}
    assert "refused" in caplog.text
    assert "o.hara" not in caplog.text


def test_a_pipeline_that_dies_is_started_again() -> None:
    """Whatever ends the thread, the calls after it are recorded."""
    sink = Dying()
    with CallLog(sink=sink) as call_log:
        model.invoke("one")
        wait_until(lambda: len(sink.records) == 1, "the end of the thread")
        model.invoke("two")
        wait_until(lambda: len(sink.records) == 2, "its new beginning")
        assert call_log.flush(60) == 0


def test_a_thread_that_dies_without_a_word_is_started_again(database: str) -> None:
    """Whoever puts a call in notices, within seconds."""
    body = """
    import ctypes
    Talker().invoke("one")
    assert call_log.flush(60) == 0
    thread = call_log._worker._thread
    while thread.is_alive():  # once it is inside of its own guard, it ends
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        time.sleep(0.01)
    began = time.monotonic()
    while not call_log._worker.running:
        Talker().invoke("two")
    print(time.monotonic() - began < 5, call_log.flush(), call_log.stats().balanced)
    os._exit(0)
    """
    done = run(body, database)
    assert done.stdout == "True 0 True\n", done.stderr


def test_a_loop_that_is_stopped_is_started_again(database: str) -> None:
    """Its calls are written all the same."""
    with CallLog(database) as call_log:
        for _ in range(3):
            model.invoke("hello")
            loop = call_log._worker._loop
            assert loop is not None
            loop.call_soon_threadsafe(loop.stop)
            wait_until(lambda loop=loop: call_log._worker._loop not in (loop, None), "a new loop")  # type: ignore[misc]
        assert call_log.flush(60) == 0
        assert call_log.stats().balanced
    assert len(rows_of(database)) == 3


def test_rows_are_stored_while_calls_come_faster_than_they_can_be_made_into_rows(database: str) -> None:
    """Connecting, looking at the table and storing take their turns between the calls, however many of those wait."""
    is_slow = threading.Event()
    is_slow.set()

    def redact_slowly(text: str) -> str:
        if is_slow.is_set():
            time.sleep(0.02)
        return text

    with CallLog(database, redact_functions=[redact_slowly]) as call_log:
        for _ in range(300):  # more than a minute of work
            model.invoke("hello")
        wait_until(lambda: call_log.stats().written > 0, "rows in the table")
        stats = call_log.stats()
        assert stats.waiting > 0
        is_slow.clear()
        assert call_log.flush(60) == 0
    assert len(rows_of(database)) == 300


def test_texts_go_before_calls_are_refused() -> None:
    """The pipeline has fallen behind: of those that wait, the oldest go without their texts, and say so."""
    is_held_up, goes_on = threading.Event(), threading.Event()

    class HungUp(MemorySink):
        def submit(self, record: CallRecord) -> bool:
            is_held_up.set()
            return goes_on.wait(60) and super().submit(record)

    sink = HungUp()
    with CallLog(sink=sink, memory_bytes=8 * 1024 * 1024) as call_log:  # room for 1,024 calls
        model.invoke("first")
        assert is_held_up.wait(60)
        for number in range(1000):
            model.invoke(f"hello {number}")
        goes_on.set()
        assert call_log.flush(60) == 0
        assert call_log.stats().dropped == 0
    without = [record for record in sink.records if record.prompt_snapshot is None]
    assert without == sink.records[1 : 1000 - 768]  # until three quarters wait
    assert all("llmctx_snapshots" in (record.attributes or {}) for record in without)
