"""Where a platform lacks what POSIX has (Windows: no fork, no numbers of users, no locks as a journal needs them)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)  # a whole interpreter, and everything that it imports

_WINDOWS = """
import asyncio, concurrent.futures, multiprocessing, os, random, socket, subprocess, sys, tempfile, threading
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in (
    "fork", "forkpty", "register_at_fork", "geteuid", "getuid", "getegid", "getgid", "uname", "fchmod", "fdatasync",
    "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "pread", "pwrite", "killpg", "getpgid", "setsid",
):
    if hasattr(os, name):
        delattr(os, name)
"""
_APPLICATION = """
from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.migrate import upgrade
from tests.kit.models import FakeChatModel, Reply
import logging, sqlite3

logging.basicConfig(format="%(levelname)s %(message)s")

class Model(FakeChatModel):
    def _reply(self, messages, streamed=False):
        return Reply("fine")

url = sys.argv[1]
upgrade(url)
with CallLog(url) as call_log:
    with bind(user_id="u", session_id="s"):
        Model().invoke("hello")
    assert call_log.flush(60) == 0
    assert call_log.stats().written == 1
rows = "SELECT user_id, session_id, status FROM biz_agent_llm_call_logs"
print(sqlite3.connect(sys.argv[2]).execute(rows).fetchall())
"""
_COMMANDS = """
from llmctx.__main__ import main
for words in sys.argv[1:]:
    sys.argv = ["llmctx", *words.split()]
    try:
        main()
    except SystemExit as end:
        print(f"{words}: {end.code or 0}")
"""


def _run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", _WINDOWS + program, *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        timeout=500,
        check=False,
    )


def test_rows_flow_without_a_journal(tmp_path: Path) -> None:
    """With one line that says so."""
    file = tmp_path / "calls.db"
    ended = _run(_APPLICATION, f"sqlite+aiosqlite:///{file}", str(file), LLMCTX_JOURNAL_DIR=str(tmp_path / "journal"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[('u', 's', 'ok')]"
    assert ended.stderr.count("\n") == 1
    assert "no file locks as the journal needs them. Until then rows wait in memory" in ended.stderr


def test_commands_work(tmp_path: Path) -> None:
    """Their help, and what they say of journals that there are not."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'calls.db'}"
    commands = ("--help", "migrate --yes", "calls", "journal", "doctor")
    ended = _run(_COMMANDS, *commands, LLMCTX_DATABASE_URL=url)
    assert "Traceback" not in ended.stderr, ended.stderr
    for words in commands:
        assert f"{words}: 0" in ended.stdout or f"{words}: 1" in ended.stdout, (words, ended.stdout, ended.stderr)
