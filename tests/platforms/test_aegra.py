"""Aegra: LangGraph's agent protocol on PostgreSQL, with runs in the server's own tasks or in workers behind Redis.

For Python 3.11 there is an older one alone: without workers, runs without a thread, and factories that are not async.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.kit.rows import query
from tests.platforms.server import Server, judge
from tests.platforms.users import APPLICATION, GRAPHS, Calls, drive

IS_OLD = sys.version_info < (3, 12)
EXTENSION = "comment = 'What Aegra uses of uuid-ossp'\ndefault_version = '1.1'\nrelocatable = true\n"
FUNCTION = "CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';\n"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("has_workers", [False] if IS_OLD else [False, True])
def test_aegra(
    has_workers: bool,
    serve: Callable[..., Server],
    database: str,
    empty_database: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    """Many users at once; then the server ends, and all rows are there."""
    asyncio.run(_provide_uuids(empty_database))
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    redis = {"REDIS_BROKER_ENABLED": "true", "REDIS_URL": redis_url} if has_workers else {}
    server = serve(
        [sys.executable, "-m", "uvicorn", "aegra_api.main:app", "--port", "{port}", "--log-level", "warning"],
        folder=folder,
        health="/health",
        DATABASE_URL=unquote(empty_database.replace("+asyncpg", "")),  # its Alembic takes no %
        AUTH_TYPE="custom",
        SQLALCHEMY_POOL_SIZE="40",
        LANGGRAPH_MAX_POOL_SIZE="20",
        **redis,
    )
    calls: Calls = Counter()
    users = 8 if IS_OLD else 20  # each that waits holds one of its connections
    of_it: dict[str, Any] = {"graphs": GRAPHS[:2], "is_stateless": False} if IS_OLD else {}
    asyncio.run(drive(server, calls, users, "first", **of_it))
    judge(database, calls, patience_s=30)
    asyncio.run(drive(server, calls, 2, "last", **of_it))
    server.interrupt()
    judge(database, calls)


async def _provide_uuids(database: str) -> None:
    """Give the server the extension that Aegra wants, where it is without: PostgreSQL's wheel has no contrib."""
    if await query(database, "SELECT name FROM pg_available_extensions WHERE name = 'uuid-ossp'"):
        return
    ((share,),) = await query(database, "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'")
    (Path(share) / "extension" / "uuid-ossp.control").write_text(EXTENSION)
    (Path(share) / "extension" / "uuid-ossp--1.1.sql").write_text(FUNCTION)
