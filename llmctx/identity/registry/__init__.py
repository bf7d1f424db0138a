"""The registry: thread_id or LangGraph task -> identity, for calls that have lost their context.

Bounded and expiring, in memory (`memory.py`) or shared through Redis (`redis.py`). A thread that several users share
has no identity here. No caller waits for it: Redis is asked in the pipeline.
"""

from __future__ import annotations

from typing import Protocol

from llmctx.identity.registry.base import Entry, Registry, SharedRegistry
from llmctx.identity.registry.memory import MemoryRegistry

__all__ = ["Entry", "MemoryRegistry", "Registry", "SharedRegistry", "registry_of"]


class _Settings(Protocol):
    @property
    def registry_entries(self) -> int: ...
    @property
    def registry_ttl_s(self) -> float: ...
    @property
    def registry_url(self) -> str | None: ...
    @property
    def registry_prefix(self) -> str: ...


def registry_of(settings: _Settings) -> Registry:
    """Return the registry that `settings` ask for: in memory, or in the Redis of `registry_url`."""
    entries, ttl_s = settings.registry_entries, settings.registry_ttl_s
    if not settings.registry_url:
        return MemoryRegistry(entries=entries, ttl_s=ttl_s)
    from llmctx.identity.registry.redis import RedisRegistry  # late: an extra, and a third of a second

    return RedisRegistry(settings.registry_url, prefix=settings.registry_prefix, entries=entries, ttl_s=ttl_s)
