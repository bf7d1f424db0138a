"""Scopes that a generator holds open while it is suspended: `with bind(…)` around a `yield`.

Each step of a generator may run in another context: in a pool's thread, in a task of its own beside a heartbeat. There
the scope is not current. Where all steps run in one context it stays current between them: for whoever consumes the
generator, and for another generator that is asked next. The frames show what is certain: code that runs beneath the
frame of such a generator is in its block.

A generator that contextlib has made a context manager of is none of these: its block is that of the code which has it
in its `with`.
"""

from __future__ import annotations

import contextlib
import sys
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from types import FrameType
from typing import Final
from weakref import WeakKeyDictionary

from llmctx.core.guard import guard_harmless
from llmctx.identity.scope import FAILED_SCOPE, Scope, with_parents

held: Final[dict[FrameType, list[Scope]]] = {}
"""The open scopes of each such generator, by its frame; the innermost last."""

_opened_in: Final[WeakKeyDictionary[Scope, FrameType]] = WeakKeyDictionary()
"""The innermost of those frames beneath which a block was opened. Blocks that were opened elsewhere are not here."""

_GENERATOR: Final = CO_GENERATOR | CO_ASYNC_GENERATOR
_CONTEXTLIB: Final = contextlib.__name__
_STEPS: Final = 500


@guard_harmless("scope_failed", otherwise=lambda scope: False)
def hold(scope: Scope | None) -> bool:
    """Return whether a generator opens the block of `scope`; note that, and whether it is opened beneath one."""
    if scope is None or scope is FAILED_SCOPE:
        return False
    frame = _opener()
    if held and (around := _frame_here()) is not None and around is not frame:
        _opened_in[scope] = around
    if frame is None or not frame.f_code.co_flags & _GENERATOR:
        return False
    scopes = held.setdefault(frame, [])
    scopes.append(scope)
    scope.on_close.append(lambda closed: _let_go(frame, closed))
    return True


def _let_go(frame: FrameType, scope: Scope) -> None:
    scopes = held.get(frame, [])
    if scope in scopes:
        scopes.remove(scope)
    if not scopes:
        held.pop(frame, None)


def _opener() -> FrameType | None:
    """Return the frame of the code whose block is being opened: not that of a context manager that is made of one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (_is_of_contextlib(frame) or _is_ours(frame) or _is_of_contextlib(frame.f_back)):
        frame = frame.f_back
    return frame


def _is_of_contextlib(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") == _CONTEXTLIB


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("llmctx.")


def _frame_here() -> FrameType | None:
    """Return the innermost frame of such a generator beneath which this runs, in this task or thread."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_STEPS):
        if frame is None or frame in held:
            return frame
        if frame.f_code.co_name == "_run_once" and frame.f_globals.get("__name__") == "asyncio.base_events":
            return None
        frame = frame.f_back
    return None


def held_scope(scope: Scope | None) -> Scope | None:
    """Return the scope of the generator that runs here; `scope`, what the context has, if that was opened inside."""
    frame = _frame_here()
    scopes = held.get(frame) if frame is not None else None
    if not scopes or frame is None:
        return scope
    own = scopes[-1]
    return scope if scope is not None and _is_inside(scope, own, frame) else own


def _is_inside(scope: Scope, own: Scope, frame: FrameType) -> bool:
    for one in with_parents(scope):
        if one is own:
            return True
        if one.kind == "bind" and _opened_in.get(one) is not frame:
            return False
    return scope.serial > own.serial  # a request that is served beneath


def is_held_here(scope: Scope) -> bool:
    """Return whether a generator runs here that holds `scope` open."""
    frame = _frame_here() if held else None
    return frame is not None and any(one.anchor is scope.anchor for one in held.get(frame, ()))
