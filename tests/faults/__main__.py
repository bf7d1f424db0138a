"""`make faults`: everything that llmctx promises to survive, for as long as one likes.

    python -m tests.faults [--seeds 50] [--seconds 60] [--only NAME ...]

Prints what is done and what came of it. Exit status 1 is a finding: the seed brings it back.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from llmctx.demo.postgres import make_directory
from tests.faults.cluster import Cluster
from tests.faults.nemesis import FAULTS
from tests.faults.seeds import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each seed")
    parser.add_argument("--faults", nargs="*", choices=sorted(FAULTS), help="no others than these")
    asked = parser.parse_args()
    cluster = Cluster(make_directory())
    findings = 0
    try:
        cluster.start()
        for seed in range(asked.first, asked.first + asked.seeds):
            began = time.monotonic()
            found = asyncio.run(run_seed(cluster, seed, asked.seconds, asked.faults))
            verdict = found.verdict
            print(f"seed {seed}: {'; '.join(found.done)}")
            print(
                f"  {verdict.began} calls, {verdict.rows} rows {dict(verdict.statuses)}, fresh {verdict.fresh_s:.1f} s,"
                f" drained {verdict.drained_s:.1f} s, {time.monotonic() - began:.0f} s in all",
                flush=True,
            )
            for line in verdict.findings:
                findings += 1
                print(f"  FOUND {line}"[:1000], flush=True)
    finally:
        cluster.remove()
    print(f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
