"""Keys in Redis: of any id, by prefix, for a limited time, and of one user."""

from __future__ import annotations

import asyncio

import pytest

from llmctx import CallContext, bind
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import Scope
from tests.kit.shared_registry import A, B, Here, ause_elsewhere, ids, model, on, redis_keys, tell, use_elsewhere, why
from tests.kit.support import wait_until


def test_a_key_that_is_something_else_costs_that_thread_alone(redis_url: str, prefix: str) -> None:
    """Somebody's list under the name of our text: that thread is unknown, the others are known."""
    import redis

    registry = RedisRegistry(redis_url, prefix=prefix)
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(registry._layout.thread("taken"), "x")
    use_elsewhere(redis_url, prefix, "taken", B)
    use_elsewhere(redis_url, prefix, "t", B)
    with Here(redis_url, prefix) as here:
        assert why(here.lost_call("taken")) == ("none", "unknown_thread")
        assert ids(here.lost_call("t")) == ("b", "s-b")


def test_uses_expire(redis_url: str, prefix: str) -> None:
    """After the time to live nothing is left in Redis, and the thread is unknown."""
    with Here(redis_url, prefix, ttl_s=0.3) as first, bind(A):
        first.registry.put(Scope(A, "request"), thread_id="t", task="n:1")
        with redis_keys(redis_url, prefix) as keys:
            wait_until(lambda: len(keys()) == 3, "the use to be told")
            wait_until(lambda: not keys(), "the use to expire")
    with Here(redis_url, prefix) as second:
        assert why(second.lost_call("t")) == ("none", "unknown_thread")


def test_many_sessions_of_one_user_do_not_unshare_a_thread(redis_url: str, prefix: str) -> None:
    """A thread keeps few parties, and never forgets a user while it remembers another one twice."""
    crowd = [CallContext(user_id="b", session_id=f"s-{n}") for n in range(50)]
    strangers = [CallContext(session_id=f"x-{n}") for n in range(20)]
    use_elsewhere(redis_url, prefix, "t", A, *crowd, *strangers)
    import redis

    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys(f"{prefix}t:*")
        assert client.get(key).count(b"\n") <= 9  # and one line that stands for others
    with Here(redis_url, prefix) as here:
        assert why(here.lost_call("t")) == ("none", "shared_thread")


def test_applications_with_other_prefixes_do_not_meet(redis_url: str, prefix: str) -> None:
    """The same thread_id is another thread there."""
    use_elsewhere(redis_url, f"{prefix}one:", "t", A)
    with Here(redis_url, f"{prefix}two:") as here:
        assert why(here.lost_call("t")) == ("none", "unknown_thread")


@pytest.mark.parametrize(
    "thread_id",
    ["x" * 5000, "a b\r\nSET x y\r\n*", "用户-线程-🧵", "bell\x07\x00nul", "\ud800lone", "{t}:*?[a-z]", "0"],
)
def test_any_id_makes_the_way_to_another_process(redis_url: str, prefix: str, thread_id: str) -> None:
    """Long, hostile, or in any script: thread, user and session arrive as they are stored in rows."""
    who = CallContext(user_id=f"u {thread_id}", session_id=f"s {thread_id}")
    with Here(redis_url, prefix) as first, bind(who):
        model.invoke("hello", on(thread_id))
        assert ids(first.rows()[0]) == (who.user_id, who.session_id)
    with Here(redis_url, prefix) as second:
        row = second.lost_call(thread_id)
        assert (ids(row), why(row)) == ((who.user_id, who.session_id), ("thread", None))


async def test_a_user_is_forgotten_with_one_command(redis_url: str, prefix: str) -> None:
    """Nothing that names him is left in Redis, of no process; others stay."""
    await ause_elsewhere(redis_url, prefix, "shared", A, B)
    await ause_elsewhere(redis_url, prefix, "b's", B)
    registry = RedisRegistry(redis_url, prefix=prefix)
    for number in range(600):
        registry.put(Scope(A, "request"), thread_id=f"t{number}", task=f"n:{number}")
    await tell(registry)
    registry.put(Scope(A, "request"), thread_id="waits")
    assert await registry.aforget(user_id="a") == 1201
    await tell(registry)
    await registry.aclose()
    with redis_keys(redis_url, prefix) as keys:
        left = keys()
        assert sorted(key.removeprefix(prefix)[0] for key in left) == ["t", "t", "u"]
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert not any(b'"a"' in client.get(key) for key in left if key.startswith(f"{prefix}t:"))
    with Here(redis_url, prefix) as here:
        assert ids(await asyncio.to_thread(here.lost_call, "b's")) == ("b", "s-b")
        row = await asyncio.to_thread(here.lost_call, "shared")
        assert ids(row) == (None, None), "a thread that two have used became one's when the other was forgotten"
