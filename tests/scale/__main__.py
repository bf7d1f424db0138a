"""`make scale`: applications, brokers, shippers and a database under a seeded schedule of faults, at any length.

    python -m tests.scale [--seed 1] [--minutes 2] [--hosts 3] [--processes 4] [--transport host] [--faults NAME ...]
    python -m tests.scale --preset host64
    python -m tests.scale --older DIR [--older-applications 1] [--older-shippers] [--newer-shippers 0] [--older-table]

`--older` is for rolling upgrades: another checkout, of an older version, with the tests of this one.

A seed draws the same faults in the same order each time. Says what happens, as it goes. Exit status 1 is a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from pathlib import Path

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.frames import post
from tests.kit.networks import Networks, networks
from tests.kit.rows import do
from tests.kit.standby import Pair, url_of
from tests.scale.faults import ACK_WAIT_S, FAULTS
from tests.scale.fleet import ROOT
from tests.scale.hosts import Host
from tests.scale.source import Applications, Frames, Source
from tests.scale.verdict import Verdict
from tests.scale.world import World

_PRESETS = {
    # 64 processes, one connection, the shipper killed with -9 twenty times
    "host64": {
        "transport": "host",
        "hosts": 1,
        "processes": 64,
        "pause_ms": 500.0,
        "faults": ["all shippers"],
        "count": 20,
        "connections": 1,
    }
}


_OF_0001 = (
    *(
        f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN {name}"
        for name in ("response_model", "response_id", "service_tier", "cache_write_tokens", "span_id", "cost_source")
    ),
    "UPDATE llmctx_alembic_version SET version_num = 'llmctx_0001'",
)


def main() -> int:
    verdict = asyncio.run(_rehearse(_asked()))
    print(verdict)
    for finding in verdict.findings:
        print(f"FOUND: {finding}")
    return 1 if verdict.findings else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults happen")
    parser.add_argument("--count", type=int, help="so many faults, however long they take")
    parser.add_argument("--transport", choices=("nats", "host", "none"), default="nats", help="how rows travel")
    parser.add_argument("--hosts", type=int, default=2, help="that applications run on")
    parser.add_argument("--processes", type=int, default=2, help="on each of them; 0: frames alone")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--pause-ms", type=float, default=20.0, help="between two calls of a process, or two frames")
    parser.add_argument("--connections", type=int, help="to the database: more than so many are a finding")
    parser.add_argument("--faults", nargs="*", choices=sorted(FAULTS), help="no others than these")
    parser.add_argument("--older", type=Path, metavar="DIR", help="a checkout of an older version")
    parser.add_argument("--older-applications", type=int, default=0, help="hosts whose applications are of that one")
    parser.add_argument("--older-shippers", type=int, default=0, help="hosts with shippers of that one")
    parser.add_argument("--newer-shippers", type=int, default=1, help="hosts with shippers of this one")
    parser.add_argument("--older-table", action="store_true", help="as revision 0001 made it")
    parser.add_argument("--preset", choices=sorted(_PRESETS), help="a run by name")
    asked = parser.parse_args()
    vars(asked).update(_PRESETS.get(asked.preset, {}))
    if not asked.processes and asked.transport != "nats":
        parser.error("frames alone need a broker")
    return asked


async def _rehearse(asked: argparse.Namespace) -> Verdict:
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)  # hosts outlive who made them
    net = networks()
    print(f"hosts are {net.kind}", flush=True)
    pair = Pair(net.database_hosts)
    cluster = _cluster(net) if asked.transport == "nats" else None
    try:
        await asyncio.to_thread(pair.start)
        if cluster is not None:
            await asyncio.to_thread(cluster.start)
        url = url_of(pair.places)
        await asyncio.to_thread(migrate.upgrade, load(database_url=url))
        if asked.older_table:
            await do(url, *_OF_0001)
        with contextlib.ExitStack() as until_end:
            one = await _world(asked, net, pair, cluster, url, until_end)
            try:
                return await _play(asked, one)
            finally:
                await one.stop()
    finally:
        await net.remove()
        pair.remove()
        if cluster is not None:
            cluster.remove()


def _cluster(net: Networks) -> Brokers:
    made = Brokers(3, hosts=net.broker_hosts)
    for one in made.all:  # nobody is told of a way around a proxy
        one.configure(one.configuration.replace("routes:", "no_advertise: true, routes:"))
    return made


async def _world(
    asked: argparse.Namespace,
    net: Networks,
    pair: Pair,
    cluster: Brokers | None,
    url: str,
    until_end: contextlib.ExitStack,
) -> World:
    """Make the hosts, and let rows flow."""
    draw = random.Random(asked.seed)
    servers = [] if cluster is None else [one.url for one in cluster.all]
    query = f"?streams={asked.streams}"
    transport = None if cluster is None else f"{cluster.url}{query}"
    book = pair.home / "book"
    hosts = []
    shipping = (asked.newer_shippers + asked.older_shippers) * (cluster is not None)
    for number in range(asked.hosts + shipping if asked.processes else shipping):
        link = await net.host(servers, pair.places)
        host = Host(f"h{number}", {"LLMCTX_DATABASE_URL": url_of(link.databases)}, link)
        if transport is not None:
            host.environment["LLMCTX_TRANSPORT"] = ",".join(link.brokers) + query
        if asked.transport == "host":
            host.environment["LLMCTX_WRITER"] = "ship"
        host.equip(pair.home / host.name, until_end)
        hosts.append(host)
    for name, why in hosts[0].wants.items():
        print(f"{name}: left out, {why}", flush=True)
    if transport is not None:
        async with post(load(database_url=url, transport=transport), ack_wait_s=ACK_WAIT_S):
            pass
    whose = ("host",) if asked.transport == "host" else ()
    for number, host in enumerate(hosts[-shipping:] if cluster is not None else hosts if whose else []):
        root = asked.older if number < asked.older_shippers else ROOT
        host.ships = host.run("tests.scale.ships", *whose, draw=draw, until_end=until_end, root=root)
        host.ships.begin()
    source: Source
    if asked.processes:
        for number, host in enumerate(hosts[: asked.hosts]):
            arguments = (str(book), str(asked.pause_ms / 1000), host.name, str(asked.seed))
            root = asked.older if number < asked.older_applications else ROOT
            host.applications = host.run(
                "tests.scale.applications", *arguments, draw=draw, until_end=until_end, root=root
            )
        fleets = [host.applications for host in hosts if host.applications is not None]
        source = Applications(fleets, book, asked.processes, draw)
    else:
        settings = load(database_url=url, transport=transport)
        source = Frames(settings, random.Random(asked.seed), pause_s=asked.pause_ms / 1000, rows=20)
    made = World(url, transport, cluster, hosts, source, draw, book=book if asked.processes else None)
    made.pair = pair
    made.crash_database = lambda: asyncio.to_thread(pair.crash)
    return made


async def _play(asked: argparse.Namespace, one: World) -> Verdict:
    await one.progress()
    until = time.monotonic() + asked.minutes * 60
    names = sorted(set(asked.faults or FAULTS) & set(one.possible))
    while one.faults.total() < asked.count if asked.count else time.monotonic() < until:
        name = one.draw.choice(names)
        begun = time.monotonic()
        await one.suffer(name)
        rows = await one.stored()
        held = await one.count_connections(asked.connections)
        passed = time.monotonic() - begun
        print(f"{name}: again {passed:.1f} s later, {rows:,} rows are stored over {held} connections", flush=True)
    verdict = await one.judge()
    verdict.most_connections = asked.connections
    return verdict


if __name__ == "__main__":
    sys.exit(main())
