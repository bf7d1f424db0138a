"""Retention and totals without cron: one of the running processes does it, the one that holds the lock
(LLMCTX_RETAIN=on, LLMCTX_ROLLUP=on).

It runs in the pipeline's loop, never in the application's. The lock belongs to a connection: when its process dies
another one takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import zlib
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.diagnostics import diagnostics
from llmctx.settings import Settings
from llmctx.storage.engine import is_pooled, write_connection
from llmctx.storage.retention import Policy, retain
from llmctx.storage.rollup import RollupRunning, rollup

_FIRST_S: Final = 30.0  # after the start, in which there is enough to do
_LOOK_S: Final = 300.0
_EVERY_S: Final = 86_400.0
_LOCK: Final = 0x6C6C6D63 << 32  # "llmc", and the table


async def run_daily(settings: Settings, *, first_s: float = _FIRST_S, look_s: float = _LOOK_S) -> None:
    """Retain once a day, and bring the totals up to date, if no other process does, until cancelled. Never raises."""
    if not settings.is_postgresql and settings.retain == "on":
        diagnostics.count(
            "retain_failed", "LLMCTX_RETAIN=on needs PostgreSQL: run `llmctx retain --yes` from cron instead"
        )
        if settings.rollup == "off":
            return
    await asyncio.sleep(first_s * (0.5 + random.random()))  # noqa: S311  workers start together
    while True:
        try:
            if not settings.is_postgresql:
                await rollup(settings)
                await asyncio.sleep(look_s)
                continue
            async with write_connection(settings) as connection:
                pooled = await is_pooled(connection)
                await connection.rollback()
                if await _held(connection, settings, pooled=pooled):
                    await _rule(connection, settings, look_s, pooled=pooled)
        except Exception as problem:  # noqa: BLE001  the database, or a role without the right
            diagnostics.count("retain_failed", "retention or totals failed: %s They will be retried.", problem)
        await asyncio.sleep(look_s * (0.5 + random.random()))  # noqa: S311


async def _held(connection: AsyncConnection, settings: Settings, *, pooled: bool) -> bool:
    """Behind a pooler only a transaction keeps its server: it is left open, and holds nothing but the lock."""
    key = _LOCK + zlib.crc32(f"{settings.db_schema}.{settings.table}".encode())
    if pooled:
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    lock = f"SELECT pg_try_advisory{'_xact' if pooled else ''}_lock(:key)"
    held = bool(await connection.scalar(text(lock), {"key": key}))
    if not (held and pooled):
        await connection.commit()
    return held


async def _rule(connection: AsyncConnection, settings: Settings, look_s: float, *, pooled: bool) -> None:
    """Do it every day, totals at every look, for as long as the connection holds the lock."""
    due = time.monotonic()
    while True:
        if settings.rollup == "on":
            with contextlib.suppress(RollupRunning):  # from cron, or by hand
                await rollup(settings)
        if settings.retain == "on" and time.monotonic() >= due:
            due += _EVERY_S
            report = await retain(settings, Policy.from_settings(settings), do=True)
            if report.steps:
                logging.getLogger("llmctx").info("llmctx: retention: %s", "; ".join(report.steps))
        await connection.execute(text("SELECT 1"))
        if not pooled:
            await connection.commit()
        await asyncio.sleep(look_s)
