"""A journal whose directory goes, moves or comes back: what was in it and what comes is kept."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import pytest

from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.settings import load
from tests.kit.lives import Switch, kill, start
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until

model = Talker()


@pytest.fixture
def switch(database: str, tmp_path: Path) -> Switch:
    return Switch(database, tmp_path)


def test_a_directory_that_cannot_be_used(database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The application starts, rows are written, and the log says so once."""
    (tmp_path / "file").write_text("")
    diagnostics.reset()
    with caplog.at_level(logging.WARNING), CallLog(database, journal_dir=tmp_path / "file" / "no") as call_log:
        model.invoke("hello")
        assert call_log.flush(60) == 0
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
        while not diagnostics.counts.get("journal_vanished") or call_log._worker.sink._journal is None:
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
        assert call_log.flush(60) == 0
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
    while call_log._worker.sink._journal is None:
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
    monkeypatch.setenv("HOME", "/users/somebody")
    first, second = load(database_url=url).journal_directories
    assert str(first).startswith("/users/somebody/.local/state/llmctx/")
    assert second.name.startswith(f"llmctx-{os.geteuid()}-")
    assert "hunter" not in f"{first}{second}"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load(database_url=url).journal_directories[0].parent == tmp_path / "llmctx"
    rotated = load(database_url="postgresql://hunter3:hunter4@host/db").journal_directories
    assert rotated == load(database_url=url).journal_directories
    assert rotated != load(database_url="postgresql://hunter1:hunter2@host/other").journal_directories
