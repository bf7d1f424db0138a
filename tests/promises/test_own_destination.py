"""A destination of a team's own, sixty lines, gets all that is promised of the database: journal, replay, ledger."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.errors import ConfigError
from llmctx.delivery import Destination, Row
from llmctx.delivery.journal import Journal, inspect_directory
from llmctx.delivery.replay import replay
from llmctx.delivery.spool import Spool
from llmctx.settings import load
from llmctx.testing import MemorySink
from tests.kit.support import wait_until

ROOT = Path(__file__).parents[2]  # not of conftest, which takes the journals' directory out of a program's environment


class JsonLines(Destination):
    """A line of JSON for each call. Fails at random, before and after it has stored a batch, and takes no poison."""

    def __init__(self, path: Path, *, failing: float = 0.0, poison: str = "poison") -> None:
        self.name = f"file {path}"
        self._path, self._failing, self._poison = path, failing, poison
        self._there: set[str] = set()
        self._random = random.Random(7)

    async def prepare(self) -> bool:
        before, self._there = self._there, {line["call_id"] for line in self.lines()}
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._append(b"\n")  # killed in the middle of a line
        return self._there != before

    async def store(self, rows: Sequence[Row]) -> None:
        self._fail_at_random("away")
        if any(row.record.model == self._poison for row in rows):
            raise ValueError("no poison here")
        new = [row for row in rows if str(row.record.call_id) not in self._there]
        self._append(b"".join(self._line(row) for row in new))
        self._there.update(str(row.record.call_id) for row in new)
        self._fail_at_random("stored, but that does not get through")

    def lines(self) -> list[dict[str, str]]:
        """All that is whole."""
        found = []
        for line in self._path.read_bytes().splitlines() if self._path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    @staticmethod
    def _line(row: Row) -> bytes:
        record = row.record
        line = {"call_id": str(record.call_id), "user_id": record.user_id, "model": record.model}
        return json.dumps({**line, "status": record.status}).encode() + b"\n"

    def _append(self, data: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, data)
        finally:
            os.close(file)

    def _fail_at_random(self, why: str) -> None:
        if self._random.random() < self._failing:
            raise ConnectionError(why)


def call(call_log: CallLog, number: int, model: str = "good") -> None:
    with bind(user_id=f"u{number}", session_id="s"), call_log.record(model=model, prompt=f"call {number}"):
        pass


def directory_of(destination: Destination) -> Path:
    return load().journal_directories_of(destination.key)[0]


def dead_letters(destination: Destination) -> list[str | None]:
    return [letter.record.user_id for letter in inspect_directory(directory_of(destination)).dead_letters]


def test_the_ledger_is_exact_and_poison_rows_are_set_aside(tmp_path: Path) -> None:
    """However often it fails: each good row once, each bad one a dead letter, and started is the sum of the rest."""
    destination = JsonLines(tmp_path / "calls", failing=0.1)
    bad = {0, 13, 14, 77, 199}
    with CallLog(destination=destination, batch_rows=50) as call_log:
        for number in range(200):
            call(call_log, number, "poison" if number in bad else "good")
        assert call_log.flush(60) == 0
        stats = call_log.stats()
    assert (stats.started, stats.written, stats.waiting, stats.quarantined, stats.dropped) == (200, 195, 0, 5, 0)
    assert stats.balanced
    assert Counter(line["user_id"] for line in destination.lines()) == {f"u{n}": 1 for n in range(200) if n not in bad}
    assert sorted(map(str, dead_letters(destination))) == sorted(f"u{number}" for number in bad)


KILLED = """
import sys
from pathlib import Path
from llmctx import bind
from llmctx.calllog import CallLog
from tests.promises.test_own_destination import JsonLines, call

call_log = CallLog(destination=JsonLines(Path(sys.argv[1]), failing=0.2), batch_rows=20).start()
with bind(user_id="open", session_id="s"):
    call_log.record(model="good").__enter__()
for number in range(1_000_000):
    call(call_log, number, "poison" if number % 50 == 7 else "good")
    print(number, flush=True)
"""


@pytest.mark.parametrize("calls", [1, 60, 250])
def test_a_process_that_is_killed_is_recovered_by_the_next_one(tmp_path: Path, calls: int) -> None:
    """With -9, in the middle of its work: each call that had ended is there once, and the open one is lost."""
    path = tmp_path / "calls"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(calls):
            assert process.stdout.readline()
        process.kill()
        ended = calls + len(process.stdout.readlines())  # what it had said before it died
    destination = JsonLines(path, failing=0.1)
    before = len(destination.lines())
    with CallLog(destination=destination) as call_log:
        call(call_log, -1)
        directory = directory_of(destination)
        # a flush makes haste where one try after another has failed
        wait_until(
            lambda: call_log.flush(0.5) == 0 and len(inspect_directory(directory).processes) == 1,
            "the end of the recovery",
        )
        stats = call_log.stats()
    there = Counter(line["user_id"] for line in destination.lines()) + Counter(set(dead_letters(destination)))
    assert set(there.values()) == {1}
    assert set(there) >= {"open", "u-1", *(f"u{number}" for number in range(ended))}
    assert [line["status"] for line in destination.lines() if line["user_id"] == "open"] == ["lost"]
    assert {f"u{number}" for number in range(7, ended, 50)} <= set(map(str, dead_letters(destination)))
    assert (stats.started, stats.written, stats.waiting, stats.dropped, stats.balanced) == (1, 1, 0, 0, True)
    assert (
        stats.adopted >= len(destination.lines()) - before - 1
    )  # some were there already, and the dead one had no time to note it


def test_dead_letters_are_replayed(tmp_path: Path) -> None:
    """Once their cause is gone; those of which it is not stay."""
    destination = JsonLines(tmp_path / "calls")
    with CallLog(destination=destination) as call_log:
        for number, model in enumerate(["poison", "good", "poison"]):
            call(call_log, number, model)
        assert call_log.flush(30) == 0
    own = Journal(directory_of(destination))
    try:
        assert replay(destination, load(), own) == (0, 2, 0)
        assert replay(JsonLines(tmp_path / "calls", poison=""), load(), own) == (2, 0, 0)
    finally:
        own.close()
    assert sorted(line["user_id"] for line in destination.lines()) == ["u0", "u1", "u2"]
    assert dead_letters(destination) == []


def test_rows_wait_while_it_is_away(tmp_path: Path) -> None:
    """They say why, and go on waiting in the journal when the process ends."""
    away = JsonLines(tmp_path / "calls", failing=1.0)
    with CallLog(destination=away, shutdown_timeout_s=0.5) as call_log:
        call(call_log, 1)
        assert call_log.flush(0.3) == 1
        assert "away" in (call_log.stats().trouble or "")
    with CallLog(sink=Spool(JsonLines(tmp_path / "calls"))) as call_log:
        call(call_log, 2)
        wait_until(lambda: call_log.stats().adopted == 1, "the row of the first", 30)
        assert call_log.flush(30) == 0
    assert sorted(line["user_id"] for line in away.lines()) == ["u1", "u2"]


FORKING = """
import os, sys
from pathlib import Path
from llmctx.calllog import CallLog
from tests.promises.test_own_destination import JsonLines, call
from llmctx.delivery.spool import Spool

destination = JsonLines(Path(sys.argv[1]))
with CallLog(**({"destination": destination} if sys.argv[2] == "destination" else {"sink": Spool(destination)})) as log:
    call(log, 1)
    log.flush(60)
    child = os.fork()
    call(log, 3 if child else 2)
    assert log.flush(60) == 0
    stats = log.stats()
    assert (stats.started, stats.written) == ((2, 2) if child else (1, 1)), stats
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("way", ["destination", "sink"])
def test_a_forked_child_has_a_spool_of_its_own(tmp_path: Path, way: str) -> None:
    """Parent and child store each their own calls, and count them."""
    command = [sys.executable, "-c", textwrap.dedent(FORKING), str(tmp_path / "calls"), way]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert sorted(line["user_id"] for line in JsonLines(tmp_path / "calls").lines()) == ["u1", "u2", "u3"]


def test_one_place_for_the_rows() -> None:
    """A destination and a sink at once are a mistake, told at once."""
    with pytest.raises(ConfigError, match="not both"):
        CallLog(destination=JsonLines(Path("calls")), sink=MemorySink())
