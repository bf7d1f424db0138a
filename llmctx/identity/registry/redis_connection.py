"""The connection to Redis of one event loop: one round trip at a time, each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmctx.core.errors import ConfigError
from llmctx.core.process import import_lock

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisConnection:
    """The connection of one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None
        self._is_proven = False
        self.lock = asyncio.Lock()

    def client(self, timeout_s: float) -> Redis:
        if self._client is None:
            with import_lock:
                from redis.asyncio import Redis
                from redis.asyncio.retry import Retry
                from redis.backoff import NoBackoff

            self._client = Redis.from_url(
                self._url, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), client_name="llmctx"
            )
        return self._client

    async def round_trip(self, commands: Sequence[tuple[Any, ...]], timeout_s: float) -> list[Any]:
        """Return the answers to `commands`, all of them sent at once. What stands in a key of another kind is None."""
        while True:
            pipe = self.client(timeout_s).pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            try:
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            except (OSError, EOFError, driver().ConnectionError):
                if not self._is_proven:
                    raise
                await self.drop()  # idle for long, it may be gone while Redis is as well as ever: once more
                continue
            for answer in answers:
                if isinstance(answer, Exception) and "WRONGTYPE" not in str(answer):
                    raise answer  # loading, full, read-only, refused
            self._is_proven = True
            return answers

    async def drop(self) -> None:
        """Close it, in whatever state: an answer that comes too late must not be taken for the next one."""
        client, self._client, self._is_proven = self._client, None, False
        if client is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.aclose(), 0.1)


def driver() -> Any:
    import redis.asyncio  # late: a third of a second, and an extra

    return redis


def check_url(url: str) -> None:
    """Raise `ConfigError` unless redis-py is there and takes `url`."""
    if importlib.util.find_spec("redis") is None:
        raise ConfigError('LLMCTX_REGISTRY_URL needs the package redis: pip install "llmctx[redis]".')
    try:
        driver().asyncio.connection.parse_url(url)
    except ValueError:
        what = "Write redis://user:password@host:6379/0, rediss://… or unix:///path"
        raise ConfigError(f"LLMCTX_REGISTRY_URL is not a Redis URL. {what}.") from None
