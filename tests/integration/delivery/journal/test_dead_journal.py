"""The journal between real processes: killed, forked, adopted by several at once, out of space."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from llmctx.core.record import CallRecord
from llmctx.delivery.journal import Journal

HEAD = """
import glob, os, signal, sys, threading, time
from datetime import UTC, datetime
from uuid import UUID
import uuid_utils
from llmctx.delivery.journal import Journal
from llmctx.core.record import CallRecord

def record(call_id, size=500):
    return CallRecord(call_id=UUID(bytes=call_id), created_at=datetime.fromtimestamp(1e9 + call_id[15] / 7, UTC),
                      model="m", status="ok", success=True, prompt_snapshot="x" * size)

def say(what, *ids):
    os.write(1, b"".join(what + i.hex().encode() + b"\\n" for i in ids))

directory = sys.argv[1]
"""


def found(directory: Path, pattern: str) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except FileNotFoundError:  # a journal gets its name while we look
        return []


def wait_for(truth: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.01)


def run(body: str, directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    source = HEAD + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", source, str(directory), *arguments], stdout=subprocess.PIPE)


def said(process: subprocess.Popen[bytes]) -> dict[str, list[str]]:
    """What `process` has told, line by line, until it ended. A torn last line does not count."""
    told: dict[str, list[str]] = {}
    output = process.communicate(timeout=60)[0].decode()
    for line in output.split("\n")[:-1]:
        told.setdefault(line[:1], []).append(line[1:])
    return told


def adopted(journal: Journal) -> tuple[list[CallRecord], list[CallRecord]]:
    records: list[CallRecord] = []
    lost: list[CallRecord] = []
    for one in journal.recover():
        with one:
            assert one.damage.places <= 1  # what was being written
            records += one.records()
            lost += one.lost_calls()
            one.finish()
    return records, lost


BUSY = """
journal = Journal(directory, segment_bytes=64 * 1024)
queue = []

def call():
    while True:
        call_id = uuid_utils.uuid7().bytes
        assert journal.start(call_id, 1e9 + call_id[15] / 7, {"user_id": "u", "model": "m"})
        say(b"S", call_id)
        queue.append(call_id)

for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
rounds = 0
waiting = []
while True:
    batch = [queue.pop() for _ in range(min(40, len(queue)))][1:]  # one of each batch never ends
    if journal.append([record(i) for i in batch]) == len(batch):
        say(b"R", *batch)
    waiting += batch
    rounds += 1
    if rounds % 3:
        gone, waiting = waiting[:-5], waiting[-5:]
        say(b"G", *gone)  # in the database
        journal.mark_done(gone)
    journal.checkpoint()
    time.sleep(0.001)
"""


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_when_a_process_is_killed(tmp_path: Path, seed: int) -> None:
    """At any moment: every start that was noted has its record or is lost, every record that was noted is there."""
    process = run(BUSY, tmp_path)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    wait_for(lambda: bool(found(tmp_path, "*/starts-*")), 60)
    killer = subprocess.Popen(["sh", "-c", f"sleep {random.Random(seed).uniform(0, 0.5):.3f}; kill -9 {process.pid}"])
    told = said(process)
    killer.wait()
    assert process.returncode == -signal.SIGKILL
    living = Journal(tmp_path)
    records, lost = adopted(living)
    assert living.close() == 0
    there, gone = [row.call_id.hex for row in records], [row.call_id.hex for row in lost]
    assert max(Counter(there + gone).values(), default=0) <= 1
    in_database = set(told.get("G", []))
    assert set(told.get("R", [])) - in_database <= set(there)
    assert set(told.get("S", [])) - in_database <= set(there) | set(gone)
    assert set(gone) & set(told.get("R", [])) == set()
    for row in (*records, *lost):
        assert row.created_at.timestamp() == round(1e9 + row.call_id.bytes[15] / 7, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["quarantine"]


LEFT = """
journal = Journal(directory, segment_bytes=16 * 1024)
for number in range(100):
    call_id = uuid_utils.uuid7().bytes
    journal.start(call_id, 1.0, {"model": "m"})
    if number % 4:
        journal.append([record(call_id)])
    say(b"S", call_id)
os.kill(os.getpid(), signal.SIGKILL)
"""

ADOPT = """
journal = Journal(directory)
sys.stdin.read(1)
while len(glob.glob(f"{directory}/*/lock")) > 4:
    for adopted in journal.recover():
        rows = list(adopted.rows())
        assert journal.append(rows) == len(rows)
        adopted.finish()
        say(b"A", *[row.call_id.bytes for row in rows])
        journal.mark_done([row.call_id.bytes for row in rows])
journal.close()
"""


def test_four_adopters_at_once_take_each_call_once(tmp_path: Path) -> None:
    """Twelve dead processes, four living ones that start at the same moment."""
    started: list[str] = []
    dead = [run(LEFT, tmp_path) for _ in range(12)]
    for process in dead:
        started += said(process)["S"]
    source = HEAD + textwrap.dedent(ADOPT)
    living = [
        subprocess.Popen([sys.executable, "-c", source, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    wait_for(lambda: len(found(tmp_path, "*/lock")) == 16, 60)
    for process in living:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    taken = [call_id for process in living for call_id in said(process).get("A", [])]
    assert sorted(taken) == sorted(started)
    assert [path.name for path in tmp_path.iterdir()] == ["quarantine"]


def test_an_adopter_that_dies_half_way_loses_nothing(tmp_path: Path) -> None:
    """Its own journal has some of the rows, the first one's all of them; the next adopter meets both."""
    started = said(run(LEFT, tmp_path))["S"]
    half = """
    journal = Journal(directory)
    for adopted in journal.recover():
        rows = list(adopted.rows())
        journal.append(rows[:60])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    dying = run(half, tmp_path)
    said(dying)
    assert dying.returncode == -signal.SIGKILL
    living = Journal(tmp_path)
    records, lost = adopted(living)
    living.close()
    rows = [*records, *lost]
    assert {row.call_id.hex for row in rows} == set(started)
    assert len({(row.call_id, row.created_at, row.status) for row in rows}) == len(started)  # the same rows, some twice
    assert {row.call_id for row in records if row.status == "ok"}.isdisjoint(row.call_id for row in lost)


def test_a_child_of_the_adopter_does_not_hold_what_it_adopts(tmp_path: Path) -> None:
    """The adopter forks, and dies: the next one finds everything, though the child lives."""
    started = said(run(LEFT, tmp_path))["S"]
    body = """
    journal = Journal(directory)
    for adopted in journal.recover():
        told, tell = os.pipe()
        if (child := os.fork()) == 0:
            os.write(tell, b"x")
            signal.pause()
        os.read(told, 1)  # it has come as far as its first line
        say(b"P", b"%d" % child)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = run(body, tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    try:
        assert process.wait(30) == -signal.SIGKILL
        living = Journal(tmp_path)
        records, lost = adopted(living)
        assert {row.call_id.hex for row in (*records, *lost)} == set(started)
        assert _alive(line)
        living.close()
    finally:
        process.stdout.close()
        os.kill(int(bytes.fromhex(line[1:])), signal.SIGKILL)


FORKS = """
journal = Journal(directory)
kept, open_call = uuid_utils.uuid7().bytes, uuid_utils.uuid7().bytes
journal.start(open_call, 1.0, {"model": "m"})
journal.append([record(kept)])
stop = threading.Event()
def go_on():
    while not stop.is_set():
        journal.start(uuid_utils.uuid7().bytes, 1.0, {})
        time.sleep(0.001)
threads = [threading.Thread(target=go_on) for _ in range(2)]
for thread in threads:
    thread.start()
for number in range(20):
    if os.fork() == 0:
        assert journal.start(uuid_utils.uuid7().bytes, 1.0, {"model": "child"}) is False
        assert journal.append([record(uuid_utils.uuid7().bytes)]) == 0
        journal.mark_done([kept])
        journal.checkpoint()
        assert list(journal.recover()) == []
        assert journal.close() == 0
        own = Journal(directory)
        own.append([record(uuid_utils.uuid7().bytes)])
        say(b"C", b"%d" % os.getpid())
        if number:
            os._exit(own.close() - 1)
        signal.pause()  # outlives its parent
    elif number:
        assert os.wait()[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert journal.append([record(open_call)]) == 1
say(b"K", kept, open_call)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_fork_leaves_the_journal_to_the_parent(tmp_path: Path) -> None:
    """A child writes nothing into it, has its own, and does not keep it from being adopted when the parent dies."""
    process = run(FORKS, tmp_path)
    assert process.stdout is not None
    lines = [process.stdout.readline().decode().strip() for _ in range(22)]
    child = next(int(bytes.fromhex(line[1:])) for line in lines if line[0] == "C" and _alive(line))
    try:
        assert process.wait(30) == -signal.SIGKILL
        living = Journal(tmp_path)
        records, lost = adopted(living)
        assert {line[1:] for line in lines if line[0] == "K"} <= {row.call_id.hex for row in records}
        assert len(records) == 2 + 19  # the parent's, and of each child that has ended
        assert all(row.model != "child" for row in lost)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: len(adopted(living)[0]) == 1, 60)
        living.close()
    finally:
        process.stdout.close()
        if _alive(f"C{str(child).encode().hex()}"):
            os.kill(child, signal.SIGKILL)


def _alive(line: str) -> bool:
    pid = int(bytes.fromhex(line[1:]))
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


SMALL_FILES = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
journal = Journal(directory)
ids = [uuid_utils.uuid7().bytes for _ in range(200)]
noted = [journal.start(i, 1.0, {"model": "m", "user_id": "u" * 200}) for i in ids]
assert noted[0] and not noted[-1]
assert journal.append([record(i, 1000) for i in ids]) == 200 and journal.last_error is None
assert journal.append([record(uuid_utils.uuid7().bytes, 100_000)]) == 0
assert journal.last_error == "the journal is full: 40000 bytes a file, this process's limit"
assert journal.append([record(ids[0], 1000), record(uuid_utils.uuid7().bytes, 10)]) == 2
journal.mark_done(ids[:100])
journal.checkpoint()
assert journal.start(uuid_utils.uuid7().bytes, 1.0, {"model": "m"})
say(b"S", *ids[100:])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_limit_on_files_neither_kills_nor_loses(tmp_path: Path) -> None:
    """RLIMIT_FSIZE with its deadly signal: files stay below it, there are more of them."""
    process = run(SMALL_FILES, tmp_path)
    told = said(process)
    assert process.returncode == -signal.SIGKILL
    living = Journal(tmp_path)
    records, lost = adopted(living)
    living.close()
    assert {row.call_id.hex for row in records} >= set(told["S"])
    assert len(records) == 101
    assert len(lost) == 1


FEW_DESCRIPTORS = """
import contextlib, gc, resource
from llmctx.core.errors import JournalUnavailable
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

def count():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

@contextlib.contextmanager
def only(free):
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(held.pop())
        yield
    finally:
        for fd in held:
            os.close(fd)

living = Journal(directory)
waits = [record(uuid_utils.uuid7().bytes, 10) for _ in range(5)]
living.append(waits)
for free in range(16):
    ids = [uuid_utils.uuid7().bytes for _ in range(3)]
    dead = Journal(directory)
    dead.append([record(i, 10) for i in ids])
    say(b"W", *ids)
    dead._leave_to_parent()
    dead = None
    before = count()
    with only(free):
        try:
            fresh = Journal(directory)
        except JournalUnavailable:
            fresh = None
        else:
            assert fresh.append([record(ids[0], 10)]) == 1
            fresh.mark_done([ids[0]])
            fresh.close()
            fresh = None
        try:
            for adopted in living.recover():
                with adopted:
                    say(b"T", *(row.call_id.bytes for row in adopted.rows()))
                    adopted.finish()
        except OSError:
            pass
        adopted = None
        try:
            assert list(living.pending_records()) == waits
        except OSError:
            pass
    assert count() == before, (free, count(), before)
assert list(living.pending_records()) == waits
for adopted in living.recover():
    with adopted:
        say(b"T", *(row.call_id.bytes for row in adopted.rows()))
        adopted.finish()
living.mark_done([row.call_id.bytes for row in waits])
living.close()
"""


def test_no_descriptors_cost_nothing(tmp_path: Path) -> None:
    """With any number of them left: what cannot be read now is not taken for empty, and none is leaked."""
    process = run(FEW_DESCRIPTORS, tmp_path)
    told = said(process)
    assert process.returncode == 0, process.stderr
    assert len(told["W"]) == 48
    assert set(told["T"]) >= set(told["W"])
    assert os.listdir(tmp_path) == ["quarantine"]


def mounted(directory: Path) -> bool:
    """Whether a disk of 300 kB could be mounted there: that needs root."""
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(directory)]
    return subprocess.run(command, capture_output=True).returncode == 0


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        done = mounted(Path(directory))
        if done:
            subprocess.run(["umount", directory], check=True)
        return done


if may_mount():  # test_a_full_disk_leaves_whole_frames_and_heals does without

    def test_a_full_disk_is_survived_and_left_behind(tmp_path: Path) -> None:
        """A real one, of 300 kB: what fits is told, starts fail quietly, and with space it goes on."""
        assert mounted(tmp_path)
        try:
            journal = Journal(tmp_path / "journal", segment_bytes=32 * 1024)
            rows = [_record() for _ in range(500)]
            assert all(journal.start(row.call_id.bytes, 1.0, {"model": "m"}) for row in rows[:10])
            fitted = journal.append(rows)
            assert 100 < fitted < 300
            assert "No space" in (journal.last_error or "")
            assert journal.start(os.urandom(16), 1.0, {"model": "m" * 5000}) is False
            assert list(journal.pending_records()) == rows[:fitted]
            journal.mark_done([row.call_id.bytes for row in rows[:fitted]])
            journal.checkpoint()
            journal.checkpoint()
            assert journal.append(rows[fitted : fitted + 50]) == 50
            assert journal.last_error is None
            assert list(journal.pending_records()) == rows[fitted : fitted + 50]
            journal._leave_to_parent()
            living = Journal(tmp_path / "journal")
            records, lost = adopted(living)
            assert records == rows[fitted : fitted + 50]
            assert len(lost) == 1
            living.close()
        finally:
            subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def _record() -> CallRecord:
    from datetime import UTC, datetime

    return CallRecord(
        call_id=UUID(bytes=os.urandom(16)), created_at=datetime.now(UTC), model="m", prompt_snapshot="x" * 1000
    )


def test_refused_rows_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    """Appended and removed at once."""
    body = """
    journal = Journal(directory)
    for number in range(50):
        call_id = uuid_utils.uuid7().bytes
        assert journal.dead_letters.append(record(call_id, 10), "22021", "no")
        if number % 2:
            assert journal.dead_letters.remove([UUID(bytes=call_id)]) == 1
        else:
            say(b"Q", call_id)
    journal.close()
    """
    processes = [run(body, tmp_path) for _ in range(4)]
    kept = [call_id for process in processes for call_id in said(process)["Q"]]
    assert all(process.returncode == 0 for process in processes)
    one = Journal(tmp_path)
    assert sorted(found.record.call_id.hex for found in one.dead_letters.read()) == sorted(kept)
    one.close()
