"""A Redis that others write to, and one that loses what it was told: names are right, or not given."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis

from llmctx import CallContext
from llmctx.core.diagnostics import diagnostics
from llmctx.identity import handover
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import Scope
from tests.kit.redis_server import RedisServer
from tests.kit.shared_registry import Here, tell, use_elsewhere

A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")
VICTIM = CallContext(user_id="victim", session_id="s-victim")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    """Sets the hand-over key of this process, and of the call logs that it starts."""

    def use(secret: str | None) -> None:
        monkeypatch.delenv("LLMCTX_HANDOVER_KEY", raising=False)
        if secret is not None:
            monkeypatch.setenv("LLMCTX_HANDOVER_KEY", secret)
        handover.configure(secret, "raise")

    use("k" * 32)
    yield use
    handover.configure(None, "raise")


def _crowd(client: redis.Redis, name: str, kind: str) -> None:
    """A value of many members, made in the server."""
    add = {"hash": "redis.call('HSET', KEYS[1], i, i)", "zset": "redis.call('ZADD', KEYS[1], i, i)"}[kind]
    client.delete(name)
    client.eval(f"for i = 1, 50000 do {add} end", 1, name)


VALUES: dict[str, Callable[[redis.Redis, str, bytes], Any]] = {
    "list": lambda client, name, forged: (client.delete(name), client.rpush(name, forged)),
    "set": lambda client, name, forged: (client.delete(name), client.sadd(name, forged)),
    "hash": lambda client, name, forged: (client.delete(name), client.hset(name, "victim", forged)),
    "zset": lambda client, name, forged: (client.delete(name), client.zadd(name, {forged: 1e300})),
    "stream": lambda client, name, forged: (client.delete(name), client.xadd(name, {"x": forged})),
    "crowded hash": lambda client, name, forged: _crowd(client, name, "hash"),
    "crowded zset": lambda client, name, forged: _crowd(client, name, "zset"),
    "huge": lambda client, name, forged: client.set(name, b"x" * 30_000_000),
    "huge line": lambda client, name, forged: client.set(name, forged + b" " * 30_000_000),
    "many lines": lambda client, name, forged: client.set(name, b"\n".join([forged] * 500)),
    "empty lines": lambda client, name, forged: client.set(name, b"\n" * 60_000),
    "binary": lambda client, name, forged: client.set(name, bytes(range(256))),
    "nested": lambda client, name, forged: client.set(name, forged[:-1] + b'{"user_id":' * 5000),
    "forged": lambda client, name, forged: client.set(name, forged),
    "expired": lambda client, name, forged: client.set(name, forged, px=1),
    "future": lambda client, name, forged: client.set(name, b"9" * 40 + forged[13:]),
    "number": lambda client, name, forged: client.set(name, 7),
}


@pytest.mark.parametrize("kind", VALUES)
def test_what_others_plant_names_nobody_and_blocks_nothing(
    redis_url: str, prefix: str, key: Callable[[str | None], None], kind: str
) -> None:
    """Whatever stands under a name of ours: under one that is in use, and under one that is not yet."""
    forged = b'1795986872322 27c35e6e93738: - {"user_id":"victim","session_id":"s-victim"}'
    use_elsewhere(redis_url, prefix, "used", B, task="n:1")
    with redis.Redis.from_url(redis_url) as client:
        layout = RedisRegistry(redis_url, prefix=prefix)._layout
        ours = [*client.keys(f"{prefix}*"), layout.thread("new"), layout.task("n:2"), layout.gap, layout.evicted]
        for name in ours:
            VALUES[kind](client, name if isinstance(name, str) else name.decode(), forged)
        with Here(redis_url, prefix, timeout_s=0.5) as here:
            slowest = 0.0
            for thread_id in ("used", "new", "other"):
                began = time.perf_counter()
                row = here.lost_call(thread_id)
                slowest = max(slowest, time.perf_counter() - began)
                assert row.user_id is None
            use_elsewhere(redis_url, prefix, "new", A)
            assert here.lost_call("new").user_id in (None, "a")
            use_elsewhere(redis_url, prefix, "other", B)
            assert here.lost_call("other").user_id == "b"
            asyncio.run(here.registry.aforget(user_id="b"))
            assert here.lost_call("other").user_id is None
        assert slowest < 20
        client.flushall()


def test_an_entry_counts_where_it_was_made_alone(
    redis_url: str, prefix: str, key: Callable[[str | None], None]
) -> None:
    """Nobody can move the line of one thread to another, take it from another house, or sign with nothing."""
    use_elsewhere(redis_url, prefix, "victim's", VICTIM, task="n:1")
    key("another key of another house")
    use_elsewhere(redis_url, prefix, "foreign", VICTIM)
    key(None)
    use_elsewhere(redis_url, prefix, "unsigned", VICTIM)
    key("k" * 32)
    with redis.Redis.from_url(redis_url) as client, Here(redis_url, prefix) as here:
        layout = here.registry._layout
        for name in (layout.thread("moved"), layout.task("n:2")):
            client.set(name, client.get(layout.thread("victim's")))
        client.set(layout.task("n:3"), client.get(layout.task("n:1")))
        before = diagnostics.counts["registry_entry_refused"]
        for thread_id in ("moved", "foreign", "unsigned"):
            assert here.lost_call(thread_id).user_id is None
        assert diagnostics.counts["registry_entry_refused"] >= before + 3
        assert here.lost_call("victim's").user_id == "victim"
        for task in ("n:2", "n:3"):
            asyncio.run(_ask(here.registry, tasks=[task]))
            assert here.registry.get(task=task) is None


def test_after_a_change_of_keys_both_are_read(redis_url: str, prefix: str, key: Callable[[str | None], None]) -> None:
    """The newest signs, the older ones still verify."""
    use_elsewhere(redis_url, prefix, "old", B)
    key("new-key-of-16-bytes," + "k" * 32)
    use_elsewhere(redis_url, prefix, "new", B)
    with Here(redis_url, prefix) as here:
        assert here.lost_call("old").user_id == here.lost_call("new").user_id == "b"


async def _ask(registry: RedisRegistry, **what: Any) -> bool:
    answered = await registry.exchange(**what)
    await registry.aclose()
    return answered


@contextlib.asynccontextmanager
async def _processes(url: str, prefix: str, number: int, **options: Any) -> Any:
    """Several registries that tell each other."""
    registries = [RedisRegistry(url, prefix=prefix, timeout_s=5.0, **options) for _ in range(number)]
    running = [asyncio.create_task(registry.run()) for registry in registries]
    try:
        yield registries
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for registry in registries:
            await registry.aclose()


async def _named(registry: RedisRegistry, thread_id: str) -> str | None:
    """The user whom a lost call on the thread would be given, as the pipeline asks."""
    await registry.exchange(threads=[thread_id], since=time.monotonic())
    entry = registry.get(thread_id=thread_id)
    return None if entry is None else entry.identity.user_id


async def test_a_flush_never_makes_several_users_one(own_redis: RedisServer, prefix: str) -> None:
    """Who was told of before is told again; until then nobody is named."""
    own_redis.start()
    async with _processes(own_redis.url, prefix, 3) as (first, second, third):
        first.put(Scope(A, "request"), thread_id="t")
        second.put(Scope(B, "request"), thread_id="t")
        assert await _named(third, "t") is None
        with own_redis.client() as client:
            for _ in range(3):
                client.flushall()
                second.put(Scope(B, "request"), thread_id="t")
                for registry in (second, third, first):
                    assert await _named(registry, "t") is None
            deadline = time.monotonic() + 60
            first.put(Scope(A, "request"), thread_id="a's")
            while await _named(third, "a's") != "a":
                assert time.monotonic() < deadline
                assert await _named(third, "t") is None
        # one that has never heard of the thread
        async with _processes(own_redis.url, prefix, 1) as (fourth,):
            assert await _named(fourth, "t") is None


async def test_a_redis_that_comes_back_older_is_told_again(own_redis: RedisServer, prefix: str) -> None:
    """A replica that lagged behind, or a snapshot: what was told since is told again before anybody is named."""
    own_redis.start("--dbfilename", "dump.rdb", "--dir", own_redis.folder)
    async with _processes(own_redis.url, prefix, 2, backoff_s=(0.05, 0.1)) as (first, third):
        first.put(Scope(A, "request"), thread_id="t")
        assert await _named(third, "t") == "a"
        with own_redis.client() as client:
            client.save()
        async with _processes(own_redis.url, prefix, 1, backoff_s=(0.05, 0.1)) as (second,):
            second.put(Scope(B, "request"), thread_id="u")
            second.put(Scope(B, "request"), thread_id="t")
            await tell(second)
            await asyncio.to_thread(own_redis.kill)
            assert Path(own_redis.folder, "dump.rdb").exists()
            await asyncio.to_thread(own_redis.start, "--dbfilename", "dump.rdb", "--dir", own_redis.folder)
            deadline = time.monotonic() + 60
            while await _named(third, "u") != "b":
                assert time.monotonic() < deadline
                assert await _named(third, "t") in (None, "a"), "A is all that this process knew before"
            assert await _named(third, "t") is None


async def test_a_redis_that_evicts_names_nobody_wrongly(own_redis: RedisServer, prefix: str) -> None:
    """As long as it evicts, and until all is told again, what it says may be half of it."""
    own_redis.start("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random")
    async with _processes(own_redis.url, prefix, 3) as (first, second, third):
        for number in range(300):
            first.put(Scope(A, "request"), thread_id=f"t{number}")
        with own_redis.client() as client:
            await tell(first)
            while client.info("stats")["evicted_keys"] < 500:
                client.mset({f"other:{time.monotonic()}:{n}": "x" * 200 for n in range(200)})
        for number in range(300):
            second.put(Scope(B, "request"), thread_id=f"t{number}")
        await tell(second)
        for number in range(0, 300, 10):
            assert await _named(third, f"t{number}") is None


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_forgotten_a_name_is_right_or_not_given(
    own_redis: RedisServer, prefix: str, seed: int
) -> None:
    """Three processes with little room and little time, and a Redis that is flushed. The oracle remembers all."""
    random = Random(seed)
    own_redis.start()
    used: dict[str, set[str]] = {}
    options = {"entries": [3, 1000][seed], "ttl_s": [60.0, 0.05][seed]}
    async with _processes(own_redis.url, prefix, 3, **options) as registries:
        with own_redis.client() as client:
            for _ in range(80):
                thread_id = f"t-{random.randrange(6)}"
                if random.random() < 0.6:
                    who = random.choice([A, B, A])
                    used.setdefault(thread_id, set()).add(who.user_id)  # type: ignore[arg-type]
                    registry = random.choice(registries)
                    registry.put(Scope(who, "request"), thread_id=thread_id)
                    await registry.publish(60)
                elif random.random() < 0.1:
                    client.flushall()
                else:
                    name = await _named(random.choice(registries), thread_id)
                    assert name is None or used[thread_id] == {name}
