"""`make faults`: everything that llmctx promises to survive, for as long as one likes.

    python -m tests.faults [--seeds 20] [--seconds 60] [--first 1] [--kills 200] [--outage-minutes 10]
    [--outage-calls 500] [--only PART ...]

Says what is done and what came of it, as it goes. Exit status 1 is a finding. A seed draws the same faults each time:
`--first N --seeds 1` brings it back; `--faults NAME ...` lets only these be drawn. `--only lines` is a failure at every
single line of llmctx that an application runs, and of every function (some forty minutes); `make test` takes a sample.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from llmctx.cli.demo.postgres import make_directory
from tests.faults import databases, scenarios, surroundings
from tests.faults.innocent import APPLICATIONS
from tests.faults.judge import Verdict
from tests.faults.nemesis import FAULTS
from tests.faults.seeds import tormented
from tests.faults.world import World, world
from tests.kit.cluster import Cluster

_MIB = 1024 * 1024
PARTS = ("seeds", "kills", "kills at commit", "forks", "servers", "surroundings", "databases", "outage", "lines")
Play = Callable[[World], Awaitable[Verdict]]
_SETTINGS: list[dict[str, Any]] = [{}, {}, {"durability": "fsync"}, {"memory_bytes": _MIB}, {"batch_rows": 7}]
"""Of the seeds, in turn."""


def main() -> int:
    asked = _asked()
    cluster = Cluster(make_directory())
    findings = 0
    try:
        cluster.start()
        for name, seed, settings, play in _plays(asked):
            print(f"{name} ...", flush=True)
            findings += asyncio.run(_played(cluster, name, seed, settings, play))
    finally:
        cluster.remove()
    if "lines" in asked.only:
        findings += _every_line()
    print(f"{findings} findings" if findings else "nothing missing, nothing double, nothing wrong, nobody harmed")
    return 1 if findings else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many schedules")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each seed")
    parser.add_argument("--faults", nargs="*", choices=sorted(FAULTS), help="no others than these")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--forks", type=int, default=200)
    parser.add_argument("--outage-minutes", type=float, default=10.0)
    parser.add_argument("--outage-calls", type=int, default=500, help="a second")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--named", default="", help="only what has this in its name, as it is printed")
    return parser.parse_args()


def _plays(asked: argparse.Namespace) -> list[tuple[str, int, dict[str, Any], Play]]:
    """What is to be done: name, seed, settings, and how."""
    plays: list[tuple[str, str, int, dict[str, Any], Play]] = []
    for seed in range(asked.first, asked.first + asked.seeds):
        play = partial(tormented, seconds=asked.seconds, names=asked.faults, say=_say)
        plays.append(("seeds", f"seed {seed}", seed, _SETTINGS[seed % len(_SETTINGS)], play))
    kills = partial(scenarios.kills, count=asked.kills, say=_say)
    plays.append(("kills", f"{asked.kills} x kill -9", asked.first, {}, kills))
    at_commit = partial(scenarios.kills_at_commit, count=max(1, asked.kills // 5))
    plays.append(("kills at commit", "kill -9 right after a commit", asked.first, {}, at_commit))
    plays.append(
        ("forks", f"{asked.forks} forks", asked.first, {}, partial(scenarios.forks, count=asked.forks, say=_say))
    )
    plays.append(("forks", "no descriptors", asked.first, {}, scenarios.no_descriptors))
    commands = {
        "uvicorn": scenarios.UVICORN,
        "uvicorn with workers": scenarios.UVICORN_WORKERS,
        "gunicorn": scenarios.GUNICORN,
    }
    for server, command in commands.items():
        for how in ("idle", "busy", "endless"):
            leaves = partial(scenarios.leaves, command=command, how=how)
            plays.append(("servers", f"SIGTERM for {server}, {how}", asked.first, {}, leaves))
        hole = partial(scenarios.leaves, command=command, how="busy", black_hole=True)
        plays.append(("servers", f"SIGTERM for {server}, busy, the database a black hole", asked.first, {}, hole))
    for how in ("idle", "busy"):
        preloaded = partial(scenarios.leaves, command=scenarios.GUNICORN_PRELOADS, how=how, started="at import")
        plays.append(("servers", f"SIGTERM for gunicorn with --preload, {how}", asked.first, {}, preloaded))
    for server, command in {"uvicorn": scenarios.UVICORN_RECYCLES, "gunicorn": scenarios.GUNICORN_RECYCLES}.items():
        recycled = partial(scenarios.recycled, command=command)
        plays.append(("servers", f"workers of {server} that leave after some requests", asked.first, {}, recycled))
    plays.append(("servers", "uvicorn with --reload", asked.first, {}, scenarios.reloaded))
    impatient = partial(scenarios.leaves, command=scenarios.UVICORN_IMPATIENT, how="endless")
    plays.append(("servers", "SIGTERM for uvicorn with a limit to its patience, endless", asked.first, {}, impatient))
    plays.append(("servers", "gunicorn loses patience with a worker: SIGABRT", asked.first, {}, scenarios.aborted))
    for name, play in {
        "a full disk": surroundings.disk_full,
        "the journal removed": surroundings.journal_removed,
        "the journal out of reach": surroundings.journal_out_of_reach,
        "stopped for a minute": surroundings.stopped_for_long,
        "a clock that jumps": surroundings.clock_jumps,
    }.items():
        plays.append(("surroundings", name, asked.first, {}, play))
    of_others: dict[str, Play] = {
        "the table dropped": databases.table_dropped,
        "limits of the role": databases.limits_of_the_role,
        "no connection left": databases.no_connection_left,
    }
    for mode in ("session", "transaction", "statement") if shutil.which("pgbouncer") else ():
        of_others[f"pgbouncer in {mode} mode"] = partial(databases.pooled, mode=mode)
    plays += [("databases", name, asked.first, {}, play) for name, play in of_others.items()]
    outage = partial(
        scenarios.outage,
        minutes=asked.outage_minutes,
        calls_per_s=asked.outage_calls,
        size=20_000,
        cap_bytes=64 * _MIB,
        say=_say,
    )
    plays.append(
        (
            "outage",
            f"{asked.outage_minutes:g} minutes of outage, {asked.outage_calls} calls/s of 20 kB",
            asked.first,
            {},
            outage,
        )
    )
    wanted = [play for play in plays if play[0] in asked.only and asked.named in play[1]]
    return [(name, seed, settings, play) for _, name, seed, settings, play in wanted]


def _every_line() -> int:
    """Prints each difference as it is found. Returns the number of tests that found some."""
    print("a failure at every line ...", flush=True)
    findings = 0
    for application in APPLICATIONS:
        which = ["tests/promises/test_harmless.py", "--every-line", "-qs", "-k", f"[{application.__name__}]"]
        failed = subprocess.run([sys.executable, "-m", "pytest", *which], check=False).returncode != 0
        print(f"  {'FOUND' if failed else 'ok':6} every line of {application.__name__}", flush=True)
        findings += failed
    return findings


def _say(line: str) -> None:
    print(f"    {line}", flush=True)


async def _played(cluster: Cluster, name: str, seed: int, settings: dict[str, Any], play: Play) -> int:
    """One play, from its world to its verdict. Returns the number of findings."""
    began = time.monotonic()
    try:
        async with world(cluster, seed, **settings) as one:
            verdict = await play(one)
    except Exception as problem:  # a server never comes up, say: the others are still to be seen
        print(f"  FOUND  {name}: {problem!r}"[:3000], flush=True)
        await asyncio.to_thread(cluster.revive)
        return 1
    statuses = ", ".join(f"{count} {status}" for status, count in verdict.statuses.most_common())
    left = f", gone in {verdict.left_s:.1f} s" if verdict.left_s else ""
    print(
        f"  {'FOUND' if verdict.findings else 'ok':6} {name}: {verdict.began} calls, {verdict.rows} rows ({statuses});"
        f" drained in {verdict.drained_s:.1f} s, a fresh call in {verdict.fresh_s:.1f} s{left};"
        f" {time.monotonic() - began:.0f} s in all",
        flush=True,
    )
    for line in verdict.findings:
        _say(line[:1000])
    return len(verdict.findings)


if __name__ == "__main__":
    sys.exit(main())
