"""What identity costs: per node (a wrapped graph against the same graph unwrapped) and per call (finding the owner).

Both graphs run in the same open scope with a thread_id, in interleaved rounds; nothing calls a model, so that the
difference is the wrapping alone.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

from llmctx import bind
from llmctx.graph import wrap_graph
from llmctx.identity.candidates import gather
from llmctx.identity.registry import MemoryRegistry
from llmctx.identity.registry.base import active
from llmctx.identity.resolution import decide

NODES = 20
RUNS = 20
ROUNDS = 30
CALLS = 2_000


class _State(TypedDict):
    number: int


async def _step(state: _State) -> _State:
    return {"number": state["number"] + 1}


def _graph(*, wrapped: bool) -> Any:
    builder = StateGraph(_State)
    before = START
    for number in range(NODES):
        builder.add_node(f"n{number}", _step)
        builder.add_edge(before, f"n{number}")
        before = f"n{number}"
    return (wrap_graph(builder) if wrapped else builder).compile()


async def _run(graph: Any) -> float:
    config: RunnableConfig = {"configurable": {"thread_id": "t-1"}, "recursion_limit": NODES + 5}
    start = time.thread_time()
    for _ in range(RUNS):
        await graph.ainvoke({"number": 0}, config)
    return (time.thread_time() - start) / RUNS / NODES * 1e6


async def _nodes() -> dict[str, float]:
    graphs = {"plain": _graph(wrapped=False), "wrapped": _graph(wrapped=True)}
    rounds: dict[str, list[float]] = {name: [] for name in graphs}
    with bind(session_id="s-1", user_id="u-1"):
        for number in range(ROUNDS + 2):
            for name, graph in graphs.items():
                took = await _run(graph)
                if number >= 2:
                    rounds[name].append(took)
    differences = [ours - plain for ours, plain in zip(rounds["wrapped"], rounds["plain"], strict=True)]
    return {"node_us": statistics.median(rounds["plain"]), "wrapping_us": statistics.median(differences)}


def _call(registry: MemoryRegistry) -> float:
    """µs to find out whose a call is, inside of a node: the usual case."""
    metadata = {"thread_id": "t-1", "langgraph_checkpoint_ns": "n:1", "langgraph_node": "n"}
    start = time.thread_time()
    for _ in range(CALLS):
        decide(gather(metadata), registry)
    return (time.thread_time() - start) / CALLS * 1e6


def run() -> dict[str, Any]:
    """µs a node without llmctx, what wrapping adds to it, and µs to decide whose a call is."""
    registry = MemoryRegistry()
    active.append(registry)
    try:
        found = asyncio.run(_nodes())
        with bind(session_id="s-1", user_id="u-1", thread_id="t-1"):
            found["deciding_us"] = statistics.median(_call(registry) for _ in range(ROUNDS))
    finally:
        active.remove(registry)
    return {**found, "nodes": NODES, "rounds": ROUNDS}
