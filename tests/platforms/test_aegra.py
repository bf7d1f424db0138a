"""Aegra: LangGraph's agent protocol on PostgreSQL, with runs in the server's own tasks or in workers behind Redis."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.platforms.server import Server, judge
from tests.platforms.users import APPLICATION, Calls, drive


@pytest.mark.timeout(400)
@pytest.mark.parametrize("has_workers", [False, True], ids=["in-process", "workers"])
def test_aegra(
    has_workers: bool,
    serve: Callable[..., Server],
    database: str,
    empty_database: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    """20 users at once; then the server ends, and all rows are there."""
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    redis = {"REDIS_BROKER_ENABLED": "true", "REDIS_URL": redis_url} if has_workers else {}
    server = serve(
        [sys.executable, "-m", "uvicorn", "aegra_api.main:app", "--port", "{port}", "--log-level", "warning"],
        folder=folder,
        health="/health",
        DATABASE_URL=unquote(empty_database.replace("+asyncpg", "")),  # its Alembic takes no %
        AUTH_TYPE="custom",
        **redis,
    )
    calls: Calls = Counter()
    asyncio.run(drive(server, calls, 20, "first"))
    judge(database, calls, patience_s=30)
    asyncio.run(drive(server, calls, 2, "last"))
    server.interrupt()
    judge(database, calls)
