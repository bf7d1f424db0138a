"""The codes of a row in words: why this user, and why an id is missing. For people, never for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from llmctx.core.record import Reason, Source, Status
from llmctx.identity.sources import RANK

SOURCES: Final[Mapping[str, str]] = {
    Source.EXPLICIT: "The call itself had its identity, on its handler or in its config's metadata.",
    Source.CONTEXT: "The scope that was open around the call (request, bind() or node) named them.",
    Source.CARRIED: "The scope in which the run began travelled with the callbacks, into another thread or process.",
    Source.TASK: "The registry knows whom the LangGraph task of this call works for.",
    Source.THREAD: "The registry knows the one user of the call's thread_id.",
    Source.LATE: "The scope had closed before; the call is from a task or thread that it had started.",
    Source.NONE: "No source knew the call's identity, and llmctx does not guess.",
}


class ReasonText(NamedTuple):
    """A remedy for many such rows, of `REMEDIES`; and the meaning of the reason, with the first thing to do."""

    remedy: str
    text: str


REASONS: Final[Mapping[str, ReasonText]] = {
    Reason.NO_SCOPE: ReasonText("carry=True", "There was no scope, no thread_id and no carried identity. Wrap the "
        "work in bind(), or carry() it into its thread."),
    Reason.ANONYMOUS_REQUEST: ReasonText("identify", "The request had no authenticated user. Check `identify` and "
        "the order of the middlewares, or amend() once the user is known."),
    Reason.IDENTIFY_FAILED: ReasonText("identify", "The application's `identify` raised an exception: see the log of "
        "that time."),
    Reason.INVALID_HANDOVER: ReasonText("hand_over", "The identity that was handed over with the job was forged or "
        "had expired: see the log of that time."),
    Reason.UNKNOWN_THREAD: ReasonText("a shared registry", "The thread_id is not in the registry: no scope of "
        "this process has named it, or it was forgotten. amend(thread_id=…) where its user is known; and a shared "
        "registry for several processes."),
    Reason.SHARED_THREAD: ReasonText("wrap_graph", "Several users have used this thread, so it identifies none of "
        "them. Use wrap_graph: each task identifies its own user."),
    Reason.REGISTRY_AWAY: ReasonText("the registry's server", "Only another process could know, and the shared "
        "registry did not answer. Check LLMCTX_REGISTRY_URL, and the log of that time."),
    Reason.SHARED_JOB: ReasonText("one item, one job", "A worker had taken items of several users from its queue "
        "before it made the call. Pass on each item's config or thread_id, or use bind() for each."),
    Reason.EXPIRED_SCOPE: ReasonText("bind() in the task", "The scope had closed too long ago to be believed "
        "(LLMCTX_LATE_S), and the caller may be a shared worker. Open one in the task itself, with bind()."),
    Reason.INTERNAL_ERROR: ReasonText("a report", "llmctx itself failed to find out whose the call is, "
        "and did not guess: see the log of that time, and please report it."),
    Reason.PARTIAL: ReasonText("both ids", "The source knew only one of user and session. Give both where the scope "
        "is opened."),
    Reason.CONFLICT: ReasonText("both ids", "Sources named different users; the strongest one was used."),
    Reason.ERASED: ReasonText("nothing to cure", "Ids and texts were taken out of the row (`llmctx erase --blank`); "
        "its figures are still counted."),
}  # fmt: skip
REMEDIES: Final[Mapping[str, str]] = {
    "wrap_graph": "Each node then reads its ids from the state or from configurable, and each task identifies "
    "its own user.",
    "carry=True": "CallLog(carry=True), or carry(fn) where a job is handed off: threads, executors and queues then "
    "carry the scope. Work that no request started needs bind().",
    "a shared registry": "Where another process begins the threads: one registry for all processes. Where this one "
    "does: wrap_graph; and amend(thread_id=…), or CallLog(carry=True), before a thread or an executor gets the work.",
    "one item, one job": "Let the worker take one item and make its call before it takes the next; or bind() the "
    "user of each.",
    "the registry's server": "It did not answer when the calls were made: see the log of that time.",
    "identify": "Let identify find the user, with ContextMiddleware directly inside the authentication, or amend() "
    "once the user is known. `llmctx doctor --app` checks it.",
    "both ids": "Give session_id and user_id where the scope is opened: in identify, in bind(), or in the state.",
    "LLMCTX_SESSION=thread": "These rows have a user and a thread_id and lack only the session. Where a thread is a "
    "session, as it is in most LangGraph applications, set LLMCTX_SESSION=thread or CallLog(session=\"thread\"); "
    "otherwise give the session_id where the scope is opened.",
    "bind() in the task": "Open a scope in the task that outlives its request; or set LLMCTX_LATE_S.",
    "hand_over": "The same LLMCTX_HANDOVER_KEY in every process, and a ttl_s longer than jobs wait.",
    "a report": "llmctx failed to find out whose the calls are: see the log of that time.",
    "nothing to cure": "A user was erased: the ids were taken out on purpose.",
    "something else": (
        "The rows do not say why: they were not written by llmctx. `llmctx backfill` fills what other rows prove."
    ),
}  # fmt: skip
"""What would give rows like those their ids, and how to do it."""

STATUSES: Final[Mapping[str, str]] = {
    Status.OK: "It ended well.",
    Status.ERROR: "It failed.",
    Status.CANCELLED: "Its task was cancelled, it timed out, or a sibling failed.",
    Status.ABANDONED: "The stream was never read to the end.",
    Status.LOST: "The process died while it was open.",
}


def explain(row: Mapping[str, Any]) -> list[str]:
    """Return why this row belongs to its user, or to none: one sentence or two."""
    source, reason = row.get("identity_source"), row.get("identity_reason")
    if source is None and reason is None:
        return ["The row does not say: it was not written by llmctx."]
    said = [SOURCES.get(source, f"By {source}.")] if source else []
    if reason:
        said.append(REASONS[reason].text if reason in REASONS else f"Reason: {reason}.")
    return said


ALONE: Final = "No other source was needed, and none disagreed."
"""Of a row that keeps nothing of its hearing: what the one in `identity_source` said was enough."""


def was_plain(row: Mapping[str, Any]) -> bool:
    """Return whether one source knew everything, so that the row keeps no more of it than its name."""
    known = row.get("user_id") is not None and row.get("session_id") is not None
    return known and row.get("identity_source") not in (None, Source.NONE) and not row.get("identity_reason")


VERDICTS: Final[Mapping[str, str]] = {
    "believed": "believed",
    "refused": "refused: what callers send, or a config of another request, never names another user than the server",
    "no_ids": "knew neither user nor session",
    "inherited": "not believed: its scope may belong to another user",
    "uncertain": "not believed: not certain enough",
    "agrees": "agrees",
    "gave_user": "agrees, and provided the user_id",
    "gave_session": "agrees, and provided the session_id",
    "other_user": "not believed: names another user, and %(theirs)s comes before %(mine)s",
    "other_session": "not believed: names another session, and %(theirs)s comes before %(mine)s",
    "inherited_user": "not believed: names another user; the scope was inherited from the worker's creator",
    "inherited_session": "not believed: names another session; the scope was inherited from the worker's creator",
}
"""Why a source was believed, or was not, by code."""


class Outcome(str):
    """The reason to believe one source, or not: an English sentence that keeps its code, for translations."""

    __slots__ = ("code", "names", "note")
    code: str
    names: Mapping[str, str]
    note: str

    def __new__(cls, code: str, names: Mapping[str, str] | None = None, note: str = "") -> Outcome:
        """Return the sentence of `code`, one of `VERDICTS`; `note` is what the source itself noted."""
        names = names or {}
        self = super().__new__(cls, cls.render(VERDICTS[code], names, note))
        self.code, self.names, self.note = code, names, note
        return self

    def __getnewargs__(self) -> tuple[str, Mapping[str, str], str]:  # type: ignore[override]  # of a str with one argument
        """Let a copy be made of the code, not of its sentence."""
        return self.code, self.names, self.note

    @staticmethod
    def render(pattern: str, names: Mapping[str, str], note: str) -> str:
        """Return `pattern` with its `names` filled in and its note behind it."""
        return f"{pattern % names} ({note})" if note else pattern % names


@dataclass(frozen=True, slots=True)
class CandidateOutcome:
    """The answer of one source about a call, and the outcome."""

    source: str
    user_id: str | None
    session_id: str | None
    believed: bool
    verdict: Outcome
    """Why it was believed, or was not."""


def candidate_outcomes(row: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[CandidateOutcome]:
    """Return what each source said of the call `row`; `evidence` is what the row keeps of it."""
    said = [one for one in evidence.get("witnesses") or () if isinstance(one, Mapping)]
    winner = next((one for one in said if one.get("source") == row.get("identity_source")), None)
    found = []
    for place, one in enumerate(said):
        last = winner is not None and place > said.index(winner) and one.get("source") == Source.EXPLICIT
        code = "believed" if one is winner else _verdict(one, winner, row, evidence, last=last)
        names = {"mine": str(one.get("source")), "theirs": str((winner or {}).get("source"))}
        verdict = Outcome(code, names, str(one.get("note") or ""))
        found.append(CandidateOutcome(names["mine"], one.get("user_id"), one.get("session_id"), one is winner, verdict))
    refused = [one for one in evidence.get("refused") or () if isinstance(one, Mapping)]
    return [
        *found,
        *(
            CandidateOutcome("data", one.get("user_id"), one.get("session_id"), False, Outcome("refused"))
            for one in refused
        ),
    ]


def _verdict(
    one: Mapping[str, Any],
    winner: Mapping[str, Any] | None,
    row: Mapping[str, Any],
    evidence: Mapping[str, Any],
    *,
    last: bool,
) -> str:
    """Return the code of why `one` was not believed. `last`: its ids are data, believed after all others."""
    if one.get("user_id") is None and one.get("session_id") is None:
        return "no_ids"
    if winner is None:
        return "inherited" if evidence.get("inherited") else "uncertain"
    kinds = [name for name in ("user_id", "session_id") if None not in (one.get(name), winner.get(name))]
    other = next((name for name in kinds if one[name] != winner[name]), None)
    if other is None:
        filled = [name for name in ("user_id", "session_id") if winner.get(name) is None and one.get(name) is not None]
        given = next((name for name in filled if row.get(name) == one[name]), None)
        return {None: "agrees", "user_id": "gave_user", "session_id": "gave_session"}[given]
    what = other.removesuffix("_id")
    mine, theirs = str(one.get("source")), str(winner.get("source"))
    if not last and RANK.get(mine, 0) < RANK.get(theirs, 0):
        return f"inherited_{what}"
    return f"other_{what}"
