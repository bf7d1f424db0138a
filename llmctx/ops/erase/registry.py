"""The shared registry's part of `erase`. Other processes' memory of it expires within a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llmctx.core.errors import LlmctxError
from llmctx.core.urls import shown_url
from llmctx.identity.registry.redis_keys import LONGEST
from llmctx.ops.erase.subject import SubjectIds
from llmctx.settings import Settings

if TYPE_CHECKING:
    from llmctx.identity.registry.redis import RedisRegistry

_AT_ONCE: Final = 500


def shown_registry(settings: Settings) -> str | None:
    """Return the URL of the shared registry without its password; None where none is in use."""
    return None if settings.registry_url is None else shown_url(settings.registry_url)


async def count(settings: Settings, subject_ids: SubjectIds) -> int:
    """Return how many keys name them."""
    return len(await _keys(settings, subject_ids))


async def forget(settings: Settings, subject_ids: SubjectIds) -> int:
    """Take them away. Returns how many keys there were."""
    subject = subject_ids.subject
    registry = _registry(settings)
    gone = 0
    try:
        if subject.user is not None and subject.session is None:
            gone += await registry.aforget(user_id=subject.user)
        for thread_id in subject_ids.own.get("thread_id", ()):
            gone += await registry.aforget(thread_id=thread_id)
    except Exception as problem:
        raise _away(settings, problem) from problem
    left = await _keys(settings, subject_ids)  # such as a session's, which has no index
    if left:
        gone += await _with_client(settings, lambda client: client.delete(*left))
    return gone


async def _keys(settings: Settings, subject_ids: SubjectIds) -> list[bytes]:
    """Return keys under our prefix whose values hold one of the ids. Reads all of them, a few hundred at a time."""
    import orjson

    # as they stand in a value, which is JSON
    marks = [orjson.dumps(one) for one in subject_ids.ids]

    async def scan(client: Any) -> list[bytes]:
        found: list[bytes] = []
        for kind in ("t:", "k:"):
            cursor: int | None = None
            while cursor != 0:
                pattern = _escaped(settings.registry_prefix) + kind + "*"
                cursor, keys = await client.scan(cursor or 0, match=pattern, count=_AT_ONCE)
                if not keys:
                    continue
                pipe = client.pipeline(transaction=False)
                for key in keys:
                    pipe.execute_command("GETRANGE", key, 0, LONGEST)
                for key, value in zip(keys, await pipe.execute(raise_on_error=False), strict=True):
                    if isinstance(value, bytes) and any(mark in value for mark in marks):
                        found.append(key)
        return found

    return list(await _with_client(settings, scan))


def _escaped(prefix: str) -> str:
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in prefix)


async def _with_client(settings: Settings, work: Any) -> Any:
    from redis.asyncio import Redis

    from llmctx.identity.registry.redis_connection import check_url

    assert settings.registry_url is not None
    check_url(settings.registry_url)
    client = Redis.from_url(settings.registry_url, socket_connect_timeout=settings.connect_timeout_s)
    try:
        return await work(client)
    except Exception as problem:
        raise _away(settings, problem) from problem
    finally:
        await client.aclose()


def _registry(settings: Settings) -> RedisRegistry:
    from llmctx.identity.registry.redis import RedisRegistry

    assert settings.registry_url is not None
    return RedisRegistry(settings.registry_url, prefix=settings.registry_prefix)


def _away(settings: Settings, problem: Exception) -> LlmctxError:
    return LlmctxError(
        f"{shown_registry(settings)} does not work: {problem}. Check LLMCTX_REGISTRY_URL, and run this again."
    )
