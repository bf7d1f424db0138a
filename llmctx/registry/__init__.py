"""thread_id (and LangGraph task) -> identity: what a call that has lost its context can still be known by."""

from llmctx.registry.base import Entry, Registry
from llmctx.registry.memory import MemoryRegistry

__all__ = ["Entry", "MemoryRegistry", "Registry"]
