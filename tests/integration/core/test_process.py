"""Calls of a process that ends, or forks, are rows as any others."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from tests.conftest import ROOT
from tests.kit.lives import homes, run
from tests.kit.rows import rows_of
from tests.kit.support import Completer, PlainTalker, Talker, wait_until

model = Talker()


SCRIPT = """
import asyncio, sys
from tests.kit.support import Talker
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1])
call_log.start()
with bind(user_id="u", session_id="s"):
    Talker().invoke("one")
    asyncio.run(Talker().ainvoke("two"))
    kept = Talker().stream("three")
    next(kept)
{end}
"""


def run_script(end: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(end=textwrap.dedent(end)), url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import threading; threading.Thread(target=print).start()", 0),
    ],
    ids=["plain", "exit", "exception", "thread"],
)
def test_a_script_that_ends_without_close(any_database: str, end: str, code: int) -> None:
    """Its rows are written all the same."""
    done = run_script(end, any_database)
    assert done.returncode == code, done.stderr
    assert [row.status for row in rows_of(any_database)] == ["ok", "ok", "abandoned"], done.stderr
    if not code:
        assert not done.stderr


def test_a_script_whose_threads_outlive_the_main_one(any_database: str) -> None:
    """Calls that are made after the last line of the script, in threads that it waits for."""
    end = """
    import threading, time
    def later():
        threading.main_thread().join()
        with bind(user_id="u", session_id="s"):
            Talker().invoke("four")
    threading.Thread(target=later).start()
    """
    done = run_script(end, any_database)
    assert done.returncode == 0, done.stderr
    assert sorted(row.status for row in rows_of(any_database)) == ["abandoned", "ok", "ok", "ok"], done.stderr


def test_a_script_whose_database_is_away_ends_in_time(nowhere: str) -> None:
    """The end of a process waits for the database, but not for long."""

    def ends_in_time() -> bool:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(end="import time; print(time.time())"), nowhere],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "LLMCTX_SHUTDOWN_TIMEOUT_S": "0.5"},
        )
        took = time.time() - float(done.stdout)
        assert done.returncode == 0
        assert "3 of its calls not in the database" in done.stderr
        return took < 5

    assert any(ends_in_time() for _ in range(3)), "once at least: what a busy machine adds is not the same each time"


def _child(call_log: CallLog, prompt: str, how: str) -> None:
    with bind(user_id="child", session_id="c"):
        Talker().invoke(prompt)
        asyncio.run(PlainTalker().ainvoke(prompt))
    if how == "flush":
        assert call_log.flush(30) == 0  # ten processes write to one SQLite file: each has to get its turn
        assert call_log.stats().balanced
    elif how == "close":
        assert call_log.close(60) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("how", ["flush", "close", "nothing"])
def test_forks(any_database: str, how: str) -> None:
    """A child's calls are written once by the child, the parent's by the parent, whatever waited at the fork."""
    fork = multiprocessing.get_context("fork")
    with CallLog(any_database, linger_ms=300) as call_log, bind(user_id="parent", session_id="p"):
        for number in range(3):
            model.invoke(f"before {number}")
            child = fork.Process(target=_child, args=(call_log, f"child {number}", how))
            child.start()
            model.invoke(f"after {number}")
            child.join(60)
            assert child.exitcode == 0
        assert call_log.flush(60) == 0
        assert call_log.stats().balanced
    rows = rows_of(any_database)
    assert sorted(row.user_id for row in rows) == ["child"] * 6 + ["parent"] * 6
    assert len({row.call_id for row in rows}) == 12


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_at_any_moment(any_database: str) -> None:
    """While threads register and record: no child inherits a lock, or a row."""
    fork = multiprocessing.get_context("fork")
    with CallLog(any_database, linger_ms=1) as call_log:
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                while call_log.stats().waiting > 2_000:  # on a slow machine the newest would be dropped
                    time.sleep(0.01)
                with bind(user_id="parent", session_id="p"):
                    Completer().invoke("hello", {"configurable": {"thread_id": "t"}})

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(10):
            wait_until(lambda number=number: call_log.stats().started > 10 * number, "some load")  # type: ignore[misc]
            children.append(fork.Process(target=_child, args=(call_log, f"child {number}", "flush")))
            children[-1].start()
        for child in children:
            child.join(60)
        stop.set()
        for thread in threads:
            thread.join()
        assert [child.exitcode for child in children] == [0] * 10
        assert call_log.flush(30) == 0
        started = call_log.stats().started
    rows = rows_of(any_database)
    assert len(rows) == started + 20
    assert sum(row.user_id == "child" for row in rows) == 20


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_a_row_is_made(any_database: str) -> None:
    """What holds a lock then (Python as it loads a module or fills a cache, a function of the team's) is waited for."""
    fork = multiprocessing.get_context("fork")
    lock, holds, forks = threading.Lock(), threading.Event(), threading.Event()

    def search(text: str) -> str:
        with lock:
            holds.set()
            forks.wait(10)
        return text

    with CallLog(any_database, linger_ms=1, redact_functions=[search]) as call_log, bind(user_id="parent"):
        model.invoke("before")
        assert holds.wait(10)
        threading.Timer(0.2, forks.set).start()  # while the fork waits, if it does
        child = fork.Process(target=_child, args=(call_log, "child", "flush"))
        child.start()
        assert forks.is_set()
        child.join(60)
        assert child.exitcode == 0
        assert call_log.flush(30) == 0
    assert len(rows_of(any_database)) == 3


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


GUNICORN = """
from llmctx import bind
from llmctx.delivery import worker
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


UVICORN = """
from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker

call_log = CallLog().start()
model = Talker()

async def app(connection, receive, send):
    if connection["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
    else:
        answer = model.invoke("hello") if connection["path"] == "/thread" else await model.ainvoke("hello")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer.content.encode()})

wrapped = ContextMiddleware(app, identify=lambda request: CallContext(user_id="u", session_id="s"))
"""


@pytest.mark.parametrize("app", ["wrapped", "app"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_killed_by_its_own_signal(database: str, tmp_path: Path, app: str, number: int) -> None:
    """uvicorn shuts down, and raises the signal again: by SIGTERM the process ends without `atexit`."""
    serve_and_end(database, tmp_path, number, app)
    rows = rows_of(database)
    assert len(rows) == 30
    assert {row.status for row in rows} == {"ok"}
    assert {row.user_id for row in rows} == {"u" if app == "wrapped" else None}


def test_a_server_without_a_lifespan_that_is_killed_by_its_own_signal(database: str, tmp_path: Path) -> None:
    """Nothing waits for the database there: the first rows of a process, which take longest, are in the journal."""
    serve_and_end(database, tmp_path, signal.SIGTERM, "wrapped", "--lifespan", "off", calls=3)
    with CallLog(database, journal_dir=tmp_path / "journal"):
        wait_until(lambda: len(rows_of(database)) == 3, "the rows of the last process")
    assert [(row.user_id, row.status) for row in rows_of(database)] == [("u", "ok")] * 3


def serve_and_end(database: str, tmp_path: Path, number: int, app: str, *options: str, calls: int = 30) -> None:
    """Run uvicorn, and end it by a signal right after the last answer."""
    import httpx

    (tmp_path / "served.py").write_text(UVICORN)
    environment = {
        **os.environ,
        "LLMCTX_DATABASE_URL": database,
        "LLMCTX_JOURNAL_DIR": str(tmp_path / "journal"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
    }
    sock = tmp_path / "u.sock"
    arguments = ["--uds", str(sock), "--log-level", "warning", *options, f"served:{app}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(sock.exists, "the server")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(sock))) as http:
            for _ in range(calls):
                assert http.get("http://app/").text == "heard hello"
    finally:
        server.send_signal(number)
        _, err = server.communicate(timeout=30)
    assert server.returncode in (-number, 0), err


HANDLER = """
import copy, os, signal, sys
from tests.kit.support import Talker
from llmctx.calllog import CallLog

def mine(number, frame):
    seen.append(signal.getsignal(number) is mine)

mine.purpose, seen = "drain", []
signal.signal(signal.SIGTERM, mine)
for ends in (False, True):
    with CallLog(sys.argv[1]):
        Talker().invoke("hello")
        found = signal.getsignal(signal.SIGTERM)
        assert found is not mine and found == mine and mine == found and copy.copy(found) == mine, found
        assert (found.__name__, found.purpose, hash(found)) == ("mine", "drain", hash(mine))
        if ends:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [True, True], seen
    assert signal.getsignal(signal.SIGTERM) is mine
"""


def test_the_applications_handler_of_sigterm_is_its_own(any_database: str) -> None:
    """What looks at it sees the same, the handler itself finds it in place, and so does who closes the call log."""
    arguments = [sys.executable, "-W", "error", "-c", HANDLER, any_database]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert [row.status for row in rows_of(any_database)] == ["ok", "ok"]


DUMP_OF_STACKS = """
import faulthandler, os, signal, sys
from tests.kit.support import Talker
from llmctx.calllog import CallLog

def ended():
    before, calls = os.path.getsize(sys.argv[2]), len(seen)
    os.kill(os.getpid(), signal.SIGTERM)
    return os.path.getsize(sys.argv[2]) > before, len(seen) - calls

seen = []
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
file = open(sys.argv[2], "w")
faulthandler.register(signal.SIGTERM, file, chain=True)
for ends in (False, True):
    with CallLog(sys.argv[1]):
        Talker().invoke("hello")
        if ends:
            assert ended() == (True, 1)
            assert ended() == (True, 1)
    if not ends:
        assert ended() == (True, 1)
"""


def test_what_dumps_the_stacks_at_sigterm_does_so(any_database: str, tmp_path: Path) -> None:
    """`faulthandler.register(SIGTERM, chain=True)` comes before Python's handlers, and stays there."""
    arguments = [sys.executable, "-W", "error", "-c", DUMP_OF_STACKS, any_database, str(tmp_path / "dump")]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert [row.status for row in rows_of(any_database)] == ["ok", "ok"]


HANDLER_THAT_EXITS = """
import os, signal, sys
from tests.kit.support import Talker
from llmctx.calllog import CallLog
from llmctx.core.guard import guard_harmless

def once(number, frame):
    signal.signal(number, signal.SIG_IGN)
    sys.exit(3)

@guard_harmless("interrupted")
def ours():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(10**9):
        pass

signal.signal(signal.SIGTERM, once)
with CallLog(sys.argv[1]):
    Talker().invoke("hello")
    ours()
"""


def test_a_handler_of_sigterm_that_exits_while_code_of_ours_runs(any_database: str) -> None:
    """It ends the application, also where it has set another handler by then."""
    arguments = [sys.executable, "-W", "error", "-c", HANDLER_THAT_EXITS, any_database]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3, ended.stderr
    assert [row.status for row in rows_of(any_database)] == ["ok"]
