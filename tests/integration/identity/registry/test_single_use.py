"""Tokens that are taken over once, of all processes."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmctx import CallContext, bind, current, hand_over, take_over
from llmctx.core.errors import ConfigError, InvalidToken
from llmctx.identity import handover
from tests.kit.redis_server import RedisServer
from tests.kit.shared_registry import Here

A = CallContext(user_id="a", session_id="s-a")


@pytest.fixture(autouse=True)
def use(monkeypatch: pytest.MonkeyPatch, redis_url: str, prefix: str) -> Iterator[Callable[[str], None]]:
    """Sets the Redis of this process and its children."""
    for name, value in {"HANDOVER_KEY": "k" * 32, "REGISTRY_URL": redis_url, "REGISTRY_PREFIX": prefix}.items():
        monkeypatch.setenv(f"LLMCTX_{name}", value)
    handover.configure(None, "raise")
    yield lambda url: monkeypatch.setenv("LLMCTX_REGISTRY_URL", url)
    handover.configure(None, "raise")


def _taken(token: str) -> str | None:
    try:
        with take_over(token, once=True):
            return current().user_id
    except InvalidToken:
        return None


def test_the_first_of_all_workers_has_it() -> None:
    """Threads and processes, each token for itself; a token spelled in another way is the same."""
    with bind(A):
        tokens = [hand_over() for _ in range(3)]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2) as pool, ThreadPoolExecutor(4) as threads:
        taken = pool.map_async(_taken, tokens * 3)
        here = list(threads.map(_taken, tokens * 3))
        assert sorted(filter(None, [*taken.get(60), *here])) == ["a"] * 3
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        assert _taken(tokens[0][:-1] + last) is None
    with take_over(tokens[0]):
        assert current() == A
    with take_over(tokens[0], once=True, on_invalid="anonymous") as identity:
        assert not identity


async def test_it_is_asked_beside_the_loop() -> None:
    """`async with`; the Redis is that of the running call log."""
    with bind(A):
        token = hand_over()
    async with take_over(token, once=True) as identity:
        assert identity == current() == A
    with pytest.raises(InvalidToken, match="before"):
        async with take_over(token, once=True):
            pass
    async with take_over(token):
        assert current() == A


def test_the_registry_of_a_running_call_log_will_do(redis_url: str, prefix: str, use: Callable[[str], None]) -> None:
    """Made in code, without a setting."""
    use("")
    with bind(A):
        token = hand_over()
    with pytest.raises(ConfigError, match="LLMCTX_REGISTRY_URL"):
        _taken(token)
    with Here(redis_url, prefix):
        assert [_taken(token), _taken(token)] == ["a", None]


def test_a_redis_that_is_away_takes_nothing_over(own_redis: RedisServer, use: Callable[[str], None]) -> None:
    """A job that must not run twice is not run unless that is certain."""
    use(own_redis.url)
    with bind(A):
        token = hand_over()
    with pytest.raises(InvalidToken, match="does not answer"), take_over(token, once=True):
        pass
    own_redis.start()
    assert [_taken(token), _taken(token)] == ["a", None]
    assert asyncio.run(asyncio.to_thread(_taken, token)) is None
