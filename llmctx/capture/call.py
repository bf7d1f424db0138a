"""One call that is under way: what is known of it so far."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import uuid_utils

from llmctx.capture.payload.failures import CallFailure
from llmctx.capture.payload.messages import Answer, Prompt, UnreadAnswer
from llmctx.capture.payload.token_usage import Stream
from llmctx.core.process import ForkStage, in_forked_child
from llmctx.core.record import Status
from llmctx.core.tracing import Span
from llmctx.identity.candidates import Candidates
from llmctx.identity.resolution import Attribution
from llmctx.identity.scope import Scope

# A forked child would go on with its parent's random numbers, and mint its parent's call_ids. Since 0.14 the library
# sees to it by itself.
in_forked_child(ForkStage.CALL_IDS)(uuid_utils.reseed_rng)


class OpenCall:
    """One call, from its start until it has become a record. Holds references, interprets nothing."""

    ended_ns = 0
    parent_run_id: UUID | None = None
    span: Span | None = None
    """The span of OpenTelemetry around it; once it has one of its own, that."""
    serialized: Any = None
    """The model, as LangChain describes it."""
    is_completion = False
    """Whether a model was asked that completes a text, not one that takes messages."""
    is_observed = False
    """Whether tracers and metrics were told of it."""
    handler: object = None
    method = ""
    is_langchains = False
    """By which method of a model it was begun, and whether that is LangChain's (`callstack.Origin`)."""
    scope: Scope | None = None
    home: object = None
    """The task, or the number of the thread, in which it started."""
    task: asyncio.Task[Any] | None = None
    """The task that awaits it, where that is certain."""
    inside: list[OpenCall] | None = None
    """The open calls of the scope in which it started, itself among them."""
    look_ns = 0
    """When to look whether it does so still."""
    is_stream = False
    shared_by = 1
    """Calls among which the figures of its answer are shared: the prompts of a batch, or calls that it made itself."""
    metadata: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    tags: list[str] | None = None
    prompt: Prompt | None = None
    answer: Answer | UnreadAnswer | None = None
    failure: CallFailure | None = None
    stream: Stream | None = None
    first_token_ns = 0
    status = Status.OK
    fields: dict[str, Any] | None = None
    call_site: dict[str, str] | None = None
    """Where a call without ids was made (`explanation.call_site`)."""
    delivered = False
    """It has reached the pipeline."""

    # What is the same for most calls stands above: to make one takes a microsecond less.
    def __init__(self, run_id: UUID | None, candidates: Candidates, attribution: Attribution) -> None:
        self.call_id: uuid_utils.UUID = uuid_utils.uuid7()
        self.created_s = time.time()
        self.started_ns = time.perf_counter_ns()
        self.run_id = run_id
        self.key = run_id.int if type(run_id) is UUID else key_of(run_id)
        self.candidates = candidates
        self.attribution = attribution
        self.unclaimed = bytearray(1)
        """What takes it out may end the call: the first to ask, in any thread. No list: each of those is visited
        by the garbage collector."""

    @property
    def is_claimed(self) -> bool:
        """Return whether it has ended, or is about to."""
        return not self.unclaimed

    def mark_first_token(self) -> None:
        self.first_token_ns = time.perf_counter_ns()


def key_of(run_id: object) -> object:
    """Return its number: to hash a UUID takes longer. A text that was put into a config comes as it is."""
    return getattr(run_id, "int", run_id)
