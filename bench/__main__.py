"""`make bench`: the first table. Every figure is a ratio of two things measured side by side in one run.

    python -m bench [--json]

Needs an idle machine: on a busy one the absolute times are noise, and so, in part, are the ratios.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import calls, nodes, rows
from llmctx import migrate
from llmctx.demo.processes import Child, clean_environment
from llmctx.settings import load

PACKAGES = ("llmctx", "langchain-core", "langgraph", "SQLAlchemy", "asyncpg")
OUT = Path(__file__).resolve().parent.parent / "bench.json"


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        **{name: version(name) for name in PACKAGES},
    }


def table(result: dict[str, Any]) -> str:
    call, row, node = result["calls"], result["rows"], result["nodes"]
    added = call["added_us"]
    return "\n".join(
        [
            f"{result['machine']['cores']} cores, load {result['machine']['load']:.1f} at the start",
            ", ".join(f"{name} {result['machine'][name]}" for name in PACKAGES),
            "",
            f"added to a call (sequential ainvoke, median of {call['rounds']} rounds of {call['calls_a_round']} calls)",
            f"  an empty handler           {added['empty']:8.1f} µs",
            f"  a handler with a deque     {added['deque']:8.1f} µs",
            f"  llmctx, into PostgreSQL    {added['llmctx']:8.1f} µs   {call['times_deque']:.2f} x deque",
            "",
            f"identity (CPU of the caller's thread, median of {node['rounds']} rounds)",
            f"  wrapping a node            {node['wrapping_us']:8.1f} µs   LangGraph's own: {node['node_us']:.0f} µs",
            f"  deciding whose a call is   {node['deciding_us']:8.1f} µs",
            "",
            f"rows of 3 kB into PostgreSQL (median of {row['rounds']} rounds of {row['rows_a_round']} rows)",
            f"  bare asyncpg COPY          {row['copy_rows_per_s']:8.0f} rows/s",
            f"  llmctx writer              {row['writer_rows_per_s']:8.0f} rows/s   {row['share_of_copy']:.0%} of COPY",
            f"  CPU of the writer          {row['cpu_us_a_row']:8.0f} µs a row",
        ]
    )


def main() -> int:
    print("a few minutes, on an idle machine ...", file=sys.stderr)
    postgres = Child("PostgreSQL", "llmctx.demo.postgres", log=None, env=clean_environment())
    try:
        said = postgres.says(60)
        if said["problem"]:
            print(f"PostgreSQL cannot be started here: {said['problem']}", file=sys.stderr)
            return 1
        url = said["url"]
        migrate.upgrade(load(database_url=url))
        result = {"machine": machine(), "nodes": nodes.run(), "calls": calls.run(url), "rows": rows.run(url)}
    finally:
        postgres.end(60, tidies=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result) if "--json" in sys.argv[1:] else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
