"""What is in the journal comes back: whole, once, whatever the disk has done to the rest."""

from __future__ import annotations

import errno
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uuid_utils
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctx.core.errors import JournalUnavailable
from llmctx.core.record import COLUMNS, CallRecord
from llmctx.delivery import journal as package
from llmctx.delivery.journal import Damage, Frame, Journal, Kind, erase, frames_in, pack_record, read, unpack_record
from llmctx.delivery.journal.frames import frame, start_frame

WHO = {"session_id": "s", "user_id": "u", "model": "m"}


def record(**fields: Any) -> CallRecord:
    given: dict[str, Any] = {"model": "m", "user_id": "u", "session_id": "s", "success": True, "status": "ok"}
    given |= {"call_id": UUID(int=uuid_utils.uuid7().int), "created_at": datetime.now(UTC)}
    return CallRecord(**{**given, **fields})


def new_id() -> bytes:
    return uuid_utils.uuid7().bytes


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path / "journal", segment_bytes=64 * 1024)
    yield one
    one.close()


def die(journal: Journal) -> None:
    """What a kill leaves: the files, and nobody who holds the lock. The journal does nothing any more."""
    journal._leave_to_parent()


def files(journal: Journal, what: str) -> list[Path]:
    return sorted((journal.directory / journal.name).glob(f"{what}-*"))


def taken(journal: Journal, finish: bool = True) -> tuple[list[CallRecord], list[CallRecord]]:
    """Records and lost calls of all dead journals."""
    records: list[CallRecord] = []
    lost: list[CallRecord] = []
    for adopted in journal.adopt():
        with adopted:
            records += adopted.records()
            lost += adopted.lost()
            if finish:
                adopted.finish()
    return records, lost


# -- frames -----------------------------------------------------------------------------------------------------------

FULL = record(
    trace_id="t",
    temperature=0.1,
    prompt_tokens=2**31 - 1,
    latency_ms=12,
    error_message='汉字 \u2028 \\ " \x00 \U0001f600',
    prompt_snapshot='[{"role": "user"}]',
    finished_at=datetime.now(UTC) + timedelta(microseconds=1),
    run_id=UUID(int=7),
    parent_run_id=UUID(int=2**127),
    cost_usd=Decimal("0.000000123"),
    streamed=False,
    cached=True,
    attributes={"tags": ["a"], "deep": {"n": [1, 2.5, None, True]}},
)


def test_a_record_comes_back_exactly() -> None:
    """Times to the microsecond, ids, decimals, nested attributes."""
    assert unpack_record(pack_record(FULL)) == FULL
    assert type(unpack_record(pack_record(FULL)).cost_usd) is Decimal
    east = record(created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=8))))
    back = unpack_record(pack_record(east))
    assert back.created_at == east.created_at
    assert back.created_at.utcoffset() == timedelta(0)


@settings(deadline=None, max_examples=100)
@given(
    st.datetimes(timezones=st.just(UTC)),
    st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=0, max_value=10**8),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_record_comes_back_exactly(at: datetime, cost: Decimal, text: str, number: float) -> None:
    """Whatever is in it."""
    one = record(created_at=at, finished_at=at, cost_usd=cost, prompt_snapshot=text, temperature=number)
    assert unpack_record(pack_record(one)) == one


def test_other_versions_are_understood() -> None:
    """What is new there is left out, what is missing is None."""
    packed = pack_record(record())
    newer = packed[:16] + packed[16:].replace(b'"model":"m"', b'"model":"m","from_the_future":[1]')
    assert unpack_record(newer).model == "m"
    older = packed[:16] + packed[16:].replace(b'"model":"m",', b"")
    assert unpack_record(older).model == "unknown"
    for nonsense in (
        b"",
        b"x" * 16,
        b"x" * 16 + b"[]",
        b"x" * 16 + b"{}",
        packed[:-5],
        packed.replace(b'_at":"', b'_at":"?'),
    ):
        with pytest.raises(ValueError):
            unpack_record(nonsense)


def test_values_that_json_cannot_say_do_not_stop_a_record() -> None:
    """Lone surrogates, huge numbers, circles, strange keys."""
    loop: list[Any] = []
    loop.append(loop)

    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    for odd in (
        "\ud800",
        10**400,
        math.nan,
        loop,
        {1: {2: "\udfff"}},
        object(),
        {"s"},
        10**5000,
        Rude(),
        {Rude(): Rude()},
    ):
        one = record(attributes={"odd": odd}, error_message="\ud83d broken")
        back = unpack_record(pack_record(one))
        assert back.call_id == one.call_id
        assert back.created_at == one.created_at


@pytest.mark.timeout(20)
def test_what_contains_itself_twice_does_not_double_with_each_step_down() -> None:
    """In metadata it stands in a start marker, which is made in the caller's thread."""
    twice: dict[str, Any] = {"many": range(10)}
    twice |= {"here": twice, "there": [twice, twice]}
    began = time.monotonic()
    assert len(start_frame(new_id(), 1.5, {"agent_key": twice})) < 1_000_000
    assert time.monotonic() - began < 2
    one = record(attributes={"odd": twice})
    assert unpack_record(pack_record(one)).call_id == one.call_id


FRAMES = [
    start_frame(new_id(), 1.5, WHO),
    frame(Kind.RECORD, pack_record(FULL)),
    frame(Kind.DONE, new_id() * 3),
    frame(Kind.RECORD, pack_record(record(prompt_snapshot="x" * 3000))),
    frame(Kind.END, b""),
]


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_damage_costs_what_it_hits(data: st.DataObject) -> None:
    """Flipped bits, zeros, garbage, missing pieces: every frame that was not touched is read, in its place."""
    frames = data.draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=8))
    whole = bytearray(b"".join(frames))
    begins = [sum(map(len, frames[:number])) for number in range(len(frames))]
    hit: set[int] = set()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        length = min(data.draw(st.sampled_from([1, 1, 2, 13, 400, 4096])), len(whole) - at)
        how = data.draw(st.sampled_from(["flip", "zero", "noise"]))
        for place in range(at, at + length):
            if how == "flip":
                whole[place] ^= 1 << data.draw(st.integers(0, 7)) if length == 1 else 0x10
            else:
                whole[place] = 0 if how == "zero" else (place * 31) & 0xFF
        hit.update(range(at, at + length))
    tail = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):  # torn off, or garbage behind it
        hit.update(range(tail, len(whole)))
        del whole[tail:]
    else:
        whole += data.draw(st.binary(max_size=50))
    expected = [
        Frame(made[8], made[13:])
        for made, begin in zip(frames, begins, strict=True)
        if not any(place in hit for place in range(begin, begin + len(made)))
    ]
    damage = Damage()
    found = list(frames_in(bytes(whole), damage))
    wanted = iter(found)
    assert all(one in wanted for one in expected)  # in order
    assert len(found) <= len(frames)
    assert bool(damage.places) == (sum(len(one.payload) + 13 for one in found) < len(whole))


def test_hardly_anything_is_read_from_garbage() -> None:
    """A large file of beginnings without an end is passed over at once."""
    liars = b"".join(FRAMES[0][:4] + (400_000).to_bytes(4, "little") + b"\2none" for _ in range(70_000))
    for garbage in (liars, b"\0" * 5_000_000, os.urandom(1_000_000), b"\xff\xabJ1" * 200_000, FRAMES[1][:40] * 20_000):
        began = time.monotonic()
        damage = Damage()
        assert list(frames_in(garbage, damage)) == []
        assert (damage.places, damage.bytes) == (1, len(garbage))
        assert time.monotonic() - began < 5


def test_what_is_no_file_is_an_empty_one(tmp_path: Path) -> None:
    """Vanished, a directory, a link, a pipe that would never end."""
    (tmp_path / "real").write_bytes(FRAMES[0])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "link", "pipe", ".", "no/where"):
        assert list(read(tmp_path / name)) == []
    assert len(list(read(tmp_path / "real"))) == 1


# -- one process ------------------------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_adopted(tmp_path: Path) -> None:
    """Records that are not done are written again; calls without one are lost, with their identity."""
    dead = Journal(tmp_path)
    done, kept, both = record(), record(prompt_snapshot="p"), record()
    lost_id, created = new_id(), time.time()
    for one in (done, kept, both):
        dead.start(one.call_id.bytes, one.created_at.timestamp(), WHO)
    dead.start(lost_id, created, {**WHO, "agent_key": "a", "unheard_of": 1, "status": "ok"})
    assert dead.append([done, kept]) == 2
    assert dead.append([both]) == 1
    dead.done([done.call_id.bytes])
    die(dead)
    living = Journal(tmp_path)
    records, lost = taken(living)
    assert records == [kept, both]
    [one] = lost
    assert one.call_id.bytes == lost_id
    assert one.created_at == datetime.fromtimestamp(created, UTC)
    assert (one.status, one.success, one.user_id, one.agent_key, one.model) == ("lost", False, "u", "a", "m")
    assert taken(living) == ([], [])
    assert living.close() == 0
    assert os.listdir(tmp_path) == ["quarantine"]


def test_what_was_being_made_when_its_process_was_killed_goes_as_well(tmp_path: Path) -> None:
    """Directories that nobody has named yet, and files half written; in time those of the living would be older."""
    dead = Journal(tmp_path)
    dead.append([record()])
    (tmp_path / dead.name / ".new-0123").write_bytes(b"half")
    (tmp_path / "quarantine" / ".new-4567").write_bytes(b"half")
    (tmp_path / ".new-89ab").mkdir()
    (tmp_path / ".new-7-cdef").mkdir()
    (tmp_path / ".new-7-cdef" / "lock").touch()
    (tmp_path / ".new-being-made").mkdir()
    for path in tmp_path.rglob(".new-[0-9]*"):
        os.utime(path, (time.time() - 7200,) * 2)
    die(dead)
    living = Journal(tmp_path)
    assert len(taken(living)[0]) == 1
    living.close()
    assert sorted(os.listdir(tmp_path)) == [".new-being-made", "quarantine"]
    assert os.listdir(tmp_path / "quarantine") == []


def test_a_living_process_is_left_alone(tmp_path: Path) -> None:
    """Also one of the same process, and by itself."""
    one, other = Journal(tmp_path), Journal(tmp_path)
    one.append([record()])
    assert taken(other) == taken(one) == ([], [])
    assert one.close() == 1  # now it is for others
    assert len(taken(other)[0]) == 1
    other.close()


def test_an_adopter_that_gives_up_leaves_it_to_the_next(tmp_path: Path) -> None:
    """Nothing goes before `finish`."""
    dead = Journal(tmp_path)
    dead.append([record()])
    die(dead)
    living = Journal(tmp_path)
    with pytest.raises(KeyError):
        for adopted in living.adopt():
            with adopted:
                assert len(adopted) == 1
                raise KeyError
    assert len(taken(living, finish=False)[0]) == 1
    assert len(taken(living)[0]) == 1
    assert len(taken(living)[0]) == 0
    living.close()


def test_what_is_adopted_twice_is_appended_once(tmp_path: Path) -> None:
    """An adopter that could not finish meets the same rows again."""
    one = Journal(tmp_path)
    rows = [record(), record()]
    assert one.append(rows) == one.append(rows) == 2
    assert one.pending == 2
    assert list(one.waiting()) == rows
    one.done([row.call_id.bytes for row in rows])
    one.close()


def test_a_damaged_record_makes_its_call_lost_and_harms_no_other(tmp_path: Path) -> None:
    """A bit in the middle of one of three."""
    dead = Journal(tmp_path)
    rows = [record(prompt_snapshot=f"unique-{number}") for number in range(3)]
    for row in rows:
        dead.start(row.call_id.bytes, row.created_at.timestamp(), WHO)
    dead.append(rows)
    [path] = files(dead, "records")
    path.write_bytes(path.read_bytes().replace(b"unique-1", b"unique-!"))
    die(dead)
    living = Journal(tmp_path)
    [adopted] = living.adopt()
    records, lost = taken(living)
    assert records == [rows[0], rows[2]]
    assert [row.call_id for row in lost] == [rows[1].call_id]
    assert adopted.damage.places == 1
    living.close()


def test_files_go_when_their_rows_are_done(journal: Journal) -> None:
    """And their markers with them; what is open is carried on."""
    open_id = new_id()
    journal.start(open_id, 1.0, WHO)
    for _ in range(20):
        rows = [record(prompt_snapshot="x" * 3000) for _ in range(20)]
        for row in rows:
            journal.start(row.call_id.bytes, 1.0, WHO)
        assert journal.append(rows) == 20
        journal.done([row.call_id.bytes for row in rows])
        journal.checkpoint()
    assert journal.used_bytes < 200_000
    assert len(files(journal, "records")) <= 2
    [starts] = files(journal, "starts")
    assert starts.stat().st_size < 2000
    assert [found.payload[:16] for found in read(starts) if found.kind == Kind.START] == [open_id]
    journal.done([open_id])


def test_a_row_that_waits_keeps_its_file(journal: Journal) -> None:
    """And no other."""
    stuck = record()
    journal.append([stuck])
    for _ in range(10):
        rows = [record(prompt_snapshot="x" * 3000) for _ in range(25)]
        journal.append(rows)
        journal.done([row.call_id.bytes for row in rows])
        journal.checkpoint()
    assert len(files(journal, "records")) <= 3
    assert list(journal.waiting()) == [stuck]
    journal.done([stuck.call_id.bytes])


def test_the_journal_is_bounded(tmp_path: Path) -> None:
    """It says how many fit; markers still do; there is room again when rows are done."""
    small = Journal(tmp_path, limit_bytes=256 * 1024, segment_bytes=32 * 1024)
    rows = [record(prompt_snapshot="x" * 1000) for _ in range(400)]
    fitted = small.append(rows)
    assert 50 < fitted < 200
    assert small.used_bytes <= 256 * 1024
    assert "full" in (small.trouble or "")
    assert small.append(rows[fitted:]) == 0
    assert small.start(new_id(), 1.0, WHO)
    small.done([row.call_id.bytes for row in rows[:fitted]])
    small.checkpoint()
    assert small.append(rows[fitted : fitted + 50]) == 50
    assert small.trouble is None
    small.close()


def test_starts_from_many_threads_are_all_noted_while_files_change(journal: Journal) -> None:
    """None goes missing, none is torn, and the callers' descriptor never leads elsewhere."""
    ids: list[bytes] = []
    stop = threading.Event()

    def work() -> None:
        mine = []
        while not stop.is_set():
            call_id = new_id()
            assert journal.start(call_id, 1.0, WHO)
            mine.append(call_id)
        ids.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        journal._markers.rewrite()
    stop.set()
    for thread in threads:
        thread.join()
    damage = Damage()
    noted = {found.payload[:16] for path in files(journal, "starts") for found in read(path, damage)}
    assert noted >= set(ids)
    assert len(ids) > 1000
    assert damage.places == 0
    journal.done(ids)


@pytest.mark.parametrize("written", [0, 10, 500, 4000])
def test_a_full_disk_leaves_whole_frames_and_heals(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """A write that is short, then refused: what fitted is told, the rest is cut off, later appends are fine."""
    rows = [record(prompt_snapshot="x" * 1000) for _ in range(5)]
    real = os.write
    full = [written]

    def write(fd: int, data: Any) -> int:
        if fd != journal._records:
            return real(fd, data)
        room = full[0]
        if not room:
            raise OSError(errno.ENOSPC, "full")
        full[0] = max(0, room - len(data))
        return real(fd, bytes(data[:room]))

    monkeypatch.setattr(os, "write", write)
    fitted = journal.append(rows)
    assert fitted == (0 if written < 1000 else 2 if written == 4000 else 0)
    assert "No space left" in (journal.trouble or "")
    monkeypatch.undo()
    assert journal.append(rows[fitted:]) == 5 - fitted
    damage = Damage()
    found = [one for one in read(files(journal, "records")[0], damage) if one.kind == Kind.RECORD]
    assert [unpack_record(one.payload) for one in found] == rows
    assert damage.places == 0
    journal.done([row.call_id.bytes for row in rows])


def test_a_disk_that_is_full_does_not_stop_files_from_going(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that makes room again."""
    for _ in range(5):
        rows = [record(prompt_snapshot="x" * 3000) for _ in range(25)]
        journal.append(rows)
        journal.done([row.call_id.bytes for row in rows])
    assert len(files(journal, "records")) > 3

    def full(*args: Any, **kwargs: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    assert journal.start(new_id(), 1.0, WHO) is False  # and nothing is raised
    journal.checkpoint()
    assert len(files(journal, "records")) == 1
    monkeypatch.undo()
    journal.checkpoint()
    assert len(files(journal, "starts")) == 1
    assert len([found for found in read(files(journal, "starts")[0]) if found.kind == Kind.START]) == 1
    journal.done(list(journal._markers._open))


def test_a_start_never_raises(journal: Journal) -> None:
    """Whatever it is given."""
    assert journal.start(new_id(), 1.0, {"model": "\ud800", "n": 10**400})
    assert journal.start(b"short", 1.0, WHO) is True
    assert journal.start("no bytes", 1.0, WHO) is False  # type: ignore[arg-type]
    journal.done(list(journal._markers._open))
    journal.close()
    assert journal.start(new_id(), 1.0, WHO) is False


def test_waiting_for_the_disk_is_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most every so often, and only if something was written."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    lax = Journal(tmp_path)
    lax.append([record()])
    lax.sync()
    assert synced == []
    strict = Journal(tmp_path, fsync_s=0.0)
    strict.append([record()])
    strict.sync()
    strict.sync()
    assert len(synced) == 2  # markers and records, once
    slow = Journal(tmp_path, fsync_s=60.0)
    for _ in range(3):
        slow.append([record()])
        slow.sync()
    assert len(synced) == 4
    for one in (lax, strict, slow):
        one.close()


# -- private ----------------------------------------------------------------------------------------------------------


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Directories 0700, files 0600, whatever the umask and whatever was there."""
    root = tmp_path / "journal"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    before = os.umask(0)
    try:
        one = Journal(root)
        one.append([record()])
        one.quarantine.append(record(), "22021", "no")
    finally:
        os.umask(before)
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    one.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither for the directory nor inside of it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(JournalUnavailable):
        Journal(tmp_path / "link")
    one = Journal(tmp_path / "journal")
    (one.directory / "1-feed-link").symlink_to(elsewhere)
    trap = one.directory / "1-feed-trap"
    trap.mkdir()
    (trap / "lock").symlink_to(elsewhere / "made")
    assert taken(one) == ([], [])
    assert list(elsewhere.iterdir()) == []
    one.close()


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("x"), lambda path: path.parent.joinpath("d").mkdir()])
def test_a_directory_that_cannot_be_used_says_so(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    """With the name of the directory and what to set."""
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(JournalUnavailable, match="LLMCTX_JOURNAL_DIR"):
        Journal(path)
    with pytest.raises(JournalUnavailable, match="LLMCTX_JOURNAL_DIR"):
        Journal(path / "below")
    with pytest.raises(JournalUnavailable, match="LLMCTX_JOURNAL_DIR"):
        Journal("/proc/llmctx")


# -- quarantine and erasure -------------------------------------------------------------------------------------------


def test_refused_rows_are_kept_with_their_reason(tmp_path: Path) -> None:
    """For every process, until they are removed."""
    one, other = Journal(tmp_path), Journal(tmp_path)
    rows = [record(prompt_snapshot=text) for text in ("a", "b", "c")]
    for row in rows:
        assert one.quarantine.append(row, "22021", "invalid \ud800 byte")
    assert len(other.quarantine) == 3
    kept = list(other.quarantine.read())
    assert [found.record for found in kept] == rows
    assert {(found.sqlstate, found.reason) for found in kept} == {("22021", "invalid ? byte")}
    assert abs((datetime.now(UTC) - kept[0].at).total_seconds()) < 60
    assert other.quarantine.remove([rows[1].call_id, UUID(int=1)]) == 1
    assert [found.record for found in one.quarantine.read()] == [rows[0], rows[2]]
    one.close()
    other.close()


def test_the_quarantine_is_bounded(tmp_path: Path) -> None:
    """What does not fit is refused, not half of it."""
    root = os.open(tmp_path, os.O_RDONLY)
    small = package.Quarantine(root, limit_bytes=3000)
    assert [small.append(record(prompt_snapshot="x" * 500), "22021", "no") for _ in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert len(small) == 2
    small.close()
    os.close(root)


def test_a_user_is_forgotten(tmp_path: Path) -> None:
    """In the journals of the dead, their markers too, and in quarantine; living ones are counted."""
    dead, living = Journal(tmp_path), Journal(tmp_path)
    for user in ("alice", "bob"):
        dead.start(new_id(), 1.0, {"user_id": user, "model": "m"})
        dead.append([record(user_id=user)])
        dead.quarantine.append(record(user_id=user), "22021", "no")
    die(dead)
    assert erase(tmp_path, lambda columns: columns.get("user_id") != "alice") == (3, 1)
    records, lost = taken(living)
    assert [row.user_id for row in (*records, *lost)] == ["bob", "bob"]
    assert [found.record.user_id for found in living.quarantine.read()] == ["bob"]
    living.close()
    assert not any(b"alice" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_every_column_is_kept() -> None:
    """A column that is added to the row later is in the journal, too."""
    assert {name for name in COLUMNS if getattr(unpack_record(pack_record(FULL)), name) is not None} == {
        name for name in COLUMNS if getattr(FULL, name) is not None
    }
