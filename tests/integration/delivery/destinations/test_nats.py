"""With a transport each row is published, and leaves the journal when the database has it: whatever the broker does."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.js.errors import APIError

from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import SNAPSHOTS
from llmctx.delivery.broker.topology import Topology
from llmctx.settings import load
from llmctx.settings.transport_url import parse_transport
from tests.kit import lives
from tests.kit.brokers import Brokers, brokers
from tests.kit.frame_reader import FrameReader, make_streams, messages
from tests.kit.support import wait_until

pytestmark = pytest.mark.timeout(600)
LONG_S = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[Brokers]:
    """A broker for all that leaves it as it is; each test has streams of its own."""
    with brokers() as one:
        yield one


@pytest.fixture
def url(server: Brokers, request: pytest.FixtureRequest) -> str:
    """A transport with streams of this test's own."""
    name = request.node.name.removeprefix("test_").replace("[", "_").rstrip("]")[:30].lower()
    url = f"{server.url}?streams=2&max_bytes=33554432&prefix={name}"
    make_streams(url)
    return url


@pytest.fixture
def call_log(url: str, tmp_path: Path) -> Iterator[CallLog]:
    """A call log that publishes."""
    with log_of(url, tmp_path) as call_log:
        yield call_log


def log_of(url: str, tmp_path: Path, **settings: object) -> CallLog:
    return CallLog(transport=url, journal_dir=str(tmp_path / "journals"), linger_ms=0, **settings)


def record(call_log: CallLog, *numbers: int, text: str = "good morning") -> None:
    for number in numbers:
        with call_log.record(model=f"m{number:04}", prompt=text) as call:
            call.set(response=text)


def models(*numbers: int) -> list[str]:
    return [f"m{number:04}" for number in numbers]


def is_confirmed(call_log: CallLog) -> bool:
    """Return whether the database has all rows; asks, rather than waiting for the next look."""
    call_log.flush(5)
    stats = call_log.stats()
    assert stats.waiting or stats.balanced  # while rows are on their way, it may be some apart
    return not stats.waiting


def journals(tmp_path: Path) -> list[Path]:
    """Return the files of records that lie there."""
    return list((tmp_path / "journals").rglob("records-*"))


def noise(length: int) -> str:
    """Return a text that nothing compresses."""
    return base64.b85encode(os.urandom(length * 4 // 5)).decode()


def test_rows_leave_the_journal_when_the_database_has_them(call_log: CallLog, url: str, tmp_path: Path) -> None:
    """`flush` waits for the broker; until the frames are acknowledged the rows are kept, and counted as published."""
    record(call_log, *range(300))
    assert call_log.flush(LONG_S) == 0
    stats = call_log.stats()
    assert (stats.written, stats.waiting, stats.published, stats.balanced) == (0, 300, 300, True)
    assert stats.trouble is None
    with FrameReader(url) as reader:
        wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
    assert reader.models == models(*range(300))
    assert len(reader.rows) == 300
    assert len(reader.ids) < 100  # frames, not rows
    stats = call_log.stats()
    assert (stats.written, stats.published) == (300, 0)
    assert call_log.close() == 0
    assert not journals(tmp_path)


def test_what_is_published_and_not_stored_is_given_to_the_next(url: str, tmp_path: Path) -> None:
    """`close` says so, and leaves the rows in the journal; the next process publishes them again."""
    before = diagnostics.by_cause().get("closed_before_stored", 0)
    with log_of(url, tmp_path) as first:
        record(first, *range(20))
        assert first.flush(LONG_S) == 0
    assert diagnostics.by_cause()["closed_before_stored"] == before + 1
    assert first.stats().balanced
    assert journals(tmp_path)
    with log_of(url, tmp_path) as second, FrameReader(url) as reader:
        record(second, 20)
        wait_until(lambda: is_confirmed(second) and second.stats().adopted == 20, "the rows to be adopted", LONG_S)
        assert second.stats().written == 1
    assert reader.models == models(*range(21))
    assert not journals(tmp_path)


def test_a_call_log_that_is_started_again_finds_its_own(url: str, tmp_path: Path) -> None:
    """Its ledger has each row once, however often it was published."""
    call_log = log_of(url, tmp_path).start()
    record(call_log, *range(10))
    assert call_log.flush(LONG_S) == 0
    call_log.close()
    call_log.start()
    with FrameReader(url) as reader:
        wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
    stats = call_log.stats()
    assert (stats.started, stats.written, stats.adopted) == (10, 10, 0)
    assert reader.models == models(*range(10))
    call_log.close()


def test_a_full_broker_is_waited_for(server: Brokers, tmp_path: Path) -> None:
    """What it refuses stays in the journal; the application goes on, and hears of it in a sentence."""
    url = f"{server.url}?streams=1&max_bytes=1048576&prefix=full"
    make_streams(url)
    with log_of(url, tmp_path, content="full") as call_log:
        record(call_log, *range(10))
        assert call_log.flush(LONG_S) == 0
        for number in range(10, 100):
            record(call_log, number, text=noise(20_000))
        wait_until(lambda: "full" in (call_log.stats().trouble or ""), "the broker to be full", LONG_S)
        assert 10 <= call_log.stats().published < 100
        assert call_log.flush(0.1) > 0
        with FrameReader(url) as reader:
            wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
        assert call_log.stats().written == 100
    assert reader.models == models(*range(100))


@pytest.mark.parametrize("is_wiped", [False, True])
def test_the_broker_is_killed_with_rows_in_it(is_wiped: bool, tmp_path: Path) -> None:
    """Back with what it had, or robbed of its store: what was waiting in it, and what came meanwhile, is stored."""
    with brokers() as server:
        url = f"{server.url}?streams=2&max_bytes=33554432"
        make_streams(url)
        with log_of(url, tmp_path, connect_timeout_s=30, statement_timeout_s=30) as call_log:
            record(call_log, *range(100))
            assert call_log.flush(LONG_S) == 0
            server.kill()
            record(call_log, *range(100, 150))
            assert call_log.flush(0.2) >= 50
            if is_wiped:
                server.wipe()
            server.start()
            if is_wiped:
                make_streams(url)
            more = [] if is_wiped else [150, 151]
            assert is_wiped or call_log.flush(LONG_S) == 0
            for number in more:  # a frame for each stream, which is asked for the others before any is acknowledged
                record(call_log, number)
                assert call_log.flush(LONG_S) == 0
            with FrameReader(url) as reader:
                wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
            assert call_log.stats().written == 150 + len(more)
        assert reader.models == models(*range(150), *more)
        if not is_wiped:
            assert len(reader.ids) == len(set(reader.ids))  # nothing that was there was published again


def test_streams_that_are_made_anew_are_filled_anew(call_log: CallLog, url: str) -> None:
    """Their birth tells, while the connection stays."""
    record(call_log, *range(40))
    assert call_log.flush(LONG_S) == 0
    make_streams(url)
    record(call_log, *range(40, 60))
    with FrameReader(url) as reader:
        wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
    assert reader.models == models(*range(60))
    assert call_log.stats().written == 60


def test_rows_wait_for_streams_that_nobody_has_made(server: Brokers, tmp_path: Path) -> None:
    """The sentence names the command that makes them."""
    url = f"{server.url}?streams=2&max_bytes=33554432&prefix=missing"
    with log_of(url, tmp_path) as call_log:
        record(call_log, *range(5))
        wait_until(lambda: "llmctx migrate --transport" in (call_log.stats().trouble or ""), "the sentence", LONG_S)
        make_streams(url)
        with FrameReader(url) as reader:
            wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
    assert reader.models == models(*range(5))


def test_a_process_that_is_killed_loses_nothing(url: str, tmp_path: Path) -> None:
    """Its rows and its open calls are the next process's: published or not."""
    directory = str(tmp_path / "journals")
    process = lives.start(lives.KILLED, "sqlite:///none.db", LLMCTX_TRANSPORT=url, LLMCTX_JOURNAL_DIR=directory)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate()
    with log_of(url, tmp_path) as call_log, FrameReader(url) as reader:
        wait_until(lambda: len({row.call_id for row in reader.rows}) == 22, "the rows", LONG_S)
        wait_until(
            lambda: is_confirmed(call_log) and not journals_of_others(tmp_path), "the journal to be done", LONG_S
        )
    assert (
        sorted(row.status for row in {row.call_id: row for row in reader.rows}.values()) == ["lost"] * 2 + ["ok"] * 20
    )


def test_no_journal_of_a_dead_process_waits_for_another(url: str, tmp_path: Path) -> None:
    """All of them are published while the database has nothing of the first one yet."""
    directory = str(tmp_path / "journals")
    processes = [
        lives.start(lives.KILLED, "sqlite:///none.db", LLMCTX_TRANSPORT=url, LLMCTX_JOURNAL_DIR=directory)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.kill()
        process.communicate()
    is_away = threading.Event()
    is_away.set()
    with log_of(url, tmp_path) as call_log, FrameReader(url, is_away) as reader:
        wait_until(lambda: len({row.call_id for row in reader.rows}) == 44, "the rows of all", LONG_S)
        assert len(journals(tmp_path)) > 2
        is_away.clear()
        wait_until(
            lambda: is_confirmed(call_log) and not journals_of_others(tmp_path), "the journals to be done", LONG_S
        )
        assert call_log.stats().adopted == 44


def journals_of_others(tmp_path: Path) -> bool:
    return len(journals(tmp_path)) > 1


def test_a_row_that_no_message_holds_is_cut_and_the_others_pass(tmp_path: Path) -> None:
    """A broker that takes small messages only, by a user with a password: both are the broker's own affair."""
    settings = 'max_payload: 65536\nauthorization { user: app, password: "p@ss" }'
    with brokers(settings=settings) as server:
        url = f"{server.url.replace('://', '://app:p%40ss@')}?streams=2&max_bytes=33554432"
        make_streams(url)
        with log_of(url, tmp_path, snapshot_bytes=1_000_000, content="full") as call_log, FrameReader(url) as reader:
            record(call_log, 0, 1)
            record(call_log, 2, text=noise(300_000))
            record(call_log, *range(3, 40), text=noise(10_000))
            wait_until(lambda: is_confirmed(call_log), "the rows to be stored", LONG_S)
            assert call_log.stats().written == 40
    assert reader.models == models(*range(40))
    (large,) = {row.call_id: row for row in reader.rows if row.model == "m0002"}.values()
    assert 5_000 < len(getattr(large, SNAPSHOTS[0]) or "") < 60_000
    assert diagnostics.by_cause()["snapshots_cut"] >= 1


def test_without_a_journal_a_row_is_done_when_the_broker_has_it(url: str, tmp_path: Path) -> None:
    """There is nothing from which it could be published again."""
    before = diagnostics.by_cause().get("closed_before_stored", 0)
    with log_of(url, tmp_path, durability="memory") as call_log:
        record(call_log, *range(10))
        assert call_log.flush(LONG_S) == 0
        stats = call_log.stats()
        assert (stats.written, stats.waiting, stats.published) == (10, 0, 0)
    assert messages(url) > 0
    assert diagnostics.by_cause().get("closed_before_stored", 0) == before


def test_what_waits_in_a_stream_cannot_be_purged(url: str) -> None:
    """It would pass for stored."""

    async def purge() -> None:
        client = await nats.connect(list(parse_transport(url).servers))
        try:
            await client.jetstream().purge_stream(Topology(parse_transport(url)).stream(0))
        finally:
            await client.close()

    with pytest.raises(APIError, match="purge"):
        asyncio.run(purge())


def test_the_broker_is_known_by_any_of_its_servers() -> None:
    """A server more, or one less, and the journals are those of the same place."""
    from llmctx.delivery.destinations.nats import NatsDestination

    def ids(url: str) -> frozenset[str]:
        return NatsDestination(parse_transport(url), load()).endpoint.ids

    assert ids("nats://a,b") & ids("nats://b,c")
    assert not ids("nats://a") & ids("nats://a?prefix=eu")
