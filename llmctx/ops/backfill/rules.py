"""Rules for a row that lacks its user or its session: pure decisions, from facts about what it belongs to.

A fact is what some other row, a checkpoint or the team's mapping says of a trace, a thread, a conversation or a
session. One of them names the user if everything that is known of it names this one user; and nothing else that the
row belongs to may speak against it. Rows that were filled here before, and rows whose witnesses disagreed, prove
nothing, but they can object. Nothing is concluded from conclusions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from llmctx.core.record import Reason

CHECKPOINT: Final = "checkpoint"
"""What LangGraph keeps of a thread."""
MAPPING: Final = "mapping"
RULES: Final = ("mapping", "trace", "thread", "conversation", "session", "checkpoint")
ON_PURPOSE: Final = frozenset({Reason.SHARED_THREAD, Reason.SHARED_JOB, Reason.CONFLICT, Reason.ERASED})
"""Reasons for which llmctx itself left a row without its ids: it knew of several."""
CROWD: Final = 200
"""Facts from which on a thing says nothing of a user: a session named `default`."""


class Fact(NamedTuple):
    """A user was seen with a trace, a thread, …"""

    user: str | None
    session: str | None
    is_proof: bool = True
    """It may be believed; else it can only object."""
    blocks: bool = False
    """Nothing can be concluded from this thing: several have used it, of whom rows may not tell."""


Facts = Mapping[tuple[str, str], Sequence[Fact]]
"""By kind and value."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A row that lacks something: blank is None."""

    user: str | None
    session: str | None
    reason: str | None
    belongs: Mapping[str, str]
    """By kind: what it belongs to. `mapping:…` kinds are the team's own."""


@dataclass(frozen=True, slots=True)
class Filling:
    """The ids that the row gets, and by which rules; or why it gets none."""

    user: str | None = None
    session: str | None = None
    rules: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def source(self) -> str:
        """Return the value for the column `identity_source`."""
        return "backfill:" + "+".join(self.rules)


NOTHING: Final = Filling(refusal="nothing is known")
DELIBERATE: Final = Filling(refusal="left open on purpose: several users, or sources that disagreed")
CONTRADICTION: Final = Filling(refusal="contradiction: what it belongs to names different ones")
AMBIGUOUS: Final = Filling(refusal="ambiguous: several users or sessions have used what it belongs to")


def rule_of(kind: str) -> str:
    return kind.partition(":")[0].removesuffix("_id")


def decide(gap: Gap, facts: Facts, rules: Collection[str] = RULES) -> Filling:
    """Return what `gap` gets, by `rules`; the others may still object.

    The caller has seen to it that `facts` hold what is known of every session in them.
    """
    known = [
        (kind, found)
        for kind, value in gap.belongs.items()
        if (found := facts.get((kind, value))) and len(found) <= CROWD
    ]
    if gap.reason in ON_PURPOSE:  # the team may know better, but not by the thread that several have used
        known = [
            (kind, found) for kind, found in known if kind.startswith(f"{MAPPING}:") and kind != f"{MAPPING}:thread_id"
        ]
        if not known:
            return DELIBERATE
    silent = {kind for kind, _ in known if rule_of(kind) not in rules}
    spoiled = {kind for kind, found in known if any(fact.blocks for fact in found)}
    if "thread_id" in spoiled:
        spoiled.add(CHECKPOINT)
    user, by_user, refusal = (gap.user, None, None) if gap.user else _user(known, spoiled | silent)
    if refusal is not None:
        return refusal
    session, by_session, refusal = (gap.session, None, None) if gap.session else _session(known, spoiled | silent, user)
    if refusal is not None and by_user is None:
        return refusal
    if by_user is None and by_session is None:
        several = spoiled or any(len(_users(found)) > 1 for _, found in known)
        return AMBIGUOUS if several else NOTHING
    if user and session and not _agree(user, facts.get(("session_id", session), ())):
        return CONTRADICTION
    rules = dict.fromkeys(rule_of(kind) for kind in (by_user, by_session) if kind is not None)
    return Filling(user if by_user else None, session if by_session else None, tuple(rules))


def _agree(user: str, facts: Sequence[Fact]) -> bool:
    users = _users(facts)
    return not users or user in users or len(facts) > CROWD


def _users(facts: Iterable[Fact]) -> set[str]:
    return {fact.user for fact in facts if fact.user}


def _sessions(facts: Iterable[Fact]) -> set[str]:
    return {fact.session for fact in facts if fact.session}


_Found = tuple[str | None, str | None, Filling | None]
"""The value, the kind that gave it, and why there is none where that is to be said."""


def _user(evidence: Sequence[tuple[str, Sequence[Fact]]], silent: set[str]) -> _Found:
    votes = {
        kind: next(iter(users))
        for kind, found in evidence
        if kind not in silent
        and len(users := _users(found)) == 1
        and any(fact.user and fact.is_proof for fact in found)
    }
    return _elected(votes, [_users(found) for _, found in evidence])


def _session(evidence: Sequence[tuple[str, Sequence[Fact]]], silent: set[str], user: str | None) -> _Found:
    votes = {}
    for kind, found in evidence:
        sessions, users = _sessions(found), _users(found)
        # of a thing that several have used, or another user, the session may be another's
        if kind in silent or kind == "session_id" or len(sessions) != 1 or len(users) > 1:
            continue
        if user and users and user not in users:
            continue
        if any(fact.session and fact.is_proof for fact in found):
            votes[kind] = next(iter(sessions))
    return _elected(votes, [_sessions(found) for kind, found in evidence if kind != "session_id"])


def _elected(votes: Mapping[str, str], answers: Sequence[set[str]]) -> _Found:
    """Return the one whom all votes name, if none that says anything leaves it out."""
    if not votes:
        return None, None, None
    chosen = set(votes.values())
    if len(chosen) > 1 or any(names and not chosen <= names for names in answers):
        return None, None, CONTRADICTION
    order = {rule: number for number, rule in enumerate(RULES)}
    return chosen.pop(), min(votes, key=lambda kind: order[rule_of(kind)]), None
