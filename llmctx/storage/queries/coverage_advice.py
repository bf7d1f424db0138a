"""Advice for rows without ids: what they have in common, and what would give them ids, from the groups of `coverage`.

Counts are upper bounds, and say so: a row tells why it could not be known whose call it was, not what else the
application could have said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmctx.core.record import Reason
from llmctx.core.text import counted
from llmctx.identity.reasons import REASONS, REMEDIES

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


@dataclass(frozen=True, slots=True)
class CommonTraits:
    """Some rows without ids, and what they share: `identity_reason`, `node`, …"""

    rows: int
    values: Mapping[str, Any]


def in_common(misses: Sequence[Group]) -> list[str]:
    """Return one sentence or two: what most of the rows share, and what most of the others do."""
    total = _rows(misses)
    said: list[str] = []
    for one in common_traits(misses):
        words = ", ".join(_WORDS[name].format(value) for name, value in one.values.items())
        said.append(f"{'Another ' if said else ''}{one.rows:,} of {counted(total, 'miss', 'misses')}: {words}.")
    if total and all(group.get("lacks") for group in misses):
        said.append("All of them have a thread_id and no session: LLMCTX_SESSION=thread makes it their session.")
    elif not said and total:
        said.append(
            f"The {counted(total, 'miss has', 'misses have')} little in common: no reason, node or route stands out."
        )
    if sent := _rows([group for group in misses if group.get("sent")]):
        said.append(
            f"{sent:,} of {counted(total, 'miss', 'misses')} came with a user in state, configurable or metadata. A "
            "client can write that, so it names nobody; LLMCTX_TRUST_CONFIG=on is for callers of your own."
        )
    return said


def common_traits(misses: Sequence[Group]) -> list[CommonTraits]:
    """Return what most of the rows share, and what most of the others do: two at most."""
    found: list[CommonTraits] = []
    rest = list(misses)
    while rest and len(found) < 2:
        shared, rest = _shared(rest)
        if shared is None:
            break
        inside, values = shared
        found.append(CommonTraits(_rows(inside), values))
    return found


def call_sites(misses: Sequence[Group], limit: int = 5) -> list[tuple[str, int]]:
    """Return the lines of the application that made them, as far as the rows say, with how many; most rows first."""
    counts: Counter[str] = Counter()
    for group in misses:
        if group.get("where") is not None:
            counts[group["where"]] += group["rows"]
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:limit]


def _shared(groups: Sequence[Group]) -> tuple[tuple[list[Group], Mapping[str, Any]] | None, list[Group]]:
    """Return the groups that share the most, with what it is, and the others."""
    inside, words, bar = list(groups), dict[str, Any](), _MOST
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
        words[key] = value
        inside, bar = [group for group in inside if group.get(key) == value], _ALL
    if not words:
        return None, list(groups)
    values = {key: words[key] for key in _WORDS if key in words}
    return (inside, values), [group for group in groups if not any(group is one for one in inside)]


def remedies(misses: Sequence[Group]) -> list[Remedy]:
    """Return what would remedy them, most rows first. Each row counts once."""
    counts: Counter[str] = Counter()
    for group in misses:
        counts[_remedy_of(group)] += group["rows"]
    return [Remedy(name, rows, REMEDIES[name]) for name, rows in counts.most_common()]


def _remedy_of(group: Group) -> str:
    if group.get("lacks") == "session":
        return "LLMCTX_SESSION=thread"
    reason = str(group.get("identity_reason"))
    if reason == Reason.NO_SCOPE and group.get("node"):
        return "wrap_graph"
    return REASONS[reason].remedy if reason in REASONS else "something else"


def _rows(groups: Sequence[Group]) -> int:
    return sum(group["rows"] for group in groups)
