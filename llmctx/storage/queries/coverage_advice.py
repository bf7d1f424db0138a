"""What the rows without ids have in common, and what would give them ids: in words, from the groups of `coverage`.

Counts are upper bounds, and say so: a row tells why nobody could know whose call it was, not what else the
application could have said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmctx.core.record import Reason

Group = Mapping[str, Any]
"""One group of rows without ids: `rows`, and what they share of `identity_reason`, `node`, `agent_key`, …"""

_WORDS: Final = {
    "node": "node `{}`",
    "identity_reason": "reason {}",
    "where": "made at {}",
    "route": "route {}",
    "agent_key": "agent {}",
}
_MOST: Final = 0.5  # the share of rows from which on they have something in common
_ALL: Final = 0.8  # and the share of those from which on they have one thing more


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change, and how many rows at most would have had their ids with it."""

    name: str
    rows: int
    how: str


def in_common(misses: Sequence[Group]) -> list[str]:
    """One sentence or two: what most of the rows share, and what most of the others do."""
    total = _rows(misses)
    said: list[str] = []
    rest = list(misses)
    while rest and len(said) < 2:
        shared, rest = _shared(rest)
        if shared is None:
            break
        inside, words = shared
        said.append(f"{'Another ' if said else ''}{_rows(inside):,} of {total:,} {_misses(total)}: {', '.join(words)}.")
    if not said and total:
        said.append(f"The {total:,} {_misses(total)} have little in common: no reason, node or route stands out.")
    return said


def _shared(groups: Sequence[Group]) -> tuple[tuple[list[Group], list[str]] | None, list[Group]]:
    """The groups that share the most, with what it is, and the others."""
    inside, words, bar = list(groups), {}, _MOST
    while True:
        counts: Counter[tuple[str, Any]] = Counter()
        for group in inside:
            for key in _WORDS:
                if key not in words and group.get(key) is not None:
                    counts[key, group[key]] += group["rows"]
        best = max(counts, key=lambda one: (counts[one], -list(_WORDS).index(one[0])), default=None)
        if best is None or counts[best] < bar * _rows(inside):
            break
        key, value = best
        words[key] = _WORDS[key].format(value)
        inside, bar = [group for group in inside if group.get(key) == value], _ALL
    if not words:
        return None, list(groups)
    said = [words[key] for key in _WORDS if key in words]
    return (inside, said), [group for group in groups if not any(group is one for one in inside)]


def cures(misses: Sequence[Group]) -> list[Remedy]:
    """What would cure them, most rows first. Each row counts once."""
    found: Counter[str] = Counter()
    for group in misses:
        found[_cure_of(group)] += group["rows"]
    return [Remedy(name, rows, _HOW[name]) for name, rows in found.most_common()]


def _cure_of(group: Group) -> str:
    reason = group.get("identity_reason")
    if reason == Reason.NO_SCOPE and group.get("node"):
        return "wrap_graph"
    return _CURE_OF.get(reason or "", "something else")


_CURE_OF: Final[Mapping[str, str]] = {
    Reason.NO_SCOPE: "carry=True",
    Reason.SHARED_THREAD: "wrap_graph",
    Reason.UNKNOWN_THREAD: "a shared registry",
    Reason.SHARED_JOB: "one item, one job",
    Reason.REGISTRY_AWAY: "the registry's server",
    Reason.ANONYMOUS_REQUEST: "identify",
    Reason.IDENTIFY_FAILED: "identify",
    Reason.PARTIAL: "both ids",
    Reason.CONFLICT: "both ids",
    Reason.EXPIRED_SCOPE: "bind() in the task",
    Reason.INVALID_HANDOVER: "hand_over",
    Reason.INTERNAL_ERROR: "a report",
    Reason.ERASED: "nothing to cure",
}
_HOW: Final[Mapping[str, str]] = {
    "wrap_graph": "Each node then reads its ids from the state or from configurable, and each task testifies for its "
    "own user.",
    "carry=True": "CallLog(carry=True), or carry(fn) where a job is given away: threads, executors and queues then "
    "hand the scope on. What no request has started needs bind().",
    "a shared registry": "wrap_graph, so that each thread_id is registered; and one registry for all processes, where "
    "one begins a thread and another goes on with it.",
    "one item, one job": "Let the worker take one item and make its call before it takes the next; or bind() the user "
    "of each.",
    "the registry's server": "It was away when the calls were made: see the log of that time.",
    "identify": "Let identify find the user, with ContextMiddleware just inside of the authentication, or amend() once "
    "the user is known. `llmctx doctor --app` looks at it.",
    "both ids": "Give session_id and user_id where the scope is opened: in identify, in bind(), or in the state.",
    "bind() in the task": "Open a scope in the task that outlives its request; or set LLMCTX_LATE_S.",
    "hand_over": "The same LLMCTX_HANDOVER_KEY in every process, and a ttl_s longer than jobs wait.",
    "a report": "llmctx failed where it was to find out whose the calls are: the log of that time says how.",
    "nothing to cure": "Somebody was forgotten: the ids were taken out on purpose.",
    "something else": "The rows do not say why: they were not written by llmctx.",
}


def _rows(groups: Sequence[Group]) -> int:
    return sum(group["rows"] for group in groups)


def _misses(count: int) -> str:
    return "miss" if count == 1 else "misses"
