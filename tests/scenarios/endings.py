"""Calls in graphs that end otherwise than by an answer: cut off, timed out, or not made at all."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from tests.kit.newer import HAS_NODE_POLICIES, NodeTimeoutError, TimeoutPolicy
from tests.kit.support import ProviderDown, User
from tests.scenarios.graphs import Builder, Kit, Turn, all_hanging, drained, turn, wrapped_and_bare
from tests.scenarios.world import USERS, World, begun, model


@wrapped_and_bare
async def a_stream_whose_reader_is_cancelled(world: World, *, wrapped: bool) -> None:
    """The first node has answered; the call of the second is cut off."""
    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(kit.ask(), kit.ask(status="cancelled", text="[hang]")))
    hang = all_hanging()

    async def endpoint(user: User) -> None:
        reading = asyncio.create_task(drained(compiled.astream(turn(world, user), stream_mode="updates")))
        await hang()
        reading.cancel()
        await asyncio.wait([reading])

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def a_failing_sibling_cuts_the_others_off(world: World, *, wrapped: bool) -> None:
    """LangChain reports no end of the call that LangGraph cancels."""
    kit = Kit(world, wrapped)
    hang = all_hanging()

    async def fail(state: Turn) -> None:
        await hang()
        raise ProviderDown

    builder: Builder = StateGraph(Turn).add_node("hangs", kit.ask(status="cancelled", text="[hang]"))
    builder.add_node("fails", kit.ask(fail, status="error")).add_edge(START, "hangs").add_edge(START, "fails")
    compiled = kit.compile(builder)

    async def endpoint(user: User) -> None:
        with pytest.raises(ProviderDown):
            await compiled.ainvoke(turn(world, user))

    await world.through(endpoint, rounds=1)


_TIMEOUT_S = 3
"""In which all of them have begun, also on a busy machine."""


async def _timed_out(world: World, *, wrapped: bool, of_node: bool) -> None:
    kit = Kit(world, wrapped)
    limit = {"timeout": TimeoutPolicy(run_timeout=_TIMEOUT_S)} if of_node else {}
    builder: Builder = StateGraph(Turn).add_node("hangs", kit.ask(status="cancelled", text="[hang]"), **limit)
    compiled = kit.compile(builder.add_edge(START, "hangs"))
    compiled.step_timeout = None if of_node else _TIMEOUT_S

    async def endpoint(user: User) -> None:
        with pytest.raises((TimeoutError, NodeTimeoutError)):
            await compiled.ainvoke(turn(world, user))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)
    await begun(USERS)


@wrapped_and_bare
async def a_step_timeout(world: World, *, wrapped: bool) -> None:
    await _timed_out(world, wrapped=wrapped, of_node=False)


async def a_node_timeout(world: World, *, wrapped: bool) -> None:
    await _timed_out(world, wrapped=wrapped, of_node=True)


if HAS_NODE_POLICIES:
    wrapped_and_bare(a_node_timeout)


@wrapped_and_bare
async def a_cached_node_makes_no_call(world: World, *, wrapped: bool) -> None:
    """The second round is answered from LangGraph's cache: nothing is called, so nothing is written."""
    kit = Kit(world, wrapped)
    builder: Builder = StateGraph(Turn).add_node("node", kit.ask({"who": 0}), cache_policy=CachePolicy())
    compiled = kit.compile(builder.add_edge(START, "node"), cache=InMemoryCache())
    await world.through(lambda user: compiled.ainvoke(turn(world, user)))
    assert len(world.book.truths) == USERS
