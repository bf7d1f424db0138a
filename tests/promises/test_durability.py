"""What a call survives: the death of its process, a database that is nowhere, a disk that is full, a fork, an exit."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from llmctx.calllog import CallLog
from llmctx.core.scheduling import MOST_CALLS
from llmctx.delivery.journal import read
from tests.kit.lives import KILLED, Switch, homes, kill, run, start
from tests.kit.rows import rows_of
from tests.kit.support import wait_until


@pytest.fixture
def switch(database: str, tmp_path: Path) -> Switch:
    return Switch(database, tmp_path)


def test_a_process_that_is_killed_loses_nothing(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the database away: the next process writes every row, and the calls that were open are `lost`."""
    kill(start(KILLED, switch.url))
    switch.on()
    monkeypatch.setattr("llmctx.delivery.recovery._EVERY_S", 3600.0)  # it looks again as soon as it is connected
    with CallLog(switch.url) as call_log:
        wait_until(lambda: call_log.stats().adopted == 22, "the adoption")
        wait_until(lambda: len(homes()) == 1, "the dead one's directory to go")
        assert call_log.stats().started == 0
        assert call_log.stats().balanced
    rows = rows_of(switch.url)
    assert Counter(row.status for row in rows) == {"ok": 20, "lost": 2}
    assert len({row.call_id for row in rows}) == 22
    lost, nobodys = [row for row in rows if row.status == "lost"]
    assert (lost.user_id, lost.session_id, lost.identity_source, lost.model) == ("u", "s", "context", "gpt")
    assert (lost.success, lost.error_code, lost.finished_at) == (False, "process_lost", None)
    assert (nobodys.user_id, nobodys.identity_source, nobodys.model) == (None, "none", "talker")
    assert nobodys.identity_reason
    assert all(row.user_id == "u" for row in rows if row.status == "ok")


def test_killed_at_any_moment(database: str) -> None:
    """While calls come and go, and the database takes them: each is one row in the end."""
    for number in range(5):
        process = start(
            """
            def work():
                with bind(user_id="u", session_id="s"):
                    while True:
                        Talker().invoke("hello")
            for _ in range(3):
                threading.Thread(target=work, daemon=True).start()
            time.sleep(float(os.environ["PAUSE"]))
            print("ready", flush=True)
            threading.Event().wait()
            """,
            database,
            PAUSE=str(0.05 + number * 0.11),
        )
        kill(process)
    with CallLog(database):
        wait_until(lambda: len(homes()) == 1, "the adoption")
    rows = rows_of(database)
    assert len(rows) == len({row.call_id for row in rows}) > 0
    assert {row.status for row in rows} <= {"ok", "lost"}
    assert {row.user_id for row in rows} == {"u"}
    # what had ended and was not on the disk yet: to a busy application the pipeline gives way for half a second
    assert sum(row.status == "lost" for row in rows) <= 5 * (3 + MOST_CALLS + 100)


def test_one_of_four_adopts(switch: Switch) -> None:
    """Four processes find what a fifth has left: each row is written by one of them, and is there once."""
    kill(start(KILLED, switch.url))
    switch.on()
    body = "pause(); call_log.flush(); print(call_log.stats().adopted); call_log.close()"
    four = [start(body, switch.url) for _ in range(4)]
    wait_until(lambda: len(rows_of(switch.url)) == 22 and len(homes()) == 4, "the adoption", 60.0)
    told = []
    for process in four:
        out, _ = process.communicate("x", timeout=60)
        told.append(int(out.split()[1]))
    assert sorted(told) == [0, 0, 0, 22]
    assert len(rows_of(switch.url)) == 22
    assert homes() == []


def test_a_dead_process_whose_database_stays_away(nowhere: str) -> None:
    """Its journal waits for as long as it takes; nobody who adopts it and dies loses any of it."""
    kill(start(KILLED, nowhere))
    until_it_was_looked_for = """
    while "database_away" not in call_log.stats().incidents:
        time.sleep(0.01)
    pause()
    """
    for _ in range(2):
        kill(start(until_it_was_looked_for, nowhere))
    found: Counter[int] = Counter()
    for home in homes():
        for file in home.glob("*-*"):
            found.update(frame.kind for frame in read(file))
    assert found[2] == 20


def test_a_script_without_close_leaves_its_rows_in_the_journal(switch: Switch) -> None:
    """The database is away: the script ends in time, and the next process writes what it has left."""
    body = """
    with bind(user_id="u", session_id="s"):
        for _ in range(5):
            Talker().invoke("hello")
        stream = Talker().stream("open")
        next(stream)
    print(time.monotonic())
    """
    done = run(body, switch.url, LLMCTX_SHUTDOWN_TIMEOUT_S="2")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - float(done.stdout) < 30  # 2 are promised; the rest is for a busy machine
    assert "the next process writes what is left" in done.stderr
    switch.on()
    with CallLog(switch.url) as call_log:
        wait_until(lambda: call_log.stats().adopted == 6, "the adoption")
    assert Counter(row.status for row in rows_of(switch.url)) == {"ok": 5, "abandoned": 1}


def test_an_exit_into_a_black_hole(tmp_path: Path) -> None:
    """A server that accepts and never answers holds up nobody's end for longer than was said."""
    import socket

    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(64)
        url = f"postgresql+asyncpg://u@127.0.0.1:{hole.getsockname()[1]}/d"
        done = run('Talker().invoke("hello")\nprint(time.monotonic())', url, LLMCTX_SHUTDOWN_TIMEOUT_S="2")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - float(done.stdout) < 30  # 2 are promised; an interpreter ends, too, on a busy machine
    (home,) = homes()
    assert any(frame.kind == 2 for file in home.glob("records-*") for frame in read(file))
