"""What waits for Redis is bounded, delays no call, and comes again after an outage."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import Scope
from tests.kit.proxy import Proxy
from tests.kit.redis_server import RedisServer
from tests.kit.shared_registry import (
    NOBODY,
    A,
    B,
    Here,
    ids,
    model,
    on,
    redis_keys,
    request_of,
    tell,
    use_elsewhere,
    why,
)
from tests.kit.support import wait_for, wait_until
from tests.scenarios.world import graph


async def _awaited(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


def test_redis_away_from_the_start_costs_ids_of_others_alone(own_redis: RedisServer, prefix: str) -> None:
    """Calls in a scope are as ever, this process knows its own threads, the rest is NULL; later it heals."""
    with Here(own_redis.url, prefix) as here:
        with bind(A):
            model.invoke("hello", on("a's"))
        assert (ids(here.rows()[-1]), why(here.rows()[-1])) == (("a", "s-a"), ("context", None))
        row = here.lost_call("a's")
        assert (ids(row), why(row)) == (("a", "s-a"), ("thread", None))
        row = here.lost_call("b's")
        assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
        assert diagnostics.counts["registry_away"] > 0
        own_redis.start()
        use_elsewhere(own_redis.url, prefix, "b's", B)
        wait_until(lambda: ids(here.lost_call("b's")) == ("b", "s-b"), "the registry to heal")
    with Here(own_redis.url, prefix) as second:
        assert ids(second.lost_call("a's")) == ("a", "s-a"), "what waited for Redis was not told"


@pytest.mark.parametrize("how", ["held", "lost"])
async def test_a_network_split_from_the_start_that_heals(own_redis: RedisServer, prefix: str, how: str) -> None:
    """Redis lives and hears the others, this process is cut off from it: its own scopes are as ever, the rest is NULL.
    Healed, each side learns of the other's threads, and of the one that both have used: it is nobody's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own_redis.start("--port", str(port))
    way = Proxy(f"redis://127.0.0.1:{port}", tcp=True)
    await way.open()
    if how == "held":
        way.flowing.clear()
    else:
        way.swallowing = True
    healed = threading.Event()

    def cut_off(heal: Callable[[], Any]) -> None:
        for thread_id in ("b's", "both"):
            use_elsewhere(own_redis.url, prefix, thread_id, B)
        with Here(way.url, prefix, timeout_s=0.25) as here:
            with bind(A):
                for thread_id in ("a's", "both"):
                    model.invoke("hello", on(thread_id))
            assert {(ids(row), why(row)) for row in here.rows()} == {(("a", "s-a"), ("context", None))}
            assert ids(here.lost_call("a's")) == ("a", "s-a")
            row = here.lost_call("b's")
            assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
            heal()
            assert healed.wait(30)
            wait_until(lambda: ids(here.lost_call("b's")) == ("b", "s-b"), "the registry to heal")
            wait_until(lambda: why(here.lost_call("both"))[1] == "shared_thread", "the other side's use")
        with Here(own_redis.url, prefix) as other:
            assert ids(other.lost_call("a's")) == ("a", "s-a")
            row = other.lost_call("both")
            assert (ids(row), row.identity_reason) == (NOBODY, "shared_thread")

    def mend() -> None:
        way.swallowing = False
        way.flowing.set()
        healed.set()

    loop = asyncio.get_running_loop()
    try:
        await asyncio.to_thread(cut_off, lambda: loop.call_soon_threadsafe(mend))
    finally:
        await way.remove()


def test_redis_killed_and_started_anew(own_redis: RedisServer, prefix: str) -> None:
    """It has forgotten everything: unknown is NULL. What is used again is known again."""
    own_redis.start()
    use_elsewhere(own_redis.url, prefix, "b's", B)
    with Here(own_redis.url, prefix) as here:
        assert ids(here.lost_call("b's")) == ("b", "s-b")
        own_redis.kill()
        row = here.lost_call("c's")
        assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
        own_redis.start()
        wait_until(lambda: why(here.lost_call("c's"))[1] == "unknown_thread", "the registry to heal")
        use_elsewhere(own_redis.url, prefix, "c's", B)
        assert ids(here.lost_call("c's")) == ("b", "s-b")


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_redis_that_hangs_delays_no_call(own_redis: RedisServer, prefix: str, how: str) -> None:
    """200 calls complete as fast as without one, and all their rows arrive soon: NULL with a reason."""
    own_redis.start()

    def two_hundred(here: Here) -> float:
        began = time.perf_counter()
        threads = [
            threading.Thread(target=lambda n=n: [model.invoke("x", on(f"t{n}-{i}")) for i in range(10)])
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return time.perf_counter() - began

    with Here(own_redis.url, prefix, timeout_s=1) as here:
        well = two_hundred(here)
        assert {why(row) for row in here.rows()} == {("none", "unknown_thread")}
        if how == "stopped":
            own_redis.signal(signal.SIGSTOP)
        else:
            with own_redis.client() as client:
                client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
        ill = two_hundred(here)
        began = time.perf_counter()
        rows = here.rows()[200:]
        assert time.perf_counter() - began < 30
        assert len(rows) == 200
        assert {(ids(row), why(row)) for row in rows} == {(NOBODY, ("none", "registry_away"))}
        assert ill < well * 3 + 5  # ten of them one after another would wait for ten seconds
        if how == "stopped":
            own_redis.signal(signal.SIGCONT)
        else:
            own_redis.kill()
            own_redis.start()
        wait_until(lambda: why(here.lost_call("t"))[1] == "unknown_thread", "the registry to heal")


async def test_a_worker_started_in_a_request_is_nobody_while_redis_is_away(own_redis: RedisServer, prefix: str) -> None:
    """Only the others could say that the thread is not B's: they cannot be asked, so it is not A's either."""
    with Here(own_redis.url, prefix) as here:
        with request_of(A):
            for run in (model.ainvoke("hello", on("x")), graph(True).ainvoke({"prompt": "hello"}, on("y"))):
                task = asyncio.create_task(_awaited(lambda run=run: run))  # type: ignore[misc]
                await wait_for(task.done, "the call")
            await graph(True).ainvoke({"prompt": "hello"}, on("z"))
        rows = await here.arows()
    assert [(ids(row), row.identity_reason) for row in rows] == [(NOBODY, "registry_away")] * 2 + [(("a", "s-a"), None)]


def test_a_flushed_redis_is_told_anew(own_redis: RedisServer, prefix: str) -> None:
    """Scripts are gone as well. A thread that is used on is told again; nothing is wrong meanwhile."""
    own_redis.start()
    with Here(own_redis.url, prefix, ttl_s=2.0) as here, Here(own_redis.url, prefix) as second:
        with bind(A):
            model.invoke("hello", on("t"))
        wait_until(lambda: ids(second.lost_call("t")) == ("a", "s-a"), "the thread to be told")
        with own_redis.client() as client:
            client.flushall()
            client.script_flush()

        def known_again() -> bool:
            with bind(A):
                model.invoke("hello", on("t"))
            row = second.lost_call("t")
            assert ids(row) in (("a", "s-a"), NOBODY)
            with own_redis.client() as client:
                return bool(client.keys(f"{prefix}t:*"))

        wait_until(known_again, "the thread to be told again")
    assert here.log.stats().balanced


def test_a_redis_that_refuses_is_like_one_that_is_away(own_redis: RedisServer, prefix: str) -> None:
    """A wrong password: rows come, NULL, and the password is in no message."""
    own_redis.start("--requirepass", "right")
    url = own_redis.url.replace("unix://", "unix://:top-secret@")
    with Here(url, prefix) as here:
        row = here.lost_call("t")
    assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
    assert "top-secret" not in repr(here.registry)


async def test_what_waits_for_redis_is_bounded(own_redis: RedisServer, prefix: str) -> None:
    """While Redis is away the newest registrations are kept, up to a limit. What was dropped is told after them."""
    registry = RedisRegistry(own_redis.url, prefix=prefix)
    for number in range(12_000):
        registry.put(Scope(A, "request"), thread_id=f"t{number}")
    assert await registry.publish(0.5) == 10_000
    own_redis.start()
    registry._rest_until = 0.0
    await tell(registry)
    await registry.aclose()
    with redis_keys(own_redis.url, prefix) as keys:
        assert len(keys()) == 12_001


def test_a_forked_child_tells_of_its_threads_on_its_own_connection(redis_url: str, prefix: str) -> None:
    """Before its first call, too; and parent and child both go on."""
    with Here(redis_url, prefix) as here:
        use_elsewhere(redis_url, prefix, "b's", B)
        assert ids(here.lost_call("b's")) == ("b", "s-b")
        child = os.fork()
        if child == 0:
            here.registry.put(Scope(A, "request"), thread_id="child's")
            known = ids(here.lost_call("b's")) == ("b", "s-b")
            with redis_keys(redis_url, prefix) as keys:
                wait_until(lambda: len(keys()) == 4, "the child to tell")
            os._exit(0 if known else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ids(here.lost_call("child's")) == ("a", "s-a")


def test_two_call_logs_may_share_a_registry(redis_url: str, prefix: str) -> None:
    """Each asks in its own loop; when the one that tells is closed, the other does."""
    registry = RedisRegistry(redis_url, prefix=prefix)
    first, second = (CallLog(sink=MemorySink(), registry=registry, linger_ms=1) for _ in range(2))
    with second, redis_keys(redis_url, prefix) as keys:
        with first:
            registry.put(Scope(A, "request"), thread_id="one")
            wait_until(lambda: len(keys()) == 2, "the first to be told")
        registry.put(Scope(A, "request"), thread_id="two")
        wait_until(lambda: len(keys()) == 3, "the second to be told")
