"""Whether a server that works for many has handed its request's scope to what runs here, and waits for that.

A server that answers from a queue does not run a request in its own flow: a task of the server's takes it from there,
and runs the application's code with the request at hand (Gradio), or in a context that the request has sent along
(A2A's tasks). What such a task holds tells that the scope was not merely inherited by a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import Context
from types import FrameType
from typing import Final

from llmctx.core.guard import guard_harmless
from llmctx.identity.argument_values import request_of
from llmctx.identity.await_graph import all_waiting, runs_here
from llmctx.identity.scope import Scope, scope_in
from llmctx.identity.work_frames import context_of, frames_of, instance_fields, stored_in_loop, suspended_frames

_PARTS: Final = 20


@guard_harmless("long_work_failed", otherwise=lambda scope: False)
def is_handed_request(scope: Scope) -> bool:
    """Return whether a task that runs or waits here, and has another scope than `scope` or none, was given the request
    that `scope` is part of, or takes from somewhere, in a loop, contexts with that scope.
    """
    return any(
        _holds_request(frame, scope) or _takes_context(frame, scope)
        for task in all_waiting(runs_here())
        if isinstance(task, asyncio.Task) and not _has(context_of(task), scope)
        for frame in _frames_of(task)
    )


def _frames_of(task: asyncio.Task[object]) -> Iterator[FrameType]:
    return frames_of(()) if task is runs_here() else suspended_frames(task)


def _has(context: Context | None, scope: Scope) -> bool:
    its = None if context is None else scope_in(context)
    return its is not None and its.anchor is scope.anchor


def _holds_request(frame: FrameType, scope: Scope) -> bool:
    if not scope.of_request:
        return False
    values = list(frame.f_locals.values())
    values += [instance_fields(value).get("request") for value in values]
    return any(request_of(value) == scope.of_request for value in values)


def _takes_context(frame: FrameType, scope: Scope) -> bool:
    """Return whether the loop of `frame` has put a context with `scope` into a variable, alone or among others."""
    for name in stored_in_loop(frame):
        value = frame.f_locals.get(name)
        parts = value[:_PARTS] if isinstance(value, (tuple, list)) else (value, *instance_fields(value).values())
        if any(isinstance(part, Context) and _has(part, scope) for part in parts):
            return True
    return False
