"""`make bench`: every bar of the design that is a figure, each a ratio of things measured side by side in one run.

    python -m bench [--json] [calls streams nodes rows publish ship lag server memory fleet startup texts peers]

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

from bench import calls, fleet, lag, memory, nodes, peers, publish, rows, server, ship, startup, streams, texts
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
    "publish": lambda database: publish.run(database.url),
    "ship": lambda database: ship.run(database.url),
    "lag": lag.run,
    "server": lambda database: server.run(database.url),
    "memory": lambda database: memory.run(),
    "fleet": fleet.run,
    "startup": lambda database: startup.run(),
    "texts": texts.run,
    "peers": lambda database: peers.run(database.url),
}
_ASKED_FOR: Final = ("texts", "peers")  # not measured unless they are named

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
    for way, one in found.items():
        yield from _beside_deque(f"added to a call, {way}", one, 4.0 if way == calls.WAYS[0] else None)


def _streams(found: dict[str, Any]) -> Iterator[Line]:
    large = found["megabyte_us"]
    yield from _beside_deque("added to a stream of 500 tokens", found, 1.3)
    yield "a prompt of 1 MB, on the caller's thread", f"{large:.0f} µs", "100 µs", large <= 100


def _beside_deque(what: str, found: dict[str, Any], bar: float | None) -> Iterator[Line]:
    ours, deque, times = found["recorders"]["llmctx"], found["recorders"]["deque"], found["times_deque"]
    bar_shown = "" if bar is None else f"{bar} x"
    is_noise = deque["wall_deviation_us"] > deque["wall_us"] / 2  # a ratio to that says nothing
    shown = "within its noise" if is_noise else f"{times:.1f} x"
    much = f"{ours['wall_us']:.0f} µs, deque {deque['wall_us']:.0f} ± {deque['wall_deviation_us']:.0f}: {shown}"
    yield what, much, bar_shown, None if bar is None or is_noise else times <= bar
    is_first = bar == 4.0
    much = f"{ours['cpu_us']:.0f} µs, deque {deque['cpu_us']:.0f}"
    bar_shown = "250 µs" if is_first else ""
    yield "  CPU of all threads, until in PostgreSQL", much, bar_shown, ours["cpu_us"] <= 250 if is_first else None
    yield "  in PostgreSQL", f"{ours['delivered']:.0%}", "100 %", ours["delivered"] == 1.0


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


def _publish(found: dict[str, Any]) -> Iterator[Line]:
    cpu, share = found["cpu_us_a_row"], found["share_of_direct"]
    yield "published to a broker, CPU of the client", f"{cpu['publish']:.1f} µs a row", "10 µs", cpu["publish"] <= 10
    yield "  beside the direct writer", f"{cpu['direct']:.1f} µs a row: {share:.0%}", "", None


def _ship(found: dict[str, Any]) -> Iterator[Line]:
    ways, beside = found["ways"], found["ship_beside"]
    for way, what in (("direct", "a row from its record to PostgreSQL"), ("batcher", "  without a journal")):
        yield what, f"{ways[way]['cpu_us_a_row']:.0f} µs, {ways[way]['rows_per_s']:.0f} rows/s", "", None
    cpu = ways["publish"]["cpu_us_a_row"]
    yield "  to a broker", f"{cpu:.1f} µs", "10 µs", cpu <= 10
    yield "llmctx ship, CPU", f"{ways['ship']['cpu_us_a_row']:.0f} µs a row", "", None
    for way, what in (("direct", "the pipeline"), ("batcher", "that without a journal")):
        cpu, rate = beside[way]["cpu"], beside[way]["rows_per_s"]
        is_bar = way == "direct"
        yield f"  of {what}: CPU", f"{cpu:.2f} x", "1.3 x" if is_bar else "", cpu <= 1.3 if is_bar else None
        yield f"  of {what}: rows/s", f"{rate:.0%}", "85 %" if is_bar else "", rate >= 0.85 if is_bar else None


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


def _fleet(found: dict[str, Any]) -> Iterator[Line]:
    for who, bar in (("server", 4), ("client", 3)):
        times, few = found[f"{who}_times_full"], found["few"][f"{who}_us"]
        much = f"{few:.0f} µs a row, {times:.1f} x full batches"
        yield f"{fleet.PROCESSES} processes, 10 calls/s each: CPU of the {who}", much, f"{bar} x", times <= bar
    crowded = found["crowded"]
    much = f"{crowded['refused']} of {crowded['tried']}, {crowded['stored']} rows of 180"
    met = not crowded["refused"] and crowded["stored"] == 180
    yield f"30 processes, {fleet.FEW} connections: refused to the application", much, "0", met
    yield "  held when idle", str(crowded["held_when_idle"]), "3", crowded["held_when_idle"] <= 3


def _startup(found: dict[str, Any]) -> Iterator[Line]:
    others = ", ".join(found["third_party"]) or "nothing third-party"
    fine = found["import_ms"] < 30 and not found["third_party"]
    yield "import llmctx", f"{found['import_ms']:.0f} ms, {others}", "30 ms", fine
    yield "exit while the database is silent", f"{found['exit_s']:.1f} s", "5 s", found["exit_s"] <= 5.5


def _texts(found: dict[str, Any]) -> Iterator[Line]:
    for name, where in (("whole", "in the rows"), ("apart", "apart")):
        one = found[name]
        much = f"{one['client_us_a_row']:.0f} + {one['server_us_a_row']:.0f} µs, {one['wal_bytes_a_row']:.0f} B of WAL"
        yield f"texts {where}: to store a row, client + server", much, "", None
        much = f"{one['retain_server_us_a_row']:.1f} µs, {one['retain_wal_bytes_a_row']:.0f} B of WAL"
        yield f"  to end the texts of {found['rows']:,} rows: {one['retain_s']:.1f} s, a row", much, "", None


def _peers(found: dict[str, Any]) -> Iterator[Line]:
    for workload, one in found.items():
        for name, added in one["recorders"].items():
            arrived = "" if added["delivered"] is None else f", {added['delivered']:.0%} arrived"
            yield f"{workload}, {name}", f"{added['wall_us']:.0f} µs, CPU {added['cpu_us']:.0f}{arrived}", "", None


_TABLES: Final[dict[str, Callable[[dict[str, Any]], Iterator[Line]]]] = {
    "calls": _calls,
    "streams": _streams,
    "nodes": _nodes,
    "rows": _rows,
    "publish": _publish,
    "ship": _ship,
    "lag": _lag,
    "server": _server,
    "memory": _memory,
    "fleet": _fleet,
    "startup": _startup,
    "texts": _texts,
    "peers": _peers,
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
                lines.append(f"{what:46} {much:>38}  {bar:>7} {verdict}".rstrip())
    return "\n".join(lines)


def main() -> int:
    wanted = [part for part in PARTS if part in sys.argv[1:]] or [part for part in PARTS if part not in _ASKED_FOR]
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
