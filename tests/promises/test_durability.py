"""What a call survives: the death of its process, a database that is away, a disk that is full, a fork, an exit."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.scheduling import MOST_CALLS
from llmctx.delivery.journal import read
from llmctx.settings import load
from tests.conftest import ROOT
from tests.integration.test_calllog import rows_of
from tests.kit.support import Talker, wait_until

model = Talker()

HEAD = """
import asyncio, os, signal, sys, threading, time
from tests.kit.support import PlainTalker, Talker
from llmctx import bind
from llmctx.delivery import pipeline
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1])
call_log.start()

def pause():
    print("ready", flush=True)
    sys.stdin.read(1)
"""


def start(body: str, url: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(body), url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(body: str, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(body, url, **environment)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    process.kill()
    process.communicate()


def homes() -> list[Path]:
    """Directories of processes, for whatever database."""
    return [path for path in Path(os.environ["LLMCTX_JOURNAL_DIR"]).glob("*/*") if path.name != "quarantine"]


@pytest.fixture
def away(tmp_path: Path) -> str:
    """A database that is not there."""
    return f"postgresql+asyncpg://u@/d?host={tmp_path}"


class Switch:
    """A URL of `database` that can be turned on: a socket's directory, which is a link to the real one later."""

    def __init__(self, database: str, folder: Path) -> None:
        target = make_url(database)
        host = target.query.get("host") or target.host
        self._target = target
        self._host = host
        self.folder = folder / "pg"
        self.url = target.set(host=None, port=None, query={"host": str(self.folder)}).render_as_string(
            hide_password=False
        )

    def on(self) -> None:
        assert isinstance(self._host, str)
        assert self._host.startswith("/"), "the tests' PostgreSQL listens on a socket"
        self.folder.symlink_to(self._host)


@pytest.fixture
def switch(database: str, tmp_path: Path) -> Switch:
    return Switch(database, tmp_path)


# -- death ----------------------------------------------------------------------------------------------------------


KILLED = """
with bind(user_id="u", session_id="s", attributes={"secret": "sk-proj-abcdefghijklmnop0123456789"}):
    for number in range(20):
        Talker().invoke(f"done {number}")
    kept = call_log.record(model="gpt", prompt="open")
    kept.__enter__()
stream = Talker().stream("nobody's")
next(stream)
call_log.flush(0.3)
pause()
"""


def test_a_process_that_is_killed_loses_nothing(switch: Switch) -> None:
    """With the database away: the next process writes every row, and the calls that were open are `lost`."""
    kill(start(KILLED, switch.url))
    switch.on()
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


def test_a_dead_process_whose_database_stays_away(away: str) -> None:
    """Its journal waits for as long as it takes; nobody who adopts it and dies loses any of it."""
    kill(start(KILLED, away))
    for _ in range(2):
        kill(start("time.sleep(0.5)\npause()", away))
    found: Counter[int] = Counter()
    for home in homes():
        for file in home.glob("*-*"):
            found.update(frame.kind for frame in read(file))
    assert found[2] == 20


def test_with_fsync(database: str) -> None:
    """The same rows, whatever it is that they survive."""
    with CallLog(database, durability="fsync") as call_log:
        for _ in range(20):
            model.invoke("hello")
        assert call_log.flush() == 0
    assert len(rows_of(database)) == 20


# -- a database that is away ----------------------------------------------------------------------------------------


def test_the_journal_is_the_queue(switch: Switch) -> None:
    """Memory stays bounded while rows wait on disk, with their texts, and all are written in the end."""
    with CallLog(switch.url, memory_bytes=256 * 1024) as call_log:
        with bind(user_id="u", session_id="s"):
            for number in range(300):
                with call_log.record(model="m", prompt=f"{number} " + "words " * 1000):
                    pass
        assert call_log.flush(0.2) == 300
        sink: Any = call_log._pipeline.sink
        assert sink._writer.waiting_bytes < 256 * 1024
        stats = call_log.stats()
        assert (stats.waiting, stats.dropped, stats.balanced) == (300, 0, True)
        switch.on()
        assert call_log.flush(30) == 0
        assert (call_log.stats().written, call_log.stats().balanced) == (300, True)
    rows = rows_of(switch.url)
    assert len({row.call_id for row in rows}) == len(rows) == 300
    assert all("words" in row.prompt_snapshot for row in rows)
    assert homes() == []


def test_a_full_journal(switch: Switch) -> None:
    """Snapshots go first, then the newest calls, and every one of them is counted."""
    with CallLog(switch.url, memory_bytes=64 * 1024, journal_bytes=1024 * 1024) as call_log:
        for _ in range(1500):
            with call_log.record(model="m", prompt="words " * 300):
                pass
        call_log.flush(0.2)
        stats = call_log.stats()
        assert stats.balanced
        assert stats.dropped > 0
        switch.on()
        assert call_log.flush(30) == 0
        stats = call_log.stats()
        assert stats.balanced
        assert stats.written + stats.dropped == 1500
        with call_log.record(model="m", prompt="words again"):
            pass
        assert call_log.flush(30) == 0
    rows = rows_of(switch.url)
    assert len(rows) == stats.written + 1
    bare = [row for row in rows if row.prompt_snapshot is None]
    assert 0 < len(bare) < len(rows)
    assert all("journal was full" in str(row.attributes) for row in bare)
    assert rows[-1].prompt_snapshot


def test_closed_and_started_again_with_rows_left(switch: Switch) -> None:
    """What was left at the end of the first life is written in the second, once, and the ledger adds up."""
    call_log = CallLog(switch.url, shutdown_timeout_s=0.2, memory_bytes=64 * 1024)
    with call_log:
        for _ in range(50):
            with call_log.record(model="m", prompt="words " * 1000):
                pass
    assert call_log.stats().waiting == 50
    assert call_log.stats().balanced
    switch.on()
    with call_log:
        model.invoke("hello")
        wait_until(lambda: call_log.flush(1) == 0, "all to be written")
        wait_until(lambda: len(homes()) == 1, "the former directory to go")
        assert call_log.stats().balanced
        assert call_log.stats().written == 51
    assert len(rows_of(switch.url)) == 51


# -- disks that cannot be used --------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_used(database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The application starts, rows are written, and the log says so once."""
    (tmp_path / "file").write_text("")
    diagnostics.reset()
    with caplog.at_level(logging.WARNING), CallLog(database, journal_dir=tmp_path / "file" / "no") as call_log:
        model.invoke("hello")
        assert call_log.flush() == 0
    assert caplog.text.count("LLMCTX_JOURNAL_DIR") == 1
    assert len(rows_of(database)) == 1


def test_a_journal_that_is_removed_is_begun_anew(switch: Switch) -> None:
    """Somebody tidies up below a living process. What it has in memory, or calls from then on, survives its death."""
    body = """
    import shutil
    from llmctx.core.diagnostics import diagnostics
    with bind(user_id="u", session_id="s"):
        Talker().invoke("before")
        call_log.flush(0.1)
        stream = Talker().stream("open meanwhile")
        next(stream)
        shutil.rmtree(os.environ["LLMCTX_JOURNAL_DIR"])
        while not diagnostics.counts.get("journal_vanished") or call_log._pipeline.sink._journal is None:
            time.sleep(0.01)
        for _ in range(10):
            Talker().invoke("after")
        call_log.flush(0.1)
        assert call_log.stats().waiting == 12 and call_log.stats().balanced
    pause()
    """
    kill(start(body, switch.url))
    switch.on()
    with CallLog(switch.url) as call_log:
        wait_until(lambda: call_log.stats().adopted == 12, "the adoption")
    assert Counter(row.status for row in rows_of(switch.url)) == {"ok": 11, "lost": 1}


@pytest.mark.parametrize("what", ["all journals", "the directory in between", "this process's own"])
def test_a_journal_that_is_moved_away_is_begun_anew(switch: Switch, what: str) -> None:
    """Also by a mount over its directory: what waits in it is where the next process looks, and in it alone."""
    body = """
    from pathlib import Path
    from llmctx.core.diagnostics import diagnostics
    with bind(user_id="u", session_id="s"):
        for _ in range(60):
            Talker().invoke("before " + "x" * 20_000)
        call_log.flush(0.1)
        stream = Talker().stream("open meanwhile")
        next(stream)
        top = Path(os.environ["LLMCTX_JOURNAL_DIR"])
        database, = top.iterdir()
        own, = database.glob(f"{os.getpid()}-*")
        moved = {"all journals": top, "the directory in between": database}.get(os.environ["WHAT"], own)
        aside = moved.rename(top.with_name(top.name + "-moved"))
        while not diagnostics.counts.get("journal_moved"):
            time.sleep(0.01)
        for _ in range(10):
            Talker().invoke("after")
        call_log.flush(0.1)
        assert call_log.stats().waiting == 71 and call_log.stats().balanced
        assert not list(aside.rglob("records-*"))
    pause()
    """
    kill(start(body, switch.url, WHAT=what, LLMCTX_MEMORY_BYTES="1000000"))
    switch.on()
    with CallLog(switch.url) as call_log:
        wait_until(lambda: call_log.stats().adopted == 71, "the adoption")
    assert Counter(row.status for row in rows_of(switch.url)) == {"ok": 70, "lost": 1}


def test_a_journal_that_is_moved_and_finds_no_place_goes_on(switch: Switch) -> None:
    """Nothing of it is lost to this process, and it comes back when there is room."""
    place = Path(os.environ["LLMCTX_JOURNAL_DIR"])
    with CallLog(switch.url, memory_bytes=1_000_000) as call_log:
        for _ in range(60):
            Talker().invoke("x" * 20_000)
        call_log.flush(0.1)
        moved = place.rename(place.with_name(place.name + "-moved"))
        place.write_text("a file, where a directory is wanted")
        wait_until(lambda: bool(diagnostics.counts.get("journal_astray")), "the move to be noticed")
        Talker().invoke("after")
        switch.on()
        assert call_log.flush(20) == 0
        assert call_log.stats().balanced
    assert len(rows_of(switch.url)) == 61
    assert not list(moved.rglob("records-*"))


def test_a_directory_that_is_mended(switch: Switch, tmp_path: Path) -> None:
    """Until then rows wait in memory; from then on the journal keeps them, and those to come."""
    place = tmp_path / "mended"
    place.write_text("a file, where a directory is wanted")
    body = """
    Talker().invoke("before")
    call_log.flush(0.1)
    os.unlink(os.environ["LLMCTX_JOURNAL_DIR"])
    while call_log._pipeline.sink._journal is None:
        time.sleep(0.01)
    for _ in range(10):
        Talker().invoke("after")
    call_log.flush(0.1)
    pause()
    """
    kill(start(body, switch.url, LLMCTX_JOURNAL_DIR=str(place)))
    switch.on()
    with CallLog(switch.url, journal_dir=place) as call_log:
        wait_until(lambda: call_log.stats().adopted == 11, "the adoption")


def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have none: the system's temporary directory is the next place. No path tells secrets."""
    monkeypatch.delenv("LLMCTX_JOURNAL_DIR")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    url = "postgresql://hunter1:hunter2@host/db"
    monkeypatch.setenv("HOME", "/home/somebody")
    first, second = load(database_url=url).journal_places
    assert str(first).startswith("/home/somebody/.local/state/llmctx/")
    assert second.name.startswith(f"llmctx-{os.geteuid()}-")
    assert "hunter" not in f"{first}{second}"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load(database_url=url).journal_places[0].parent == tmp_path / "llmctx"
    rotated = load(database_url="postgresql://hunter3:hunter4@host/db").journal_places
    assert rotated == load(database_url=url).journal_places
    assert rotated != load(database_url="postgresql://hunter1:hunter2@host/other").journal_places


def test_memory_alone(database: str) -> None:
    """`durability="memory"` touches no disk."""
    with CallLog(database, durability="memory") as call_log:
        model.invoke("hello")
        assert call_log.flush() == 0
    assert list(Path(os.environ["LLMCTX_JOURNAL_DIR"]).iterdir()) == []


# -- exit and fork --------------------------------------------------------------------------------------------------


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
    assert time.monotonic() - float(done.stdout) < 6.0
    assert "the next process writes them" in done.stderr
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
        assert time.monotonic() - float(done.stdout) < 6.0
    (home,) = homes()
    assert any(frame.kind == 2 for file in home.glob("records-*") for frame in read(file))


def test_forks_of_every_kind(database: str) -> None:
    """From the main thread and from others, children that exit, are killed or leave at once: nothing lost or double."""
    body = """
    def child(how):
        with bind(user_id="child", session_id=how):
            Talker().invoke("in the child")
            if how == "open":
                call_log.record(model="left open").__enter__()
        if how == "flush":
            call_log.flush()
        if how == "kill":
            call_log.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)

    def fork(how):
        pid = os.fork()
        if not pid:
            child(how)
        os.waitpid(pid, 0)

    with bind(user_id="parent", session_id="p"):
        for how in ("flush", "kill", "at once", "open"):
            Talker().invoke("before")
            fork(how)
            thread = threading.Thread(target=fork, args=(how,))
            thread.start()
            thread.join()
            Talker().invoke("after")
    print(call_log.close(), call_log.stats().balanced)
    """
    done = run(body, database, PYTHONWARNINGS="ignore")
    assert done.stdout == "0 True\n", done.stderr
    with CallLog(database):
        wait_until(lambda: len(homes()) == 1, "the adoption")
    rows = rows_of(database)
    assert len({row.call_id for row in rows}) == len(rows)
    by_session = Counter((row.user_id, row.session_id) for row in rows)
    assert by_session == {
        ("parent", "p"): 8,
        ("child", "flush"): 2,
        ("child", "kill"): 2,
        ("child", "at once"): 2,
        ("child", "open"): 4,
    }
    assert {row.status for row in rows if row.session_id in ("p", "flush", "kill")} == {"ok"}
    assert {row.status for row in rows if row.session_id in ("at once", "open")} <= {"ok", "lost"}


def test_a_thread_that_dies_without_a_word_is_started_again(database: str) -> None:
    """Whoever puts a call in notices, within seconds."""
    body = """
    import ctypes
    Talker().invoke("one")
    assert call_log.flush() == 0
    thread = call_log._pipeline._thread
    while thread.is_alive():  # once it is inside of its own guard, it ends
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        time.sleep(0.01)
    began = time.monotonic()
    while not call_log._pipeline.running:
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
            loop = call_log._pipeline._loop
            assert loop is not None
            loop.call_soon_threadsafe(loop.stop)
            wait_until(lambda loop=loop: call_log._pipeline._loop not in (loop, None), "a new loop")  # type: ignore[misc]
        assert call_log.flush() == 0
        assert call_log.stats().balanced
    assert len(rows_of(database)) == 3


GUNICORN = """
from llmctx import bind
from llmctx.delivery import pipeline
from llmctx.calllog import CallLog
from tests.kit.support import Talker

call_log = CallLog().start()

def app(environ, start_response):
    with bind(user_id="u", session_id="s"):
        answer = Talker().invoke("hello").content
    start_response("200 OK", [("content-type", "text/plain")])
    return [answer.encode()]
"""


def test_gunicorn_with_preload_and_sigterm(database: str, tmp_path: Path) -> None:
    """A call log that was started before the fork: each worker's rows are written, also by SIGTERM."""
    import httpx

    (tmp_path / "preloaded.py").write_text(GUNICORN)
    environment = {**os.environ, "LLMCTX_DATABASE_URL": database, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    sock = tmp_path / "g.sock"
    arguments = ["--preload", "-w", "2", "-b", f"unix:{sock}", "preloaded:app"]
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *arguments], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(sock.exists, "the server")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(sock))) as http:
            for _ in range(10):
                assert http.get("http://app/").text == "heard hello"
    finally:
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=30)
    assert server.returncode == 0, err
    with CallLog(database):
        wait_until(lambda: len(homes()) == 1, "whatever was left")
    rows = rows_of(database)
    assert len(rows) == 10, err
    assert {(row.user_id, row.status) for row in rows} == {("u", "ok")}


# -- what must not be kept ------------------------------------------------------------------------------------------


CANARIES = {
    "api_key": "sk-proj-Zx81kQpLmN02vBtYrEwQaSdFgHjKlZxC",
    "token": "ghp_0123456789abcdefghijABCDEFGHIJ456789",
    "email": "patient.zero@example-clinic.org",
    "card": "4111 1111 1111 1111",
    "phone": "13812345678",
    "password": "postgres://app:hunter2Swordfish@db/app",
    "iban": "DE89370400440532013000",
}
SECRETS = [*(secret for kind, secret in CANARIES.items() if kind != "password"), "hunter2Swordfish"]


class ProviderFails(Exception):
    """An error that quotes what it was sent."""


def _leak(call_log: CallLog) -> None:
    text = ", ".join(CANARIES.values())
    with bind(user_id="u", session_id="s", attributes={"url": f"https://x/?key={CANARIES['api_key']}", "note": text}):
        model.invoke(text, {"tags": [CANARIES["email"]]})
        with call_log.record(model="m", prompt=text) as call:
            call.set(response=text, reasoning=text, attributes={"more": text})
        with pytest.raises(ProviderFails), call_log.record(model="m", prompt=text):
            raise ProviderFails(f"POST https://x/v1?key={CANARIES['api_key']} failed: {text}")
        diagnostics.count("canary", "while reading %s", text, exc=ProviderFails(text))


def _everything(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("content", ["redacted", "none"])
def test_no_secret_is_found_anywhere(content: str, database: str, away: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the rows, not in the journal, not in the quarantine, not in the log."""
    diagnostics.reset()
    folder = Path(os.environ["LLMCTX_JOURNAL_DIR"])
    with caplog.at_level(logging.DEBUG, "llmctx"):
        with CallLog(away, content=content, shutdown_timeout_s=0.2) as call_log:
            _leak(call_log)
            call_log.flush(0.2)
            journal = _everything(folder)
        with CallLog(database, content=content) as call_log:
            _leak(call_log)
            assert call_log.flush() == 0
    rows = rows_of(database)
    assert len(rows) == 3
    assert (b"[redacted:" in journal, len(journal) > 500) == (True, True)
    for secret in SECRETS:
        assert secret.encode() not in journal
        assert secret not in caplog.text
        for row in rows:
            assert secret not in json.dumps([str(value) for value in row], ensure_ascii=False)
    assert {row.user_id for row in rows} == {"u"}
    assert all((row.prompt_snapshot is None) == (content == "none") for row in rows)


def test_the_quarantine_holds_no_secret(database: str) -> None:
    """A row that the database refuses is kept as it would have been stored."""
    with CallLog(database) as call_log:
        with bind(user_id="u", session_id="s"), call_log.record(model="m", prompt=", ".join(CANARIES.values())):
            pass
        assert call_log.flush() == 0
        sink: Any = call_log._pipeline.sink
        (row,) = rows_of(database)
        from llmctx.core.record import CallRecord

        record = CallRecord(
            call_id=row.call_id, created_at=row.created_at, model="m", prompt_snapshot=row.prompt_snapshot
        )
        assert sink._keep_refused(record, "22021", "for the test")
    found = _everything(Path(os.environ["LLMCTX_JOURNAL_DIR"]))
    assert b"[redacted:" in found
    assert not [secret for secret in SECRETS if secret.encode() in found]


def test_full_content_is_full(database: str) -> None:
    """Who wants all of it gets all of it."""
    with CallLog(database, content="full") as call_log:
        _leak(call_log)
        assert call_log.flush() == 0
    assert all(secret in str(rows_of(database)[0].prompt_snapshot) for secret in SECRETS)


@pytest.mark.parametrize("problem", ["raises", "returns nothing", "hangs"])
def test_a_redaction_that_fails_costs_the_texts_and_no_row(
    problem: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The row says so, its identity is as it should be, and nothing of the texts is anywhere."""
    diagnostics.reset()
    stuck = threading.Event()

    def own(text: str) -> str:
        if problem == "raises":
            raise ValueError(text)
        if problem == "hangs":
            stuck.wait()
        return None  # type: ignore[return-value]

    with (
        caplog.at_level(logging.DEBUG, "llmctx"),
        CallLog(database, redact_functions=[own]) as call_log,
        bind(user_id="u", session_id="s", attributes={"a": "swordfish"}),
    ):
        model.invoke("swordfish")
        with pytest.raises(ProviderFails), call_log.record(model="m", prompt="swordfish") as call:
            call.set(attributes={"b": "swordfish"})
            raise ProviderFails("swordfish")
        assert call_log.flush() == 0
        kept = _everything(Path(os.environ["LLMCTX_JOURNAL_DIR"]))
        stuck.set()
    rows = rows_of(database)
    assert [(row.user_id, row.session_id, row.status, row.error_code) for row in rows] == [
        ("u", "s", "ok", None),
        ("u", "s", "error", "ProviderFails"),
    ]
    assert all("withheld" in str(row.attributes) for row in rows)
    assert "swordfish" not in str([list(row) for row in rows])
    assert b"swordfish" not in kept
    assert "swordfish" not in caplog.text


def test_a_redaction_that_calls_a_model(database: str) -> None:
    """Each of its calls is a row as well, without texts, and leads to no further one."""

    def own(text: str) -> str:
        with bind(attributes={"by": "own"}):
            Talker().invoke("is there a secret in it?")
        return text

    with CallLog(database, redact_functions=[own]) as call_log:
        with bind(user_id="u", session_id="s"):
            Talker().invoke("hello")
        wait_until(lambda: call_log.flush(5) == 0 and call_log.stats().waiting == 0, "all rows")
        stats = call_log.stats()
    rows = rows_of(database)
    assert (len(rows), stats.balanced) == (stats.written, True)
    (asked,) = [row for row in rows if row.user_id == "u"]
    assert "hello" in asked.prompt_snapshot
    assert all("made this call" in str(row.attributes) for row in rows if row is not asked)
    assert not [row for row in rows if row is not asked and row.prompt_snapshot is not None]


def test_a_kind_that_does_not_exist_is_a_config_error() -> None:
    """At once, and it says which there are."""
    from llmctx.core.errors import ConfigError

    with pytest.raises(ConfigError, match="email"):
        CallLog("sqlite:///x.db", redact="emial")
    with pytest.raises(ConfigError, match="'own' for redaction cannot be used"):
        CallLog("sqlite:///x.db", redact_patterns={"own": "(a"})


async def test_the_teams_own_pattern(database: str) -> None:
    """Its name stands in the placeholder."""
    async with CallLog(database, redact=["email"], redact_patterns={"patient": r"P-\d{6}"}):
        await model.ainvoke("P-123456 wrote from a@b.org, 13812345678")
    (row,) = await asyncio.to_thread(rows_of, database)
    assert "[redacted:patient] wrote from [redacted:email], 13812345678" in row.prompt_snapshot
