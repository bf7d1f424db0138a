"""One process's call log with a registry that others share, and what the others do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import Scope, enter, leave
from tests.kit.support import Talker

model = Talker()
A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")
NOBODY = (None, None)


def on(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


class Here:
    """This process: a call log whose registry is the Redis."""

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        self.registry = RedisRegistry(url, prefix=prefix, **{"timeout_s": 2.0, "backoff_s": (0.2, 0.5), **options})
        self.sink = MemorySink()
        self.log = CallLog(sink=self.sink, registry=self.registry, linger_ms=1)

    def __enter__(self) -> Here:
        self.log.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.log.close()

    def rows(self) -> list[CallRecord]:
        """The rows of all calls that have ended, which takes no longer than a few seconds, come what may."""
        assert self.log.flush(60) == 0
        assert self.log.stats().balanced
        return list(self.sink.records)

    async def arows(self) -> list[CallRecord]:
        assert await self.log.aflush(60) == 0
        return list(self.sink.records)

    def lost_call(self, thread_id: str) -> CallRecord:
        """The row of a call in a bare thread, of which nothing is known but its thread_id."""
        thread = threading.Thread(target=lambda: model.invoke("lost", on(thread_id)))
        thread.start()
        thread.join(60)
        return self.rows()[-1]


async def tell(registry: RedisRegistry) -> None:
    """Wait until Redis has all that it is to be told: on a busy machine it may answer too late at first."""
    async with asyncio.timeout(60):
        while await registry.publish(60):
            await asyncio.sleep(0.05)


def use_elsewhere(url: str, prefix: str, thread_id: str, *who: CallContext, task: str | None = None) -> None:
    """Another process has a scope of each of `who` use the thread."""

    async def use() -> None:
        elsewhere = RedisRegistry(url, prefix=prefix, timeout_s=2.0)
        for identity in who:
            elsewhere.put(Scope(identity, "request"), thread_id=thread_id, task=task)
        await tell(elsewhere)
        await elsewhere.aclose()

    asyncio.run(use())


async def ause_elsewhere(*arguments: Any, **named: Any) -> None:
    """`use_elsewhere`, beside the loop."""
    await asyncio.to_thread(use_elsewhere, *arguments, **named)


def ids(row: CallRecord) -> tuple[str | None, str | None]:
    """User and session of a row."""
    return row.user_id, row.session_id


def why(row: CallRecord) -> tuple[str | None, str | None]:
    """Source and reason of a row."""
    return row.identity_source, row.identity_reason


@contextmanager
def request_of(who: CallContext) -> Iterator[Scope]:
    scope = Scope(who, "request")
    token = enter(scope)
    try:
        yield scope
    finally:
        leave(scope, token)


@contextmanager
def redis_keys(url: str, prefix: str) -> Iterator[Callable[[], list[str]]]:
    """Yield a function that lists the keys of threads, tasks and users."""
    import redis

    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield lambda: sorted(key for kind in "tku" for key in client.keys(f"{prefix}{kind}:*"))
