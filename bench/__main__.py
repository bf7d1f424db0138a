"""`make bench`: every bar of the design that is a figure, each a ratio of things measured side by side in one run.

    python -m bench [--json] [calls streams nodes rows lag server memory startup]

Needs an idle machine: on a busy one the absolute times are noise, and so, in part, are the ratios. Ten minutes of
outage are one of the faults: `make faults`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench import calls, lag, memory, nodes, rows, server, startup, streams
from llmctx.cli.demo.postgres import make_directory
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.cluster import Cluster

PACKAGES: Final = ("llmctx", "langchain-core", "langgraph", "SQLAlchemy", "asyncpg")
OUT: Final = Path(__file__).resolve().parent.parent / "bench.json"
PARTS: Final[dict[str, Callable[[Cluster], dict[str, Any]]]] = {
    "calls": lambda database: calls.run(database.url),
    "streams": lambda database: streams.run(database.url),
    "nodes": lambda database: nodes.run(),
    "rows": lambda database: rows.run(database.url),
    "lag": lag.run,
    "server": lambda database: server.run(database.url),
    "memory": lambda database: memory.run(),
    "startup": lambda database: startup.run(),
}

Line = tuple[str, str, str, bool | None]
"""What, how much, the bar, and whether it is met."""


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        **{name: version(name) for name in PACKAGES},
    }


def _calls(found: dict[str, Any]) -> Iterator[Line]:
    for way in calls.WAYS:
        one = found[way]
        wall, cpu = one["added_us"], one["added_cpu_us"]
        met = 0 < one["times_deque"] <= 1.5
        much = f"{wall['llmctx']:.0f} µs, noting {wall['noting']:.0f}, deque {wall['deque']:.0f}"
        yield f"added to a call, {way}", much, "1.5 x", met
        yield (
            "  CPU of all threads, until in PostgreSQL",
            f"{cpu['llmctx']:.0f} µs, deque {cpu['deque']:.0f}",
            "250 µs",
            cpu["llmctx"] <= 250,
        )


def _streams(found: dict[str, Any]) -> Iterator[Line]:
    token, large = found["token_us"], found["megabyte_us"]["llmctx"]
    times = found["token_times_deque"]
    yield "added to a streamed token", f"{token['llmctx']:.1f} µs, deque {token['deque']:.1f}", "1.2 x", times <= 1.2
    yield "a prompt of 1 MB, on the caller's thread", f"{large:.0f} µs", "100 µs", large <= 100


def _nodes(found: dict[str, Any]) -> Iterator[Line]:
    yield (
        "wrapping a node",
        f"{found['wrapping_us']:.1f} µs of {found['node_us']:.0f}",
        "15 µs",
        found["wrapping_us"] <= 15,
    )
    yield "deciding whose a call is", f"{found['deciding_us']:.1f} µs", "", None


def _rows(found: dict[str, Any]) -> Iterator[Line]:
    share, cpu = found["share_of_copy"], found["cpu_us_a_row"]
    yield "writer, of a bare COPY", f"{share:.0%}, {found['writer_rows_per_s']:.0f} rows/s", "85 %", share >= 0.85
    yield "  CPU of the client", f"{cpu:.0f} µs a row", "25 µs", cpu <= 25


def _lag(found: dict[str, Any]) -> Iterator[Line]:
    for rate in lag.RATES:
        states = found[str(rate)]
        none = states["none"]["p99_ms"]
        yield f"event loop at {rate} calls/s, p99, no recorder", f"{none:.2f} ms", "", None
        yield "  a handler with a deque", f"{states['deque']['p99_ms'] - none:+.2f} ms", "", None
        for state in ("up", "away", "silent", "stopped"):
            added = states[state]["p99_ms"] - none
            made = states[state]["calls_per_s"]
            yield f"  llmctx, database {state}", f"{added:+.2f} ms at {made:.0f}/s", "+1 ms", added <= 1


def _server(found: dict[str, Any]) -> Iterator[Line]:
    yield (
        "requests of a uvicorn",
        f"{found['with']:.0f}/s, {found['without']:.0f} without: {found['share']:.0%}",
        "",
        None,
    )


def _memory(found: dict[str, Any]) -> Iterator[Line]:
    grown, cap = found["grown_mib"], found["cap_mib"]
    what = f"memory, {found['calls']} calls, no database"
    much = f"{grown:+.0f} MiB, deque {found['deque_mib']:+.0f}"
    yield what, much, f"{cap} + 20 %", grown - found["deque_mib"] <= 1.2 * cap and not found["dropped"]


def _startup(found: dict[str, Any]) -> Iterator[Line]:
    others = ", ".join(found["third_party"]) or "nothing third-party"
    fine = found["import_ms"] < 30 and not found["third_party"]
    yield "import llmctx", f"{found['import_ms']:.0f} ms, {others}", "30 ms", fine
    yield "exit while the database is silent", f"{found['exit_s']:.1f} s", "5 s", found["exit_s"] <= 5.5


_TABLES: Final[dict[str, Callable[[dict[str, Any]], Iterator[Line]]]] = {
    "calls": _calls,
    "streams": _streams,
    "nodes": _nodes,
    "rows": _rows,
    "lag": _lag,
    "server": _server,
    "memory": _memory,
    "startup": _startup,
}


def table(result: dict[str, Any]) -> str:
    at = result["machine"]
    lines = [
        f"{at['cores']} cores, load {at['load']:.1f} at the start, Python {at['python']}",
        ", ".join(f"{name} {at[name]}" for name in PACKAGES),
        "",
    ]
    for part in PARTS:
        if part in result:
            for what, much, bar, met in _TABLES[part](result[part]):
                verdict = "" if met is None else "met" if met else "MISSED"
                lines.append(f"{what:46} {much:>30}  {bar:>7} {verdict}".rstrip())
    return "\n".join(lines)


def main() -> int:
    wanted = [part for part in PARTS if part in sys.argv[1:]] or list(PARTS)
    print("some ten minutes for all, on an idle machine ...", file=sys.stderr)
    result: dict[str, Any] = {"machine": machine()}
    database = Cluster(make_directory())
    try:
        database.start()
        migrate.upgrade(load(database_url=database.url))
        for part in wanted:
            print(f"  {part} ...", file=sys.stderr)
            result[part] = PARTS[part](database)
    finally:
        database.remove()
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result) if "--json" in sys.argv[1:] else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
