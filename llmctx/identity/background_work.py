"""Work that a scope began and that goes on after it, for hours: whether it is known to be that scope's still.

A job that outlives its request has inherited the request's scope. So has a worker that the request happened to start
and that serves all; and so does what such a worker starts for others. A scope that has closed long ago is believed of
a task or thread only if

- it, or one that waits for it, was seen at work in the scope early: while it was open, or soon after (`note_early`);
- none of these was ever seen at work for another user (`mark_as_worker`);
- none of these takes its work from a queue, as far as their frames show.

Everything else cannot be told from a worker. Tasks and threads are held weakly, and no more than a few for each scope.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, Final
from weakref import ReferenceType, WeakSet, ref

from llmctx.core.guard import guard_harmless
from llmctx.core.pause import pause
from llmctx.identity.await_graph import is_unawaited, job_beneath_loop, runs_here, waiting_work, work_here
from llmctx.identity.handed_requests import is_handed_request
from llmctx.identity.present_scope import is_answered_here
from llmctx.identity.scope import Scope, scope_in
from llmctx.identity.work_frames import context_of, frames_of, takes_from_a_queue

_BUDGET: Final = 64
_OF_ITS_FLOW: Final = 16
_IN_THE_DARK: Final = 4
"""What the search for those who wait may cost a scope in all, and what one costs that finds the scope's own flow, or
nothing.
"""
_GLANCES: Final = 20
_GLANCE_S: Final = 0.001

_workers: Final[WeakSet[Any]] = WeakSet()


class EarlyWork:
    """The tasks and threads that were seen at work in one scope."""

    __slots__ = ("budget", "seen")

    def __init__(self) -> None:
        self.seen: set[ReferenceType[Any]] = set()
        self.budget = _BUDGET

    def search(self, anchor: Scope) -> bool:
        """Note what runs here and what waits for it, unless that is the scope's owner. Return `note_early`'s answer."""
        runs = work_here()
        if isinstance(runs, asyncio.Task) and ref(runs) in self.seen:
            return False
        is_dark = is_unawaited(runs)  # first: if something waits for it by now, that is found below
        found: list[Any] = []
        for one in _chain(runs):
            if one is anchor.owner:
                self.budget -= _OF_ITS_FLOW
                return False
            found.append(one)
        self.budget -= _IN_THE_DARK if is_dark else 1
        self.seen.update(ref(one) for one in found if one is runs or _works_in(one, anchor))
        return is_dark


@guard_harmless("long_work_failed", otherwise=lambda scope: False)
def note_early(scope: Scope) -> bool:
    """Note that what runs here, another than the owner of `scope`, works for it: a call starts.

    True if it cannot be seen yet who waits for that: to be done again when the call ends.
    """
    anchor = scope.anchor
    work = anchor.early_work
    if work is None:
        work = anchor.early_work = EarlyWork()
    return work.budget > 0 and anchor.kind != "node" and work.search(anchor)


@guard_harmless("long_work_failed")
def mark_as_worker(scope: Scope) -> None:
    """Note that what runs here, in a `scope` that it has inherited, works for another user."""
    runs = work_here()
    found = list(_chain(runs))
    if all(one is not scope.owner for one in found):
        _workers.update(one for one in found if one is runs or _works_in(one, scope.anchor))


def is_in_the_dark() -> bool:
    """Return whether it cannot be seen yet who waits for what runs here."""
    return is_unawaited(runs_here())


def await_light() -> bool:
    """Give the code that submitted this job, or started this thread, a moment to wait for it. Models take longer.

    Return whether that may have shed light.
    """
    if asyncio._get_running_loop() is not None and job_beneath_loop() is None:
        return False
    is_job = work_here() is not None
    for glance in range(_GLANCES if is_job else 1):
        if not is_in_the_dark():
            return glance > 0
        pause(_GLANCE_S)
    return True


@guard_harmless("long_work_failed", otherwise=lambda scope: False)
def is_lasting(scope: Scope) -> bool:
    """Return whether what runs here is known to be work that `scope`, which has closed long ago, began."""
    if is_answered_here(scope) or is_handed_request(scope):
        return True
    work = scope.anchor.early_work
    if work is None:
        return False
    found = list(_chain(work_here()))
    return (
        any(ref(one) in work.seen for one in found)
        and all(one not in _workers for one in found)
        and not any(takes_from_a_queue(frame) for frame in frames_of(found))
    )


def _chain(work: Any) -> Iterable[Any]:
    """Return the tasks and jobs among `work` and all that waits for it; the thread, where there is neither."""
    if work is not None:
        return waiting_work(work)
    return (threading.current_thread(),) if asyncio._get_running_loop() is None else ()


def _works_in(one: Any, anchor: Scope) -> bool:
    """Return whether `one` has inherited a scope of `anchor`'s. The host of a task group may wait for work of many."""
    if not isinstance(one, asyncio.Task):
        return isinstance(one, threading.Thread)
    context = context_of(one)
    scope = None if context is None else scope_in(context)
    return scope is not None and scope.anchor is anchor
