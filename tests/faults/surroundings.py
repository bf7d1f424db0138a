"""Faults of what a process stands on: the journal's disk and directory, the clock, a machine that stops a while."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time

from tests.faults.judge import Verdict
from tests.faults.world import World


async def disk_full(world: World, seconds: float = 3.0) -> Verdict:
    """Not a byte can be written, with the database there and away; what has begun stays in memory and is written."""
    life = world.begin_life(pause_ms=60)
    await world.busy(20)
    for away in (False, True, False):
        holding = asyncio.create_task(life.ask("disk_full", seconds))
        if away:
            await world.proxy.close()
        await world.busy(20)
        assert await holding > 0
        if away:
            await world.proxy.open()
        await world.busy(10)
    return await world.settled()


async def journal_removed(world: World, times: int = 3) -> Verdict:
    """Somebody tidies up. Soon there is another one, and what is called from then on survives the process."""
    life = world.begin_life(pause_ms=60)
    for _ in range(times):
        await world.busy(20)
        before = (await life.ask("stats"))["incidents"].get("journal_vanished", 0)
        await asyncio.to_thread(shutil.rmtree, world.journal, ignore_errors=True)
        deadline = time.monotonic() + 30
        while (await life.ask("stats"))["incidents"].get("journal_vanished", 0) == before or not _homes(world):
            assert time.monotonic() < deadline, "no other journal was begun"
            await asyncio.sleep(0.05)
    await world.busy(20)
    await world.kill()
    world.begin_life(pause_ms=60)
    return await world.settled()


def _homes(world: World) -> list[str]:
    return [path.name for path in world.journal.glob("*/*-*-*") if not path.name.startswith(".")]


async def journal_out_of_reach(world: World) -> Verdict:
    """Its directory is elsewhere for a while, with a file in its place: who starts then has none until it is back."""
    world.begin_life(pause_ms=60)
    await world.busy(20)
    elsewhere = world.journal.with_name("elsewhere")
    world.journal.rename(elsewhere)
    world.journal.write_text("a file")
    world.begin_company()
    await world.busy(60)
    world.journal.unlink()
    elsewhere.rename(world.journal)
    await world.busy(60)
    return await world.settled()


async def stopped_for_long(world: World, seconds: float = 60.0) -> Verdict:
    """As a virtual machine that is moved: the server has given the connection up meanwhile; its company goes on."""
    ways = ("ainvoke", "astream", "to_thread", "thread", "graph")  # a client that waits for an answer would give up
    life = world.begin_life(pause_ms=60, ways=ways)
    world.begin_company()
    await world.busy(40)
    life.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds / 2)
        await world.hang_up()
        await asyncio.sleep(seconds / 2)
    finally:
        life.signal(signal.SIGCONT)
    await world.busy(40)
    return await world.settled()


async def clock_jumps(world: World, seconds: float = 1.0) -> Verdict:
    """Back and forth, by an hour and by a year, with a death in between; each call lasts what it lasted."""
    life = world.begin_life(pause_ms=60)
    for jump_s in (3600.0, -3600.0, 400 * 86_400.0, -400 * 86_400.0):
        await world.busy(10)
        await life.ask("clock", jump_s, seconds)
    jumping = asyncio.create_task(life.ask("clock", 3600.0, 60.0))
    await world.busy(20)
    await world.kill()
    await asyncio.gather(jumping, return_exceptions=True)
    world.begin_life(pause_ms=60)
    return await world.settled()
