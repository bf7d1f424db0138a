"""The pipeline's thread at its begin and end."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

HURRIED = """
import asyncio, os, sys, threading, time
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1])
call_log.start()
if (child := os.fork()):
    os.waitpid(child, 0)
    os._exit(0)

class SlowRunner(asyncio.Runner):
    def __init__(self, **kwargs):
        if threading.current_thread().name == "llmctx-pipeline":
            time.sleep(3)
        super().__init__(**kwargs)

with bind(user_id="u", session_id="s"):
    whole, asyncio.Runner = asyncio.Runner, SlowRunner
    FakeListChatModel(responses=["yes"]).invoke("hello")
END
os._exit(0)
"""

ENDS = {"closed": "call_log.close(0.1)", "awaited": "whole().run(call_log.aclose(0.1))"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_process_that_ends_before_its_thread_has_begun_loses_nothing(end: str, tmp_path: Path) -> None:
    """What has not come into the table is in the journal, and the next process writes it."""
    url = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    program = [
        sys.executable,
        "-c",
        "import sys\nfrom llmctx.calllog import CallLog\nCallLog(sys.argv[1]).migrate()",
        url,
    ]
    subprocess.run(program, check=True, timeout=120)
    program[2] = HURRIED.replace("END", end)
    subprocess.run(program, check=True, timeout=120)
    subprocess.run([sys.executable, "-m", "llmctx", "--database-url", url, "journal", "replay", "--yes"], timeout=120)
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as database:
        rows = database.execute("SELECT user_id, session_id, status FROM biz_agent_llm_call_logs").fetchall()
    assert rows == [("u", "s", "ok")]
