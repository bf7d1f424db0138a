"""Calls that LangChain does not make, recorded by hand: `with call_log.record(model=…, prompt=…) as call:`."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from llmctx.capture.open_calls import OpenCall
from llmctx.capture.payload.failures import failure_of
from llmctx.capture.payload.messages import prompt_of_text
from llmctx.capture.recorder import Recorder
from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, guard_harmless
from llmctx.core.record import COLUMNS, SNAPSHOTS, SPECS, Status
from llmctx.core.tracing import current_span
from llmctx.identity.candidates import gather
from llmctx.identity.present_scope import present_scope
from llmctx.identity.resolution import decide
from llmctx.identity.scope import ID_FIELDS, CallContext


class Recording:
    """A call recorded by hand. Use it as a context manager; see `CallLog.record`."""

    def __init__(self, recorder: Recorder, identity: CallContext, fields: dict[str, Any], prompt: str | None) -> None:
        self._recorder = recorder
        self._identity = identity
        self._fields: dict[str, Any] = {}
        self._prompt = prompt
        self._call: OpenCall | None = None
        self.set(**fields)

    def set(self, **fields: Any) -> None:
        """Set columns of the row: `response="…"`, `prompt_tokens=12`, `finish_reason="stop"`, …

        A name that is no column is a TypeError. `response` and `reasoning` are texts and become snapshots.
        """
        for name, value in fields.items():
            if name in _WITNESSED:
                raise TypeError(
                    f"{name!r} is part of the identity: give record(identity=CallContext(…)), or use bind()"
                )
            if name not in _SETTABLE:
                raise TypeError(f"{name!r} is not a column that can be set. Choose from {', '.join(sorted(_SETTABLE))}")
            self._fields[name] = value

    def __enter__(self) -> Self:
        self._begin()
        return self

    @guard("record_failed", "%s failed: a call recorded by hand has no row")
    def _begin(self) -> None:
        recorder = self._recorder
        if recorder.enabled:
            candidates = gather(None, explicit=self._identity)
            call = OpenCall(None, candidates, decide(candidates, recorder.registry, late_s=recorder.late_s))
            call.scope = present_scope()
            call.span = current_span() or (None if call.scope is None else call.scope.span)
            if self._prompt is not None:
                call.prompt = prompt_of_text(self._prompt, recorder.snapshot_bytes)
            call.fields = self._fields
            recorder.open_calls.start_manual(call)
            self._call = call  # what was never counted must not end
        else:
            diagnostics.count("no_call_log", "a call was recorded before its CallLog was started: it has no row")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._finish(error)

    @guard_harmless("record_failed")
    def _finish(self, error: BaseException | None) -> None:
        call = self._call
        if call is None:
            return
        if error is None:
            self._recorder.open_calls.end(call, Status.OK)
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)):
            self._recorder.open_calls.end(call, Status.CANCELLED)
        else:
            failure = failure_of(error)
            self._recorder.open_calls.end(call, Status.ERROR, failure=failure)


_MINTED: Final = frozenset(spec.name for spec in SPECS if spec.minted)
_WITNESSED: Final = frozenset({"identity_source", "identity_reason", *ID_FIELDS})
_SETTABLE: Final = (frozenset(COLUMNS) - _MINTED - _WITNESSED - set(SNAPSHOTS)) | {"response", "reasoning"}
"""Snapshots are made from the texts."""
