"""Call logs in processes of their own, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

from sqlalchemy import make_url

from tests.conftest import ROOT
from tests.kit.databases import by_way_of

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
    """A URL of `database` that can be turned on: a socket's directory, which leads to the real one later."""

    def __init__(self, database: str, folder: Path) -> None:
        target = make_url(database)
        self._host = target.query.get("host") or target.host or "localhost"
        self._port = target.port or 5432
        self.folder = folder / "pg"
        self.url = by_way_of(target, host=str(self.folder))

    def on(self) -> None:
        assert isinstance(self._host, str)
        if self._host.startswith("/"):
            self.folder.symlink_to(self._host)
            return
        self.folder.mkdir()
        relay = _Relay(str(self.folder / ".s.PGSQL.5432"), _Relayed)
        relay.target = (self._host, self._port)
        threading.Thread(target=relay.serve_forever, daemon=True).start()


class _Relay(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    target: tuple[str, int]


class _Relayed(socketserver.BaseRequestHandler):
    """A connection to a server that is reached by TCP."""

    def handle(self) -> None:
        assert isinstance(self.server, _Relay)
        with socket.create_connection(self.server.target) as server:
            threading.Thread(target=self._pass_on, args=(server, self.request), daemon=True).start()
            self._pass_on(self.request, server)

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def homes() -> list[Path]:
    """Directories of processes, for whatever database."""
    return [path for path in Path(os.environ["LLMCTX_JOURNAL_DIR"]).glob("*/*") if path.name != "quarantine"]
