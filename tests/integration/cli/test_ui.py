"""`llmctx ui`: on this machine alone, for those who have the address that it prints."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.kit.dashboard import fill


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    from llmctx.migrate import commands as migrate
    from llmctx.settings import load

    made = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('ui') / 'calls.db'}"
    migrate.upgrade(load(database_url=made))
    fill(made)
    return made


@contextmanager
def running(url: str, *options: str) -> Iterator[str]:
    """Yield the address that the command prints; Ctrl-C ends it, without a traceback."""
    command = [sys.executable, "-m", "llmctx", "--database-url", url, "ui", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said


def test_only_for_those_who_have_its_address(url: str) -> None:
    """The token becomes a cookie; without one, with another, or under another name nothing is shown."""
    with running(url) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        root = address.partition("/?")[0]
        with httpx.Client(follow_redirects=True) as reader:
            assert reader.get(f"{root}/sessions").status_code == 403
            assert reader.get(f"{root}/sessions?token=wrong").status_code == 403
            elsewhere = reader.get(f"{root}//evil.example/?{address.partition('?')[2]}", follow_redirects=False)
            assert elsewhere.headers["location"] == "/evil.example/"
            assert {"content-security-policy", "referrer-policy"} <= elsewhere.headers.keys()
            reader.cookies.clear()
            first = reader.get(address)
            assert first.status_code == 200
            assert "token" not in str(first.url)
            shown = reader.get(f"{root}/session?id=s-1")
            assert (shown.status_code, "secret" in shown.text) == (200, False)
            cookie = first.history[0].headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            for name in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", "127.0.0.1:1@evil.example", ""):
                assert reader.get(f"{root}/sessions", headers={"host": name}).status_code in (400, 421), name
            assert reader.get(f"{root}/sessions", headers={"host": "localhost:1"}).status_code == 200
    with running(url) as other, running(url, "--texts") as address, httpx.Client(follow_redirects=True) as reader:
        for each in (address, other):  # the cookie of the second does not replace that of the first
            reader.get(each)
        assert "secret question" in reader.get(f"{address.partition('/?')[0]}/session?id=s-1").text


def test_the_grants(url: str) -> None:
    """What lets a role read the table, to copy."""
    command = [sys.executable, "-m", "llmctx", "--database-url", url, "ui", "--grants"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "GRANT SELECT ON biz_agent_llm_call_logs" in done.stdout
    assert "GRANT SELECT ON llmctx_hours, llmctx_days, " in done.stdout


def test_a_table_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    """And not on each page of a browser that somebody had to open first."""
    command = [sys.executable, "-m", "llmctx", "--database-url", f"sqlite:///{tmp_path}/none.db", "ui", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert "llmctx migrate" in done.stderr
