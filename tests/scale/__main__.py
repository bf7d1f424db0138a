"""`make scale`: applications, brokers, shippers and a database under a seeded schedule of faults, at any length.

    python -m tests.scale [--seed 1] [--minutes 2] [--streams 4] [--applications 4] [--faults NAME ...]

A seed draws the same faults in the same order each time. Says what happens, as it goes. Exit status 1 is a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time

from llmctx.cli.demo.postgres import make_directory
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.brokers import Brokers, brokers
from tests.kit.cluster import Cluster
from tests.scale.world import FAULTS, Verdict, world


def main() -> int:
    asked = _asked()
    database = Cluster(make_directory())
    try:
        database.start()
        migrate.upgrade(load(database_url=database.url))
        os.environ["LLMCTX_JOURNAL_DIR"] = str(database.home / "journals")
        with brokers(3) as three:
            verdict = asyncio.run(_play(asked, database, three))
    finally:
        database.remove()
    print(verdict)
    for finding in verdict.findings:
        print(f"FOUND: {finding}")
    return 1 if verdict.findings else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults happen")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--applications", type=int, default=4, help="processes that record calls; 0: frames alone")
    parser.add_argument("--pause-ms", type=float, default=20.0, help="between two calls, or two frames")
    parser.add_argument("--faults", nargs="*", choices=sorted(FAULTS), help="no others than these")
    return parser.parse_args()


async def _play(asked: argparse.Namespace, database: Cluster, three: Brokers) -> Verdict:
    draw = random.Random(asked.seed)
    until = time.monotonic() + asked.minutes * 60
    flow = {"streams": asked.streams, "pause_s": asked.pause_ms / 1000, "applications": asked.applications}
    book = database.home / "book"
    async with world(database.url, three, random.Random(asked.seed), **flow, book=book) as one:

        async def crash() -> None:
            await asyncio.to_thread(database.crash)
            await asyncio.to_thread(database.start_again)

        one.crash_database = crash
        await one.progress()
        while time.monotonic() < until:
            name = draw.choice(sorted(asked.faults or FAULTS))
            begun = time.monotonic()
            await one.suffer(name)
            rows = await one.stored()
            print(f"{name}: again {time.monotonic() - begun:.1f} s later, {rows:,} rows are stored", flush=True)
        return await one.judge()


if __name__ == "__main__":
    sys.exit(main())
