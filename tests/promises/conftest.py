"""Where the recorded provider traffic lies, and the server that replays it.

The recordings are no part of the repository. They are looked for beside it, in `shared/data` and `shared/replay`;
`LLMCTX_RECORDED_DATA` names another folder that holds `data` and `replay`. Without them the tests that need them are
left out, and the summary says so in one line.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

# read at import, before any fixture takes LLMCTX_* out of the environment
RECORDED = Path(os.environ.get("LLMCTX_RECORDED_DATA") or Path(__file__).resolve().parents[3] / "shared")
NEEDED = (RECORDED / "data" / "exchanges.jsonl", RECORDED / "replay" / "server.py")

_left_out: list[pytest.Item] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not all(path.exists() for path in NEEDED):
        _left_out[:] = [item for item in items if item.path.name == "test_recorded.py"]
        items[:] = [item for item in items if item not in _left_out]
        config.hook.pytest_deselected(items=_left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        terminalreporter.write_line("left out: test_recorded.py, no recorded provider traffic (LLMCTX_RECORDED_DATA)")


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
        server.wait(10)


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
