"""Call logs in processes of their own, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from sqlalchemy import make_url

from tests.conftest import ROOT

HEAD = """
import asyncio, os, signal, sys, threading, time
from tests.kit.support import PlainTalker, Talker
from llmctx import bind
from llmctx.delivery import worker
from llmctx.calllog import CallLog

call_log = CallLog(sys.argv[1])
call_log.start()

def pause():
    print("ready", flush=True)
    sys.stdin.read(1)
"""

KILLED = """
with bind(user_id="u", session_id="s", attributes={"secret": "sk-proj-abcdefghijklmnop0123456789"}):
    for number in range(20):
        Talker().invoke(f"done {number}")
    kept = call_log.record(model="gpt", prompt="open")
    kept.__enter__()
stream = Talker().stream("nobody's")
next(stream)
while call_log.flush(0.3) and call_log._worker.pipeline.is_busy:
    pass
pause()
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


def homes() -> list[Path]:
    """Directories of processes, for whatever database."""
    return [path for path in Path(os.environ["LLMCTX_JOURNAL_DIR"]).glob("*/*") if path.name != "quarantine"]
