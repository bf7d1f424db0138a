"""Tokens that may be taken over once: the Redis of the registry remembers which have been, until they expire."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from llmctx.core.errors import ConfigError, InvalidToken
from llmctx.identity.registry.base import active

_TIMEOUT_S: Final = 2.0
_clients: Final[dict[str, Any]] = {}


def redeem(name: str, ttl_s: float) -> None:
    """Note that the token `name` is taken over. `InvalidToken` if it has been before, or Redis cannot say."""
    url, prefix = _redis()
    import redis

    client = _clients.get(url)
    if client is None:
        client = _clients[url] = redis.Redis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, client_name="llmctx"
        )
    key = f"{prefix}j:{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    try:
        is_first = client.set(key, "1", nx=True, px=max(1, int(ttl_s * 1000) + 60_000))  # clocks differ
    except (redis.RedisError, OSError) as problem:
        raise InvalidToken(
            "Whether the token was taken over before is not known, because Redis does not answer. Try again, "
            "or leave once=True out if the job may run twice."
        ) from problem
    if not is_first:
        raise InvalidToken("The token was taken over before. Call hand_over() for each job.")


def _redis() -> tuple[str, str]:
    """Return the URL of the registry's Redis, and the prefix of keys."""
    for registry in active:
        if (address := getattr(registry, "address", None)) is not None:
            return address  # type: ignore[no-any-return]  # of RedisRegistry
    from llmctx.identity.registry.redis_connection import check_url
    from llmctx.settings import load

    settings = load()
    if not settings.registry_url:
        raise ConfigError(
            "take_over(once=True) needs a Redis in which all processes note the tokens that they have taken over: set "
            "LLMCTX_REGISTRY_URL=redis://host:6379/0 in each of them, or leave once=True out."
        )
    check_url(settings.registry_url)
    return settings.registry_url, settings.registry_prefix
