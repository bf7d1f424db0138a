"""Servers that a platform's own command starts, and the judge of the rows that they leave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.kit.rows import query

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 90.0
"""How long a server may take to start, and rows to arrive, on a busy machine."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Return the first answer of `condition` that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)
    return answer


class Server:
    """A server in a process group of its own, its output in a file."""

    def __init__(self, command: Sequence[str], *, folder: Path, health: str, env: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.health = health
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [part.format(port=self.port) for part in command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", **env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def get(self, path: str, **headers: str) -> Any:
        """Return the JSON at `path`; None where there is no answer."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self.get(self.health), "the server starts")
        assert self.process.poll() is None, self.log.read_text()[-5000:]

    def interrupt(self) -> None:
        """Press Ctrl-C, which all processes of a terminal get."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def command_of(name: str) -> str:
    """Return the path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


def judge(
    database: str, calls: Counter[tuple[str, str]], *, patience_s: float = 0.0, thread_is_session: bool = True
) -> list[Any]:
    """Check that each call, known by its prompt and its user, has one row, and a session: its thread."""
    deadline = time.monotonic() + patience_s
    while True:
        rows = asyncio.run(query(database, "SELECT * FROM biz_agent_llm_call_logs"))
        if len(rows) >= calls.total() or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert len(rows) == calls.total()
    assert Counter((json.loads(row.prompt_snapshot)[-1]["content"], row.user_id) for row in rows) == calls
    assert all(row.session_id is not None for row in rows)
    assert not thread_is_session or all(row.session_id == (row.thread_id or row.session_id) for row in rows)
    return rows
