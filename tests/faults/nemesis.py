"""The nemesis: what is done to the world, by a seed. Each fault lasts a while, and heals itself.

Faults of one kind exclude each other; several kinds come at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from llmctx.core.record import DEFAULT_TABLE as T
from tests.faults.world import ROLE, World
from tests.kit.proxy import COMMITS


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    kind: str
    during: Callable[[World, random.Random], AbstractAsyncContextManager[None]]
    """Entered: it hurts. Left: it is healed."""
    at_once: bool = False
    """It is over as soon as it has begun."""


FAULTS: Final[dict[str, Fault]] = {}


def fault(
    kind: str, *, at_once: bool = False
) -> Callable[
    [Callable[[World, random.Random], AsyncIterator[None]]], Callable[..., AbstractAsyncContextManager[None]]
]:
    def note(
        body: Callable[[World, random.Random], AsyncIterator[None]],
    ) -> Callable[..., AbstractAsyncContextManager[None]]:
        made = asynccontextmanager(body)
        name = body.__name__
        FAULTS[name] = Fault(name, kind, made, at_once)
        return made

    return note


@asynccontextmanager
async def _again_and_again(work: Callable[[], object], rng: random.Random, longest_s: float) -> AsyncIterator[None]:
    async def go_on() -> None:
        while True:
            work()
            await asyncio.sleep(rng.uniform(0.05, longest_s))

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# -- the way to the database ----------------------------------------------------------------------------------------


@fault("way")
async def black_hole(world: World, rng: random.Random) -> AsyncIterator[None]:
    world.proxy.flowing.clear()
    try:
        yield
    finally:
        world.proxy.flowing.set()


@fault("way")
async def half_open(world: World, rng: random.Random) -> AsyncIterator[None]:
    """A firewall has forgotten our connections: nothing is answered on them, ever again."""
    world.proxy.swallowing = True
    try:
        yield
    finally:
        world.proxy.swallowing = False


@fault("way")
async def slow_way(world: World, rng: random.Random) -> AsyncIterator[None]:
    world.proxy.delay_s = rng.uniform(0.02, 1.0)
    try:
        yield
    finally:
        world.proxy.delay_s = 0.0


@fault("way")
async def cut(world: World, rng: random.Random) -> AsyncIterator[None]:
    """Connections end, again and again, whatever they are doing."""
    async with _again_and_again(world.proxy.abort, rng, 1.0):
        yield


@fault("way")
async def refused(world: World, rng: random.Random) -> AsyncIterator[None]:
    await world.proxy.close()
    try:
        yield
    finally:
        await world.proxy.open()


@fault("way")
async def commit_unanswered(world: World, rng: random.Random) -> AsyncIterator[None]:
    """The server stores a batch, and nobody ever hears of it."""

    def cut_next() -> None:
        world.proxy.cut_reply_to = COMMITS

    try:
        async with _again_and_again(cut_next, rng, 1.5):
            yield
    finally:
        world.proxy.cut_reply_to = ()


# -- the server -----------------------------------------------------------------------------------------------------


@fault("server")
async def crash(world: World, rng: random.Random) -> AsyncIterator[None]:
    await asyncio.to_thread(world.cluster.crash)
    try:
        yield
    finally:
        await asyncio.to_thread(world.cluster.start_again)


@fault("server")
async def crash_often(world: World, rng: random.Random) -> AsyncIterator[None]:
    enough = asyncio.Event()

    async def go_on() -> None:
        while not enough.is_set():  # not cancelled: its thread would go on, and start a second server
            await asyncio.to_thread(world.cluster.crash)
            await asyncio.sleep(rng.uniform(0, 0.3))
            await asyncio.to_thread(world.cluster.start_again)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), rng.uniform(0.2, 2.0))

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        enough.set()
        await task


@fault("server")
async def server_hangs(world: World, rng: random.Random) -> AsyncIterator[None]:
    with world.cluster.stopped():
        yield


# -- what the server says -------------------------------------------------------------------------------------------


@asynccontextmanager
async def _administered(world: World, before: tuple[str, ...], after: tuple[str, ...]) -> AsyncIterator[None]:
    await world.administer(*before)
    try:
        yield
    finally:
        await world.administer(*after)


@fault("role")
async def read_only(world: World, rng: random.Random) -> AsyncIterator[None]:
    """As after a failover that has left us at the demoted server."""
    async with _administered(
        world,
        (f"ALTER ROLE {ROLE} SET default_transaction_read_only = on",),
        (f"ALTER ROLE {ROLE} RESET default_transaction_read_only",),
    ):
        await world.hang_up()
        yield


@fault("role")
async def no_connection(world: World, rng: random.Random) -> AsyncIterator[None]:
    async with _administered(
        world, (f"ALTER ROLE {ROLE} CONNECTION LIMIT 0",), (f"ALTER ROLE {ROLE} CONNECTION LIMIT -1",)
    ):
        await world.hang_up()
        yield


@fault("role")
async def no_login(world: World, rng: random.Random) -> AsyncIterator[None]:
    async with _administered(world, (f"ALTER ROLE {ROLE} NOLOGIN",), (f"ALTER ROLE {ROLE} LOGIN",)):
        await world.hang_up()
        yield


@fault("role")
async def no_right(world: World, rng: random.Random) -> AsyncIterator[None]:
    async with _administered(world, (f"REVOKE INSERT ON {T} FROM {ROLE}",), (f"GRANT INSERT ON {T} TO {ROLE}",)):
        yield


# -- the table ------------------------------------------------------------------------------------------------------


@fault("table")
async def locked(world: World, rng: random.Random) -> AsyncIterator[None]:
    """As by a migration that takes long."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(world.admin, poolclass=NullPool)
    try:
        with contextlib.suppress(Exception):  # the server may fall meanwhile, and the lock with it
            async with engine.connect() as connection:
                await connection.execute(text(f"LOCK TABLE {T} IN ACCESS EXCLUSIVE MODE"))
                try:
                    yield
                finally:
                    with contextlib.suppress(Exception):
                        await connection.rollback()
                return
        yield
    finally:
        await engine.dispose()


@fault("table")
async def column_gone(world: World, rng: random.Random) -> AsyncIterator[None]:
    column, type_ = rng.choice([("ttft_ms", "integer"), ("node", "text"), ("streamed", "boolean")])
    async with _administered(
        world, (f"ALTER TABLE {T} DROP COLUMN {column}",), (f"ALTER TABLE {T} ADD COLUMN {column} {type_}",)
    ):
        yield


@fault("table")
async def column_demanded(world: World, rng: random.Random) -> AsyncIterator[None]:
    """The host's migration adds a column that we know nothing of and that must not be NULL."""
    async with _administered(
        world,
        (
            f"ALTER TABLE {T} ADD COLUMN IF NOT EXISTS wanted integer NOT NULL DEFAULT 0",
            f"ALTER TABLE {T} ALTER COLUMN wanted DROP DEFAULT",
        ),
        (f"ALTER TABLE {T} DROP COLUMN IF EXISTS wanted",),
    ):
        yield


@fault("table")
async def type_changed(world: World, rng: random.Random) -> AsyncIterator[None]:
    column, to, back = rng.choice(
        [("latency_ms", "bigint", "integer"), ("latency_ms", "text", "integer"), ("user_id", "varchar(200)", "text")]
    )
    async with _administered(
        world,
        (f"ALTER TABLE {T} ALTER COLUMN {column} TYPE {to} USING {column}::{to}",),
        (f"ALTER TABLE {T} ALTER COLUMN {column} TYPE {back} USING {column}::{back}",),
    ):
        yield


@fault("table")
async def renamed(world: World, rng: random.Random) -> AsyncIterator[None]:
    async with _administered(
        world, (f"ALTER TABLE {T} RENAME TO elsewhere",), (f"ALTER TABLE elsewhere RENAME TO {T}",)
    ):
        yield


@asynccontextmanager
async def _objecting(world: World, to: str, code: str) -> AsyncIterator[None]:
    """A trigger of the host's that refuses some rows."""
    body = f"IF {to} THEN RAISE EXCEPTION 'not today' USING ERRCODE = '{code}'; END IF; RETURN NEW;"
    async with _administered(
        world,
        (
            f"CREATE OR REPLACE FUNCTION objects() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$",
            f"CREATE OR REPLACE TRIGGER objects BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION objects()",
        ),
        ("DROP FUNCTION IF EXISTS objects() CASCADE",),  # and the trigger, whatever its table is called at the moment
    ):
        yield


@fault("trigger")
async def poison(world: World, rng: random.Random) -> AsyncIterator[None]:
    """A sixteenth of the rows is refused for what it is: by a trigger, with a code of any class."""
    world.poisoned = True
    digit, code = rng.choice("0123456789abcdef"), rng.choice(["P0001", "23514", "22023", "42501", "XX000", "21000"])
    async with _objecting(world, f"left(NEW.run_id::text, 1) = '{digit}'", code):
        yield


@fault("trigger")
async def refuses_all(world: World, rng: random.Random) -> AsyncIterator[None]:
    """Every row is refused, for no fault of its own."""
    code = rng.choice(["53100", "40P01", "57014", "P0001", "23514", "42501", "42703", "58030", "XX000"])
    world.poisoned = True
    async with _objecting(world, "true", code):
        yield


# -- the process ----------------------------------------------------------------------------------------------------


@fault("life", at_once=True)
async def kill_9(world: World, rng: random.Random) -> AsyncIterator[None]:
    await world.kill()
    yield
    world.begin_life()


@fault("life", at_once=True)
async def terminated(world: World, rng: random.Random) -> AsyncIterator[None]:
    await world.living()
    await world.terminate()
    yield
    world.begin_life()


@fault("life")
async def paused(world: World, rng: random.Random) -> AsyncIterator[None]:
    """As a virtual machine that is moved."""
    life = world.life
    assert life is not None
    life.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        life.signal(signal.SIGCONT)


@fault("life")
async def forked(world: World, rng: random.Random) -> AsyncIterator[None]:
    life = await world.living()
    for _ in range(rng.randint(1, 4)):
        how = rng.choice(["flush", "at once", "kill"])
        if how != "flush":
            world.killed.add(f"{life.name}, a child that leaves by {how}")
        status = await life.ask("fork", how, rng.randint(1, 5))
        if status != (signal.SIGKILL if how == "kill" else 0):
            world.notes.append(f"a child that was to leave by {how} left with {status}")
    yield


@fault("life", at_once=True)
async def loop_stopped(world: World, rng: random.Random) -> AsyncIterator[None]:
    await (await world.living()).ask("stop_loop")
    yield


@fault("life", at_once=True)
async def thread_killed(world: World, rng: random.Random) -> AsyncIterator[None]:
    await (await world.living()).ask("kill_thread")
    yield


# -- schedules ------------------------------------------------------------------------------------------------------


async def torment(
    world: World, rng: random.Random, seconds: float, names: list[str] | None, say: Callable[[str], None]
) -> None:
    """One to three faults at a time, of different kinds, until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0.5:
        count = rng.choice((1, 1, 2, 2, 3))
        drawn: dict[str, Fault] = {}
        for one in rng.sample(sorted(names or FAULTS), k=len(names or FAULTS)):
            drawn.setdefault(FAULTS[one].kind, FAULTS[one])
        # 0.2 to 20 s, mostly short
        struck = [(one, min(left, 0.2 * (100 ** rng.random())), rng.random()) for one in list(drawn.values())[:count]]
        say(" + ".join(f"{one.name} {lasting:.1f} s" for one, lasting, _ in struck))
        await asyncio.gather(*(strike(world, one, random.Random(own), lasting) for one, lasting, own in struck))
        await asyncio.sleep(rng.uniform(0, 1.0))


async def strike(world: World, one: Fault, rng: random.Random, seconds: float) -> None:
    """One fault, for so long."""
    async with one.during(world, rng):
        await asyncio.sleep(min(seconds, 2.0) if one.at_once else seconds)
