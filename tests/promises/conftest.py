"""The server that replays the recorded provider traffic. Without the recordings its tests are left out."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.absent import HAS_RECORDED, RECORDED

collect_ignore = [] if HAS_RECORDED else ["test_recorded.py"]


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder that holds `data` and `replay`."""
    return RECORDED


@pytest.fixture(scope="session")
def replay_server(recorded: Path) -> Iterator[str]:
    """The address of a server that answers with the recorded exchanges."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = [str(recorded / "data" / name) for name in ("exchanges.jsonl", "unparsable.jsonl")]
    server = subprocess.Popen(
        [sys.executable, str(recorded / "replay" / "server.py"), "--port", str(port), "--data", *data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{base}/__stats", server)
        yield base
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            assert server.poll() is None, "the replay server has died"
            assert time.monotonic() < deadline, "the replay server does not answer"
            time.sleep(0.05)
