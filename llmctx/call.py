"""One call that is under way: what is known of it so far."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from uuid import UUID

import uuid_utils

from llmctx.attribution import Hearing, Verdict
from llmctx.context import Scope
from llmctx.extract import Answer, Failure, Prompt, Stream
from llmctx.record import Status

_FIRST_LOOK_NS: Final = 1_000_000_000


class OpenCall:
    """One call, from its start until it has become a record. Holds references, interprets nothing."""

    __slots__ = (
        "_unclaimed",
        "answer",
        "call_id",
        "created_s",
        "delivered",
        "ended_ns",
        "failure",
        "fields",
        "first_token_ns",
        "found",
        "handler",
        "hearing",
        "home",
        "is_stream",
        "look_ns",
        "metadata",
        "params",
        "parent_run_id",
        "prompt",
        "run_id",
        "scope",
        "started_ns",
        "status",
        "stream",
        "tags",
        "task",
        "verdict",
    )

    def __init__(self, run_id: UUID | None, hearing: Hearing, verdict: Verdict) -> None:
        self.call_id: uuid_utils.UUID = uuid_utils.uuid7()
        self.created_s = time.time()
        self.started_ns = time.perf_counter_ns()
        self.ended_ns = 0
        self.run_id = run_id
        self.parent_run_id: UUID | None = None
        self.hearing = hearing
        self.verdict = verdict
        self.handler: object = None
        self.scope: Scope | None = None
        self.home: object = None  # the task, or the number of the thread, in which it started
        self.task: asyncio.Task[Any] | None = None  # the task that awaits it, where that is certain
        self.look_ns = self.started_ns + _FIRST_LOOK_NS
        self.is_stream = False
        self.metadata: dict[str, Any] | None = None
        self.params: dict[str, Any] | None = None
        self.tags: list[str] | None = None
        self.prompt: Prompt | None = None
        self.answer: Answer | None = None
        self.failure: Failure | None = None
        self.stream: Stream | None = None
        self.first_token_ns = 0
        self.status = Status.OK
        self.fields: dict[str, Any] | None = None
        self.found: dict[str, str] | None = None  # where a call without ids was made
        self.delivered = False  # it has reached the pipeline
        self._unclaimed = [True]

    @property
    def is_claimed(self) -> bool:
        """Whether somebody has ended it, or is about to."""
        return not self._unclaimed

    def mark_first_token(self) -> None:
        self.first_token_ns = time.perf_counter_ns()

    def claim(self) -> bool:
        """True for the first who asks, in any thread: the one who may end the call."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False
