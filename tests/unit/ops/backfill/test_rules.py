"""What is certain of a row with a gap, and what only looks so."""

from __future__ import annotations

import pytest

from llmctx.ops.backfill.rules import AMBIGUOUS, CONTRADICTION, CROWD, DELIBERATE, NOTHING, Fact, Filling, Gap, decide

A, B = Fact("a", "s1"), Fact("b", "s2")
TRACE, THREAD, SESSION = ("trace_id", "t"), ("thread_id", "h"), ("session_id", "s1")


def gap(
    *belongs: tuple[str, str], user: str | None = None, session: str | None = None, reason: str | None = None
) -> Gap:
    return Gap(user, session, reason, dict(belongs))


BOTH = ("a", "s1")
CASES: list[tuple[str, Gap, dict[tuple[str, str], list[Fact]], tuple[str | None, str | None] | Filling]] = [
    ("one user", gap(TRACE), {TRACE: [A]}, BOTH),
    ("nothing known", gap(TRACE), {}, NOTHING),
    ("two users", gap(TRACE), {TRACE: [A, B]}, AMBIGUOUS),
    ("two sessions of one user", gap(TRACE), {TRACE: [A, Fact("a", "s2")]}, ("a", None)),
    ("session of one user", gap(SESSION, session="s1"), {SESSION: [Fact("a", None)]}, ("a", None)),
    ("session of two", gap(SESSION, session="s1"), {SESSION: [A, Fact("b", "s1")]}, AMBIGUOUS),
    ("a trace inside of a shared session", gap(TRACE, SESSION, session="s1"),
     {TRACE: [A], SESSION: [A, Fact("b", "s1")]}, ("a", None)),
    ("a trace that the session contradicts", gap(TRACE, SESSION, session="s1"),
     {TRACE: [Fact("c", None)], SESSION: [A, Fact("b", "s1")]}, CONTRADICTION),
    ("trace and thread disagree", gap(TRACE, THREAD), {TRACE: [A], THREAD: [B]}, CONTRADICTION),
    ("trace and thread agree", gap(TRACE, THREAD), {TRACE: [A], THREAD: [A]}, BOTH),
    ("a thread spoiled by what no row tells", gap(THREAD), {THREAD: [A, Fact(None, None, False, True)]}, AMBIGUOUS),
    ("a spoiled thread, its checkpoints", gap(THREAD, ("checkpoint", "h")),
     {THREAD: [Fact(None, None, False, True)], ("checkpoint", "h"): [A]}, AMBIGUOUS),
    ("what was filled before proves nothing", gap(TRACE), {TRACE: [Fact("a", "s1", False)]}, NOTHING),
    ("what was filled before objects", gap(TRACE, THREAD),
     {TRACE: [A], THREAD: [Fact("b", None, False)]}, CONTRADICTION),
    ("left open on purpose", gap(TRACE, reason="shared_thread"), {TRACE: [A]}, DELIBERATE),
    ("on purpose, and the team knows", gap(TRACE, ("mapping:trace_id", "t"), reason="conflict"),
     {("mapping:trace_id", "t"): [A]}, BOTH),
    ("on purpose, and the team names the thread", gap(("mapping:thread_id", "h"), reason="shared_thread"),
     {("mapping:thread_id", "h"): [A]}, DELIBERATE),
    ("the team contradicts the trace", gap(TRACE, ("mapping:trace_id", "t")),
     {TRACE: [B], ("mapping:trace_id", "t"): [A]}, CONTRADICTION),
    ("the team names two", gap(("mapping:trace_id", "t")), {("mapping:trace_id", "t"): [A, B]}, AMBIGUOUS),
    ("a session for a known user", gap(TRACE, user="a"), {TRACE: [A]}, (None, "s1")),
    ("another user's session", gap(TRACE, user="b"), {TRACE: [A]}, NOTHING),
    ("user and session of different people", gap(TRACE, THREAD),
     {TRACE: [Fact(None, "s9")], THREAD: [Fact("a", None)], ("session_id", "s9"): [Fact("b", "s9")]}, CONTRADICTION),
    ("a crowd", gap(TRACE), {TRACE: [Fact(f"u{n}", None) for n in range(CROWD + 1)]}, NOTHING),
    ("a crowd objects to nobody", gap(TRACE, SESSION, session="s1"),
     {TRACE: [A], SESSION: [Fact(f"u{n}", "s1") for n in range(CROWD + 1)]}, ("a", None)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "facts", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_certain(
    given: Gap, facts: dict[tuple[str, str], list[Fact]], expected: tuple[str | None, str | None] | Filling
) -> None:
    """One user of whom everything tells and to whom nothing objects; otherwise nobody, and why."""
    found = decide(given, facts)
    if isinstance(expected, Filling):
        assert found == expected
    else:
        assert (found.user, found.session, found.refusal) == (*expected, None)


def test_rules_that_may_not_fill_may_object() -> None:
    """Who allows traces only does not want the session's word to be ignored."""
    facts = {TRACE: [A], THREAD: [B]}
    assert decide(gap(TRACE, THREAD), facts, ["trace"]) == CONTRADICTION
    assert decide(gap(TRACE), facts, ["thread"]) == NOTHING
    assert decide(gap(TRACE, ("mapping:trace_id", "t")), {TRACE: [A]}).source == "backfill:trace"
