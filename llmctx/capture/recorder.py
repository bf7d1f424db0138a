"""`Recorder`, the part of a call log that its handler uses; and those that run in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from llmctx.capture.call import OpenCall
from llmctx.capture.open_calls import OpenCalls
from llmctx.identity.registry.base import Registry
from llmctx.identity.resolution import LATE_S
from llmctx.identity.scope import CallContext, Scope


@dataclass(slots=True)
class Recorder:
    """The part of a call log that its handler uses."""

    open_calls: OpenCalls
    registry: Registry
    enabled: bool = False
    snapshot_bytes: int = 32_768
    late_s: float = LATE_S


active: Final[list[Recorder]] = []
"""The captures of the call logs that run in this process, for handlers that were made without one."""

on_start: Final[list[Callable[[OpenCall], object]]] = []
"""Told of each call of LangChain's that starts, in the caller's thread. Must not raise."""

on_run: Final[list[Callable[[UUID, CallContext, Scope | None, Mapping[str, Any]], object]]] = []
"""Told of each run of a chain, a tool or a retriever that starts: whose it is, in which scope, and what LangChain says
of it. In the caller's thread. Must not raise."""
