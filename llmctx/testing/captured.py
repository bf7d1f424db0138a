"""For tests of applications: a sink in memory, and a block that collects every call made in it.

    with captured_calls() as calls:  # or `async with`; the pytest fixture `llm_calls` is one, too
        client.post("/chat", json={"question": "May I go for a walk?"})
    calls.assert_all_attributed()

No database, and no change to the application: a call log of its own hears the calls besides the application's.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink, first_words
from llmctx.identity.explanation import KEY

if TYPE_CHECKING:
    from llmctx.calllog import CallLog

_FLUSH_S: Final = 10.0


def captured_calls(**settings: Any) -> CapturedCalls:
    """Return a block, `with` or `async with`, that collects the LLM calls made in it.

    `settings` are those of `CallLog`: `captured_calls(carry=True)` if that is how the application starts its own.
    """
    return CapturedCalls(settings)


class CapturedCalls:
    """The LLM calls of a block. See `captured_calls`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._sink = MemorySink()
        self._call_log: CallLog | None = None

    @property
    def records(self) -> list[CallRecord]:
        """Return the calls that have ended so far, in the order in which they ended."""
        if self._call_log is not None:
            self._call_log.flush(_FLUSH_S)
        return list(self._sink.records)

    @property
    def unattributed(self) -> list[CallRecord]:
        """Return those without a session or without a user."""
        return [record for record in self.records if record.session_id is None or record.user_id is None]

    def assert_all_attributed(self) -> None:
        """Fail unless every call has its session and its user; say where those were made that have not.

        Fails as well when no call was made at all: then nothing has been shown.
        """
        __tracebackhide__ = True
        records = self.records
        assert records, "no LLM call was made, so none could be attributed"
        missing = self.unattributed
        if missing:
            raise AssertionError(failure_message(missing, len(records)))

    def __enter__(self) -> Self:
        from llmctx.calllog import CallLog
        from llmctx.capture.recorder import active
        from llmctx.identity import handover  # late: `MemorySink` alone needs none of this

        # The file is never made: a call log with a sink of its own has no writer.
        nowhere = {"database_url": "sqlite+aiosqlite:///captured.db", "db_schema": ""}
        chosen = {**nowhere, "capture": "all", "content": "full"}
        before = handover.configuration()
        is_beside_another = bool(active)
        self._call_log = CallLog(sink=self._sink, **{**chosen, **self._settings}).start()
        if is_beside_another:
            handover.configure(*before)  # the application's own keys stay
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._call_log is not None:
            self._call_log.close(_FLUSH_S)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._call_log is not None:
            await self._call_log.aclose(_FLUSH_S)


def failure_message(missing: Sequence[CallRecord], of: int) -> str:
    """Return what is wrong with `missing`, of `of` calls: where each was made, why ids are missing, what it asked."""
    from llmctx.identity.reasons import REASONS

    lines = [f"{len(missing)} of {of} LLM calls without identity"]
    for record in missing:
        told: dict[str, Any] = (record.attributes or {}).get(KEY) or {}
        inside = [f"node {record.node}" if record.node else "", str(told.get("route") or "")]
        place = ", ".join(part for part in inside if part)
        ids = [name for name in ("session_id", "user_id") if getattr(record, name) is None]
        reason = record.identity_reason or "no reason given"
        lines += [
            "",
            f"  {told.get('where') or 'an unknown place'}" + (f" ({place})" if place else ""),
            f"    {' and '.join(ids)} missing: {reason}",
        ]
        if reason in REASONS:
            lines.append(f"    {REASONS[reason].text}")
        if words := first_words(record.prompt_snapshot):
            lines.append(f'    prompt: "{words}"')
    return "\n".join(lines)
