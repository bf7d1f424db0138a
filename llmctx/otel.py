"""OpenTelemetry: `LlmctxSpanProcessor` puts whose a call is on the spans of whichever instrumentation makes them.

    provider.add_span_processor(LlmctxSpanProcessor(call_log))

Needs `pip install "llmctx[otel]"`. Spans of llmctx's own, and its metrics, are settings: `LLMCTX_OTEL_SPANS`,
`LLMCTX_OTEL_METRICS`. Rows are linked with the spans around their calls without any of this.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from weakref import WeakValueDictionary, ref

from llmctx.capture.call import OpenCall, key_of
from llmctx.capture.recorder import active, on_run, on_start
from llmctx.core.guard import guard_harmless
from llmctx.core.record import CallRecord
from llmctx.core.steps import remove
from llmctx.delivery.agent_name import agent_name
from llmctx.identity.candidates import gather
from llmctx.identity.config_carrier import TASK_KEY
from llmctx.identity.resolution import decide
from llmctx.identity.scope import CallContext, Scope
from llmctx.settings import load
from llmctx.telemetry import names, observer
from llmctx.telemetry.attributes import Attributes, people_attributes, user_shown
from llmctx.telemetry.instrumentations import LANGSMITH, RUNS, SCOPE, STARTS, is_about_models, run_of, scope_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llmctx.calllog import CallLog
else:
    try:
        from opentelemetry.sdk.trace import SpanProcessor
    except ImportError:  # processors of spans are the SDK's; without it this can still be imported
        SpanProcessor = object

__all__ = ["LlmctxSpanProcessor"]

_MOST: Final = 10_000


class LlmctxSpanProcessor(SpanProcessor):
    """Puts user, session, conversation, agent and call onto every span about a model or an agent, where it lacks them.

    Whose a span is follows from the same sources as a row does. The user is hashed unless `LLMCTX_OTEL_USER` says
    otherwise; `llmctx.call.id` is the row's. What an instrumentation has set itself is left as it is.

    Args:
        call_log: whose settings count; without one, those of the environment.
    """

    def __init__(self, call_log: CallLog | None = None) -> None:
        self._shown = user_shown(load() if call_log is None else call_log.settings)
        self._calls: WeakValueDictionary[object, OpenCall] = WeakValueDictionary()
        """Run -> its call, until there is a row of it."""
        self._runs: OrderedDict[object, _Run] = OrderedDict()
        """Some instrumentations make the span of a run before we hear of it, some long afterwards."""
        on_start.append(self._call_started)
        on_run.append(self._run_started)
        observer.on_record.append(self._remember)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Put the attributes onto a span about a model: known by its scope, its attributes, or what starts it."""
        self._begin(span)

    def on_end(self, span: Any) -> None:
        """Do nothing: an ended span cannot be changed."""

    def shutdown(self) -> None:
        """Forget the calls that have ended."""
        remove(on_start, self._call_started)
        remove(on_run, self._run_started)
        remove(observer.on_record, self._remember)
        self._runs.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: nothing waits here."""
        return True

    @guard_harmless("otel_failed")
    def _begin(self, span: Any) -> None:
        scope = scope_name(span)
        if not span.is_recording() or scope == SCOPE:
            return
        about_models = is_about_models(span)
        run_id = run_of(sys._getframe(2), RUNS if about_models else STARTS)  # a request by HTTP is in a call as well
        if run_id is not None:
            run, call = self._run(run_id.int), self._calls.get(run_id.int)
            if call is not None:
                run.attributes = self._of_call(call)
            # LangSmith makes its spans in a thread of its own
            run.add(span, {} if run.attributes or scope == LANGSMITH else self._of_here())
        elif about_models:
            _put(span, self._of_here())

    def _run(self, key: object) -> _Run:
        run = self._runs.setdefault(key, _Run())
        if len(self._runs) > _MOST:
            self._runs.popitem(last=False)
        return run

    @guard_harmless("otel_failed")
    def _call_started(self, call: OpenCall) -> None:
        self._calls[call.key] = call
        attributes = self._of_call(call)
        if (run := self._runs.get(call.key)) is not None:
            run.tell(attributes)
        self._tell_around(call.parent_run_id, call.metadata or {}, attributes.get(names.AGENT))

    @guard_harmless("otel_failed")
    def _run_started(self, run_id: UUID, identity: CallContext, scope: Scope | None, told: Mapping[str, Any]) -> None:
        run, metadata = self._run(key_of(run_id)), told.get("metadata") or {}
        run.parent, run.path = told.get("parent_run_id"), metadata.get(TASK_KEY)
        # what begins before the node's scope does learns its agent from what runs inside
        is_known = identity.agent_key or scope is not None or "lc_agent_name" in metadata
        agent = identity.agent_key or (agent_name(metadata, scope) if is_known else None)
        run.tell(people_attributes(identity, self._shown(identity.user_id), agent=agent))
        self._tell_around(run.parent, metadata, agent)

    def _tell_around(self, parent: UUID | None, metadata: Mapping[str, Any], agent: Any) -> None:
        """Tell the agent of a run to those around it that lack one: up to its node, and the graph if it is named so."""
        path, is_node = metadata.get(TASK_KEY), agent == metadata.get("langgraph_node")
        while agent and path and parent is not None and (run := self._runs.get(key_of(parent))) is not None:
            is_graph = run.path != path
            if is_graph and is_node:
                return
            if names.AGENT not in run.attributes:
                run.tell({**run.attributes, names.AGENT: agent})
            parent = None if is_graph else run.parent

    def _of_here(self) -> Attributes:
        """Return whose the code is that runs, as a call would be attributed that it made."""
        recorder = active[-1] if active else None
        if recorder is None:
            return {}
        identity = decide(gather(None), recorder.registry, late_s=recorder.late_s).identity
        return people_attributes(identity, self._shown(identity.user_id))

    def _of_call(self, call: OpenCall) -> Attributes:
        identity = call.attribution.identity
        agent = identity.agent_key or agent_name(call.metadata or {}, call.scope)
        attributes = people_attributes(identity, self._shown(identity.user_id), agent=agent)
        return {**attributes, names.CALL_ID: str(UUID(int=call.call_id.int))}

    def _remember(self, record: CallRecord) -> None:
        if record.run_id is not None:
            attributes = people_attributes(record, self._shown(record.user_id))
            self._run(record.run_id.int).attributes = {**attributes, names.CALL_ID: str(record.call_id)}


class _Run:
    """A run of LangChain's: what is put onto its spans, and those that have started."""

    def __init__(self) -> None:
        self.attributes: Attributes = {}
        self.parent: UUID | None = None
        self.path: Any = None
        """The place of a node in its graphs, as LangGraph spells it."""
        self._spans: list[list[Any]] = []
        """Of each, a weak reference, and the attributes that we have put onto it."""

    def add(self, span: Any, until_known: Attributes) -> None:
        """Put the attributes onto a span that starts; `until_known` as long as there are none."""
        entry: list[Any] = [ref(span), frozenset()]
        self._spans.append(entry)  # first: another thread may come to know them now
        entry[1] = _put(span, self.attributes or until_known)

    def tell(self, attributes: Attributes) -> None:
        """Put these onto the spans in place of those before."""
        self.attributes = attributes
        for entry in list(self._spans):
            span = entry[0]()
            if span is not None and span.is_recording():
                entry[1] |= _put(span, attributes, entry[1])


def _put(span: Any, attributes: Attributes, ours: frozenset[str] = frozenset()) -> frozenset[str]:
    """Set the attributes that the span lacks, and those that are `ours`. Return which were set."""
    present = span.attributes or {}
    new = {name: value for name, value in attributes.items() if name not in present or name in ours}
    for name, value in new.items():
        span.set_attribute(name, value)
    return frozenset(new)
