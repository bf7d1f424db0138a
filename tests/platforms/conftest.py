"""llmctx on the platforms that people deploy to, the real ones from PyPI, in the environment of `make platforms`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.platforms.server import Server

if find_spec("langgraph_api") is None:  # `make test`: the environment has none of the platforms
    collect_ignore_glob = ["test_*"]


@pytest.fixture
def serve(tmp_path: Path, database: str) -> Iterator[Callable[..., Server]]:
    """Start servers with the rows in `database`, and end them."""
    servers: list[Server] = []

    def start(command: Sequence[str], *, folder: Path, health: str, **env: str) -> Server:
        settings = {
            "LLMCTX_DATABASE_URL": database,
            "LLMCTX_JOURNAL_DIR": str(tmp_path / "journal"),
            "LLMCTX_CONTENT": "full",
            "LLMCTX_SESSION": "thread",
        }
        server = Server(command, folder=folder, health=health, env={**settings, **env})
        servers.append(server)
        server.wait_until_ready()
        return server

    yield start
    for server in servers:
        server.kill()
