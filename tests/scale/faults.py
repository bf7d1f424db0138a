"""What can happen to the parts of a `World`, by name."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmctx.settings import load
from tests.kit.frames import post
from tests.kit.networks import FARS, Far

if TYPE_CHECKING:
    from tests.scale.hosts import Host
    from tests.scale.world import World

ACK_WAIT_S: Final = 2.0
_LONG_S: Final = (2.0, 12.0)
"""How long a network is slow or split: longer than the deadline of a publish, or of a statement, or not."""
_FULL_S: Final = (1.0, 5.0)
_JOURNAL_AGAIN_S: Final = 10.0
"""Within which an application begins a journal again, when its disk has room: until then its rows are in memory."""
_STEPS_S: Final = (-7200, -60, -1, 1, 60, 7200)


async def kill_shippers(world: World) -> None:
    """All of them; others begin."""
    for ships in world.ships:
        count = len(ships.pids)
        ships.kill(count)
        ships.begin(count)


async def kill_one_shipper(world: World) -> None:
    """As many go on."""
    ships = world.draw.choice(world.ships)
    ships.kill()
    ships.begin()


async def scale_out(world: World) -> None:
    """Four shippers."""
    for ships in world.ships:
        ships.begin(max(0, 4 - len(ships.pids)))


async def scale_in(world: World) -> None:
    """One of them is left."""
    for ships in world.ships:
        ships.kill(len(ships.pids) - 1)


async def scale_out_and_in(world: World) -> None:
    """From one to four, and back to one while they work."""
    await scale_in(world)
    await scale_out(world)
    await world.progress()
    await scale_in(world)


async def kill_application(world: World) -> None:
    """In the middle of a call; its host has others, and another one begins."""
    world.source.kill()


async def kill_leader(world: World) -> None:
    """The server that leads a stream, and serves some of the connections."""
    leader = await asyncio.to_thread(world.cluster.leader, "LLMCTX_CALLS_0")
    leader.kill()
    await world.progress(20)
    await asyncio.to_thread(leader.start)


async def freeze_leader(world: World) -> None:
    """It neither answers nor hangs up."""
    leader = await asyncio.to_thread(world.cluster.leader, "LLMCTX_CALLS_0")
    leader.send(signal.SIGSTOP)
    try:
        await world.progress(20)
    finally:
        leader.send(signal.SIGCONT)


async def kill_brokers(world: World) -> None:
    """All of them at once."""
    world.cluster.kill()
    await asyncio.to_thread(world.cluster.start)


async def wipe_brokers(world: World) -> None:
    """All of them, with all that they have kept: the streams are made anew, and journals send their rows again."""
    world.cluster.kill()
    world.cluster.wipe()
    await asyncio.to_thread(world.cluster.start)
    async with post(load(transport=world.transport), ack_wait_s=ACK_WAIT_S):
        world.source.again()


async def crash(world: World) -> None:
    """The database, which is back at once."""
    await world.crash_database()


async def fail_over(world: World) -> None:
    """The primary dies for good; its standby takes over, and gets one of its own when rows are stored again."""
    assert world.pair is not None
    await asyncio.to_thread(world.pair.fail_over)
    await world.progress()
    await asyncio.to_thread(world.pair.rejoin)


async def fill_disk(world: World) -> None:
    """That of a host's journals: rows wait in memory, until it has room again."""
    host = world.draw.choice([host for host in world.hosts if host.disk])
    assert host.disk is not None
    host.disk.fill()
    await asyncio.sleep(world.draw.uniform(*_FULL_S))
    host.disk.free()
    await asyncio.sleep(_JOURNAL_AGAIN_S)
    await world.settled()  # what only memory had: a process that is killed sooner takes that with it


async def step_clock(world: World) -> None:
    """The wall clock of a host, forth or back; it stays there."""
    host = world.draw.choice([host for host in world.hosts if host.clock])
    assert host.clock is not None
    host.clock.set(world.draw.choice(_STEPS_S))


def _somewhere(world: World) -> tuple[Host, Far]:
    """Draw a host, and one of what it talks to."""
    host = world.draw.choice([host for host in world.hosts if host.link])
    talks = {"brokers": world.brokers is not None, "database": host.ships is not None or world.brokers is None}
    return host, world.draw.choice([far for far in FARS if talks[far]])


async def slow_network(world: World) -> None:
    """Between a host and the brokers, or the database."""
    host, far = _somewhere(world)
    assert host.link is not None
    await host.link.slow(far)
    await asyncio.sleep(world.draw.uniform(*_LONG_S))
    await host.link.heal()


async def split_network(world: World) -> None:
    """No byte goes from a host to the brokers, or to the database, or back; no connection is told."""
    host, far = _somewhere(world)
    assert host.link is not None
    await host.link.split(far)
    await asyncio.sleep(world.draw.uniform(*_LONG_S))
    await host.link.heal()


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, and what the world must have for it."""

    happen: Callable[[World], Awaitable[None]]
    needs: str = ""


FAULTS: Final[dict[str, Fault]] = {
    "application": Fault(kill_application, "applications"),
    "one shipper": Fault(kill_one_shipper, "shippers"),
    "all shippers": Fault(kill_shippers, "shippers"),
    "four shippers": Fault(scale_out, "shippers"),
    "one is left": Fault(scale_in, "shippers"),
    "one, four, one": Fault(scale_out_and_in, "shippers"),
    "leader": Fault(kill_leader, "brokers"),
    "leader frozen": Fault(freeze_leader, "brokers"),
    "brokers": Fault(kill_brokers, "brokers"),
    "brokers wiped": Fault(wipe_brokers, "brokers"),
    "database": Fault(crash),
    "failover": Fault(fail_over, "standby"),
    "disk full": Fault(fill_disk, "disks"),
    "clock step": Fault(step_clock, "clocks"),
    "network slow": Fault(slow_network, "links"),
    "network split": Fault(split_network, "links"),
}
