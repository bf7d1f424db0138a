"""The judge: holds the rows of the table against the driver's book.

A call that began is one row, with the right user, session and texts, and says how it ended; one that was issued and
never seen to begin is at most one. What was known to have ended just before a kill may be `lost`: it had not been
written down yet. No row is of a call that nobody made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmctx.cli.demo.compare import match
from llmctx.core.record import DEFAULT_TABLE
from tests.faults.book import SECRET, Book, Call, answer_to
from tests.kit.rows import query

COLUMNS: Final = (
    "call_id, run_id, user_id, session_id, status, success, model, prompt_snapshot, response_snapshot,"
    " identity_source, identity_reason, attributes, latency_ms, created_at, finished_at"
)
_TERMINAL: Final = frozenset({"ok", "error", "cancelled", "abandoned", "lost"})


@dataclass(slots=True)
class Verdict:
    """What is wrong; and, beside it, what was counted."""

    missing: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Another's user or session, or none."""
    unknown: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """Texts, statuses, the ledger, liveness."""
    harm: list[str] = field(default_factory=list)
    """What the application felt."""
    rows: int = 0
    began: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    stripped: int = 0
    ended_yet_lost: int = 0
    incidents: dict[str, int] = field(default_factory=dict)
    drained_s: float = 0.0
    fresh_s: float = 0.0
    """Right after everything was healed."""
    fresh_again_s: float = 0.0
    """With nothing else to do."""
    left_s: float = 0.0
    """How long a server took to go."""
    rss_growth: int = 0

    @property
    def findings(self) -> list[str]:
        told = []
        for name in ("missing", "double", "wrong", "unknown", "odd", "harm"):
            found = getattr(self, name)
            told += [f"{name} ({len(found)} in all): {one}" for one in found[:5]]
        return told

    @property
    def is_clean(self) -> bool:
        return not self.findings


async def rows_of(url: str, table: str = DEFAULT_TABLE) -> list[Any]:
    return await query(url, f"SELECT {COLUMNS} FROM {table}")


def judge(book: Book, rows: Sequence[Any], *, killed: Collection[str] = (), texts: bool = True) -> Verdict:
    """Hold `rows` against `book`. Calls of the lives `killed` may be lost; those of others must be what they were.

    Without `texts` snapshots may be missing, where their row says so.
    """
    verdict = Verdict(rows=len(rows), began=book.began, harm=list(book.harm))
    verdict.statuses.update(row.status for row in rows)
    for found in match(dict.fromkeys(book.calls, 1), rows, lambda row: str(row.run_id)):
        call = book.calls.get(found.key)
        if call is None:
            verdict.unknown.append(f"{found.key}: {found.rows[0]}"[:300])
            continue
        if found.extra:
            verdict.double.append(f"{found.key}: {[(str(row.call_id), row.status) for row in found.rows]}")
        if found.lost and call.began:
            verdict.missing.append(f"{call.run_id} of {call.life}, {call.way} {call.end}, ended: {call.ended}")
        for row in found.rows:
            _compare(call, row, verdict, lost=call.life in killed, texts=texts)
    if len({row.call_id for row in rows}) < len(rows):
        verdict.double.append("two rows have one call_id")
    return verdict


def _compare(call: Call, row: Any, verdict: Verdict, *, lost: bool, texts: bool) -> None:
    name = f"{call.run_id} of {call.life}, {call.way} {call.end}"
    if (row.user_id, row.session_id) != (call.user, call.session):
        why = f"{row.identity_source}, {row.identity_reason}"
        got = f"{row.user_id}, {row.session_id}"
        verdict.wrong.append(f"{name} is filed under {got} instead of {call.user}, {call.session} ({why})")
    if row.model != "faulty-1":
        verdict.odd.append(f"{name} has model {row.model}")
    if row.status == "lost":
        verdict.ended_yet_lost += call.ended
        if not lost:
            verdict.odd.append(f"{name} is lost, though nobody killed its process")
        return
    if row.latency_ms < 0 or row.finished_at < row.created_at:
        verdict.odd.append(f"{name} took {row.latency_ms} ms, from {row.created_at} to {row.finished_at}")
    if call.ended and row.status not in call.statuses:
        verdict.odd.append(f"{name} is {row.status}")
    if row.status not in _TERMINAL or row.success is not (row.status == "ok"):
        verdict.odd.append(f"{name} has status {row.status} and success {row.success}")
    if "llmctx_snapshots" in (row.attributes or {}):
        verdict.stripped += 1
        if texts:
            verdict.odd.append(f"{name} has lost its texts: {row.attributes}")
        return
    if not _holds(row.prompt_snapshot, call.prompt):
        verdict.odd.append(f"{name} has another prompt: {(row.prompt_snapshot or '')[:80]}")
    if row.status == "ok" and not _holds(row.response_snapshot, answer_to(call.run_id)):
        verdict.odd.append(f"{name} has another answer: {(row.response_snapshot or '')[:80]}")


def _holds(snapshot: str | None, text: str) -> bool:
    """Whether `text` is one of the strings in `snapshot`, or all of one but its secrets."""
    if snapshot is None:
        return False
    todo = [json.loads(snapshot)]
    while todo:
        one = todo.pop()
        if one == text or (isinstance(one, str) and one.startswith(text + SECRET)):
            return True
        if isinstance(one, (list, dict)):
            todo += one.values() if isinstance(one, dict) else one
    return False
