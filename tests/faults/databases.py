"""Faults of a database that others administer: its table dropped, its limits, its connections, a pooler in between.

`pgbouncer` is asked for where it is installed (`apt-get install pgbouncer`), in its three modes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE as T
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.faults.judge import Verdict
from tests.faults.world import ROLE, World
from tests.kit.rows import query

_PORT: Final = 6432
_LIMITS: Final = {
    "idle_session_timeout": "200ms", "statement_timeout": "2ms", "lock_timeout": "1ms", "transaction_timeout": "3ms",
    "idle_in_transaction_session_timeout": "1ms", "search_path": "", "default_transaction_isolation": "serializable",
}  # fmt: skip


async def table_dropped(world: World, times: int = 3) -> Verdict:
    """In the middle of writes, and made anew by `llmctx migrate`. What was stored until then is put aside first."""
    world.begin_life(pause_ms=60)
    await world.administer(f"CREATE TABLE aside (LIKE {T})")
    for _ in range(times):
        await world.busy(20)
        await _some_stored(world)
        async with _administrator(world) as admin, admin.transaction():
            await admin.execute(f"LOCK TABLE {T} IN ACCESS EXCLUSIVE MODE")
            await admin.execute(f"INSERT INTO aside SELECT * FROM {T}")
            await admin.execute(f"DROP TABLE {T}")
        await world.busy(20)
        await asyncio.to_thread(migrate.upgrade, load(database_url=world.admin))
        await world.reset()
    await world.busy(20)
    async with _administrator(world) as admin:
        await admin.execute(f"INSERT INTO {T} SELECT * FROM aside ON CONFLICT DO NOTHING")
    return await world.settled()


async def limits_of_the_role(world: World) -> Verdict:
    """Each ends sessions or statements at odd moments, or moves the table out of sight; then it is taken back."""
    world.begin_life(pause_ms=60)
    for name, value in _LIMITS.items():
        await world.administer(f"ALTER ROLE {ROLE} SET {name} = '{value}'")
        await world.hang_up()
        await world.busy(20)
        await world.administer(f"ALTER ROLE {ROLE} RESET ALL")
        await world.hang_up()
    return await world.settled()


async def no_connection_left(world: World, times: int = 2) -> Verdict:
    """Others hold all that the server has."""
    world.begin_life(pause_ms=60)
    for _ in range(times):
        await world.busy(20)
        await world.hang_up()
        async with contextlib.AsyncExitStack() as others:
            with contextlib.suppress(asyncpg.PostgresError):
                while True:
                    await others.enter_async_context(_administrator(world))
            await world.busy(40)
    return await world.settled()


async def pooled(world: World, mode: str, restarts: int = 3) -> Verdict:
    """Through pgbouncer, which ends in every way. In statement mode rows wait until it is another one."""
    with Bouncer(world) as bouncer:
        bouncer.start(mode)
        world.begin_life(pause_ms=60, url=bouncer.url)
        for number in range(restarts):
            await world.busy(30)
            await asyncio.to_thread(bouncer.end, (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)[number % 3])
            await world.busy(10)
            bouncer.start(mode)
        if mode == "statement":
            await asyncio.to_thread(bouncer.end, signal.SIGTERM)
            bouncer.start("transaction")
        return await world.settled()


@asynccontextmanager
async def _administrator(world: World) -> AsyncIterator[Any]:
    url = make_url(world.admin)
    connection = await asyncpg.connect(user=url.username, host=url.query["host"], database=url.database)
    try:
        yield connection
    finally:
        connection.terminate()


class Bouncer:
    """A pgbouncer before the world's database, on a socket of its own."""

    def __init__(self, world: World) -> None:
        self._target = make_url(world.admin)
        self._folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        query = {"host": str(self._folder), "port": str(_PORT)}
        self.url = self._target.set(username=ROLE, query=query).render_as_string(hide_password=False)

    def __enter__(self) -> Bouncer:
        self._folder.chmod(0o777)  # it may not be root, and we may be
        return self

    def __exit__(self, *problem: object) -> None:
        self.end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, mode: str) -> None:
        users = self._folder / "users.txt"
        users.write_text(f'"{ROLE}" ""\n')
        settings = {
            "unix_socket_dir": self._folder, "listen_port": _PORT, "auth_type": "trust", "auth_file": users,
            "pool_mode": mode, "default_pool_size": 2, "logfile": self._folder / "log",
        }  # fmt: skip
        database = f"{self._target.database} = host={self._target.query['host']}"
        lines = [f"[databases]\n{database}\n[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        (self._folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):
                file.chmod(0o666)
        command = ["pgbouncer", "-q", "-u", "nobody", str(self._folder / "pgbouncer.ini")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)


async def _some_stored(world: World) -> None:
    deadline = time.monotonic() + 60
    while not await query(world.admin, f"SELECT 1 FROM {T} LIMIT 1"):
        assert time.monotonic() < deadline, "no row was stored"
        await asyncio.sleep(0.05)
