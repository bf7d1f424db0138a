"""`carry` takes a scope along, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from llmctx import CallContext, bind, carry, current
from llmctx.identity.scope import EMPTY


def test_carry_takes_the_scope_into_an_executor_and_leaves_nothing_there() -> None:
    """The pooled thread works for the scope during the job, and for nobody after it."""
    with ThreadPoolExecutor(1) as pool:
        with bind(session_id="s", user_id="u"):
            carried = pool.submit(carry(current))
        assert carried.result() == CallContext(session_id="s", user_id="u")
        assert pool.submit(current).result() == EMPTY


async def test_carry_takes_the_scope_into_a_coroutine() -> None:
    """A coroutine function stays one."""

    async def who() -> CallContext:
        await asyncio.sleep(0)
        return current()

    with bind(user_id="u"):
        carried = carry(who)
    assert (await carried()).user_id == "u"
    assert asyncio.iscoroutinefunction(carried)
