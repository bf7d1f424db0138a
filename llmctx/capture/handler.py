"""CallLogHandler: hears of every LLM call from LangChain, asks whose it is, and hands it on.

Synchronous and `run_inline`: it runs in the caller's thread, task and context, which is where the identity can be
read. Other shapes lose starts, run on copies of the context, or wait for busy executors. It awaits nothing, does no
I/O, and no failure of its own ever leaves it.

Its hooks run at each start, token and end, between code of LangChain's that leaves ours no warm caches: what they call
is spelled out where that saves a function call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from sys import exc_info
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config

from llmctx.capture.callstack import Origin, origin
from llmctx.capture.open_calls import OpenCall
from llmctx.capture.payload.blocks import is_delta, is_event_with_content
from llmctx.capture.payload.failures import failure_of, is_cancelled
from llmctx.capture.payload.messages import Prompt, answer_of, hold_answer, prompt_of_messages, prompt_of_text
from llmctx.capture.payload.raw_answers import answer_in, merge, with_chunks, with_events
from llmctx.capture.payload.token_usage import Stream
from llmctx.capture.recorder import Recorder, active, on_run, on_start
from llmctx.capture.run_inline import adapt_run_inline, protect_other_handlers
from llmctx.capture.run_managers import collected_chunks, prepare_end
from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import HARMLESS, contain, guard_harmless, is_from_outside, swallow
from llmctx.core.record import Source, Status
from llmctx.core.tracing import current_span
from llmctx.identity import remote
from llmctx.identity.authority import is_guarded
from llmctx.identity.background_work import note_early
from llmctx.identity.candidates import EXPLICIT_KEYS, Candidates, as_text, gather
from llmctx.identity.config_carrier import pack
from llmctx.identity.explanation import call_site
from llmctx.identity.platform import has_platform_user, platform_user
from llmctx.identity.present_scope import present_scope
from llmctx.identity.registration import use
from llmctx.identity.registry.base import register_in_all
from llmctx.identity.resolution import UNDECIDED, Attribution, decide, recheck_waiters
from llmctx.identity.scope import EMPTY, CallContext, Scope, current_scope

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

P = ParamSpec("P")
R = TypeVar("R")


_hook = guard_harmless("handler_failed")
"""Around everything that LangChain calls."""
_stop = partial(contain, "handler_failed", HARMLESS)


class CallLogHandler(BaseCallbackHandler):
    """Record the LLM calls that LangChain reports to it.

    Usually none is made by hand: a started `CallLog` hears every call of the process. One of your own goes into
    `callbacks=`, and with `context` it says outright whose calls those are:

        model = ChatOpenAI(callbacks=[CallLogHandler(context=CallContext(user_id="nightly-report"))])

    Args:
        context: the identity of every call that this handler hears, before all other sources.
        recorder: the call log to record into; by default the one that was started last.
    """

    @property
    @_hook
    def raise_error(self) -> bool:  # type: ignore[override]  # LangChain only ever reads it
        """Return True, to LangChain, for an exception out of a hook that is the application's own (`guard.py`)."""
        problem = exc_info()[1]
        return problem is not None and is_from_outside(problem)

    run_inline = True
    """In the caller's thread, task and context; but not at the price of other handlers' events (`run_inline.py`)."""

    def __init__(
        self, *, context: CallContext | None = None, recorder: Recorder | None = None, scope: Scope | None = None
    ) -> None:
        self._explicit = context or EMPTY
        self._recorder = recorder
        self._any_recorder = recorder is None
        self._scope = scope
        """The scope in which the run began, when the handler rides along with its callbacks."""
        protect_other_handlers(CallLogHandler)

    @property
    def is_trusted(self) -> bool:
        """Return whether this knows whose the calls are that it hears: data of a caller name no other user then."""
        return self._explicit.user_id is not None or is_guarded(self._scope)

    # In configs, which applications copy, print and send to other processes.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with the identity that was given by hand alone: elsewhere the call log of that process records."""
        return _arrived, (pack(self._explicit) if self._explicit else None,)

    # LangChain asks these before each event. Chains matter only while a call is open that might have lost its end,
    # and, as tools and retrievers, where somebody asks whose they are.
    ignore_retry = ignore_custom_event = True
    ignore_agent = ignore_retriever = property(lambda self: not on_run)

    @property
    @_hook
    def ignore_chain(self) -> bool:
        recorder = self._recorder
        return recorder is None or not (recorder.open_calls or on_run)

    def _listener(self) -> Recorder | None:
        recorder = self._recorder
        if recorder is None or (self._any_recorder and not recorder.enabled):
            if not active:
                diagnostics.count("no_call_log", "a call was made before a CallLog was started: it is not recorded")
                return None
            recorder = self._recorder = active[-1]
        return recorder if recorder.enabled else None

    # -- start ----------------------------------------------------------------------------------------------------

    # `_hook` is spelled out where it matters: it would pack the arguments once more, at each start, token and end.

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **told: Any,
    ) -> None:
        try:
            recorder = self._recorder
            if recorder is None or not recorder.enabled:
                recorder = self._listener()
            if recorder is None or (recorder.open_calls.is_run_open(run_id) and self._again(recorder, run_id, told)):
                return
            prompt: Prompt | None = None
            try:  # `_read` is spelled out as well
                prompt = prompt_of_messages(messages[0], recorder.snapshot_bytes)
            except BaseException as problem:  # noqa: BLE001
                _unread(problem, prompt_of_messages)
            self._start(recorder, prompt, run_id, told, origin(1)).serialized = serialized
        except BaseException as problem:  # noqa: BLE001
            _stop(problem, "CallLogHandler.on_chat_model_start")

    @_hook
    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        adapt_run_inline()
        recorder = self._listener()
        if recorder is None or (recorder.open_calls.is_run_open(run_id) and self._again(recorder, run_id, kwargs)):
            return
        prompt = _read(prompt_of_text, prompts[0], recorder.snapshot_bytes)
        call = self._start(recorder, prompt, run_id, kwargs, origin(2), kwargs.get("batch_size") or 1)
        call.serialized, call.is_completion = serialized, True

    @_hook
    def on_chain_start(self, serialized: Any, given: Any, *, run_id: UUID, **told: Any) -> None:  # type: ignore[override]
        recorder = self._recorder
        if on_run and recorder is not None and recorder.enabled:
            candidates, attribution = self._whose(recorder, told.get("metadata"), Origin())
            for tell in on_run:
                tell(run_id, attribution.identity, candidates.here, told)

    on_tool_start = on_retriever_start = on_chain_start  # type: ignore[assignment]

    def _again(self, recorder: Recorder, run_id: UUID, event: dict[str, Any]) -> bool:
        """Return whether another handler has reported this call. The scope that comes with the later one is nearer."""
        known = recorder.open_calls.reported_by_another(run_id, self, event.get("invocation_params"))
        if known is None:
            return False
        mine, theirs = self._scope, known.candidates.carried
        here = present_scope()
        around = None if here is None else here.anchor  # whose handler was not carried here, but found here
        if self._explicit:
            known.candidates.explicit = self._explicit
        elif mine is None or mine is around or (theirs not in (None, around) and theirs.serial >= mine.serial):
            return True
        else:
            known.candidates.carried = mine
        known.attribution = self._decided(known.candidates, recorder)
        recorder.open_calls.announce(known)
        return True

    def _start(
        self,
        recorder: Recorder,
        prompt: Prompt | None,
        run_id: UUID,
        event: dict[str, Any],
        origin: Origin,
        shared_by: int = 1,
    ) -> OpenCall:
        metadata: dict[str, Any] | None = event.get("metadata")
        candidates, attribution = self._whose(recorder, metadata, origin)
        call = OpenCall(run_id, candidates, attribution)
        call.handler = self
        # and not the config of `made`, which would be kept alive
        call.method, call.is_langchains = origin.method, origin.is_langchains
        if shared_by != 1:  # completion models report the sum of a batch, with its first prompt
            call.shared_by = shared_by
        call.scope = scope = candidates.here
        call.parent_run_id = event.get("parent_run_id")
        call.span = _read(current_span) or (None if scope is None else scope.span)
        call.metadata = metadata
        call.params = event.get("invocation_params")
        call.tags = event.get("tags") or None
        call.prompt = prompt
        if attribution.identity.user_id is None or attribution.identity.session_id is None:
            call.call_site = _read(call_site, candidates.scope)
        recorder.open_calls.start(call)
        for tell in on_start:
            tell(call)
        if scope is not None and scope.anchor.owner != call.home and scope.anchor.closed_at is None:
            candidates.is_in_the_dark = note_early(scope) or candidates.is_in_the_dark
        # what is seen at the end is seen from LangChain's task
        _read(prepare_end, self, run_id, not candidates.is_in_the_dark)
        thread_id = candidates.thread_id
        if thread_id is None:
            return call
        if candidates.is_own_work is not True and candidates.scope is not None:
            remote.claim(candidates.scope, (recorder.registry,), thread_id=thread_id)
        elif attribution.source is Source.CONTEXT and scope is not None:
            # A graph that is not wrapped registers its thread here, by its first call.
            telling = candidates.scope
            if telling is not None and thread_id not in telling.threads:
                use(telling, thread_id)
                register_in_all((recorder.registry,), telling, thread_id, None)
        return call

    def _whose(
        self, recorder: Recorder, metadata: dict[str, Any] | None, origin: Origin
    ) -> tuple[Candidates, Attribution]:
        """Return whose call it is. What goes wrong in finding out costs the ids, not the row."""
        candidates = None
        try:
            configurable = _configurable_of(origin.config)
            child_thread_id = as_text(configurable.get("thread_id"))
            if child_thread_id is not None and metadata:
                told = metadata.get("thread_id")
                if (
                    told is not None
                    and child_thread_id != as_text(told)
                    and child_thread_id != as_text(_configurable_of(None).get("thread_id"))
                ):
                    # A worker that was started in a node has inherited that node's metadata, not that of its job.
                    metadata = {key: value for key, value in metadata.items() if key in EXPLICIT_KEYS}
            candidates = gather(
                metadata,
                explicit=self._explicit,
                carried=self._scope,
                child_thread_id=child_thread_id,
                platform_user=platform_user(configurable) if has_platform_user(configurable) else None,
            )
            return candidates, decide(candidates, recorder.registry, late_s=recorder.late_s)
        except BaseException as problem:  # noqa: BLE001  it reads the application's objects, and the team's registry
            if candidates is None:
                candidates = Candidates()
                candidates.here = current_scope()
            candidates.failed = True  # no source must be asked again where other tasks run
            swallow(problem, "handler_failed", "the identity of a call could not be determined")
            return candidates, UNDECIDED

    def _decided(self, candidates: Candidates, recorder: Recorder) -> Attribution:
        try:
            return decide(candidates, recorder.registry, late_s=recorder.late_s)
        except BaseException as problem:  # noqa: BLE001  a registry may be the team's own
            candidates.failed = True  # it must not be asked again where other tasks run
            swallow(problem, "handler_failed", "the identity of a call could not be determined")
            return UNDECIDED

    # -- in between -----------------------------------------------------------------------------------------------

    def on_llm_new_token(
        self, token: Any, *, chunk: Any = None, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        try:
            recorder = self._recorder
            call = None if recorder is None else recorder.open_calls.get(run_id, parent_run_id)
            if call is None:
                return
            stream = call.stream
            if stream is None:
                stream = call.stream = Stream()
                if call.is_stream and call.task is not None and recorder is not None:
                    recorder.open_calls.release(call)
            if not call.first_token_ns and is_delta(token, chunk):
                call.mark_first_token()
                stream.chunks = _read(collected_chunks, CallLogHandler)
            if chunk is not None and stream.chunks is None:
                stream.feed(chunk)
        except BaseException as problem:  # noqa: BLE001
            _stop(problem, "CallLogHandler.on_llm_new_token")

    @_hook
    def on_stream_event(self, event: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        recorder = self._recorder
        call = None if recorder is None else recorder.open_calls.get(run_id, parent_run_id)
        if call is None:
            return
        if call.stream is None:
            call.stream = Stream()
        call.stream.events.append(event)
        if not call.first_token_ns and is_event_with_content(event):
            call.mark_first_token()

    # -- end ------------------------------------------------------------------------------------------------------

    def on_llm_end(
        self, response: LLMResult, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        try:
            recorder = self._recorder
            call = None if recorder is None else recorder.open_calls.get(run_id, parent_run_id)
            if recorder is None or call is None:
                return
            if call.stream is not None:
                _read(call.stream.read_chunks)
            answer = _read(hold_answer, response, recorder.snapshot_bytes)
            if call.candidates.is_in_the_dark:
                recheck_waiters(call.candidates, recorder.late_s)
            recorder.open_calls.end(call, Status.OK, answer=answer)
        except BaseException as problem:  # noqa: BLE001
            _stop(problem, "CallLogHandler.on_llm_end")

    @_hook
    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        recorder = self._recorder
        call = None if recorder is None else recorder.open_calls.get(run_id, parent_run_id)
        if recorder is None or call is None:
            return
        partial = kwargs.get("response")
        answer = None if partial is None else _read(answer_of, partial, recorder.snapshot_bytes)
        if call.stream is not None:
            answer = _read(with_events, answer, call.stream.events, recorder.snapshot_bytes) or answer
            answer = with_chunks(answer, call.stream, recorder.snapshot_bytes)
            _read(call.stream.read_chunks)
        if call.candidates.is_in_the_dark:
            recheck_waiters(call.candidates, recorder.late_s)
        paid = _read(answer_in, error, recorder.snapshot_bytes)
        if paid is not None:
            answer = merge(paid, answer)
        if is_cancelled(error):
            recorder.open_calls.end(call, Status.CANCELLED, answer=answer)
        else:
            failure = _read(failure_of, error)
            recorder.open_calls.end(call, Status.ERROR, answer=answer, failure=failure)
            recorder.open_calls.on_sibling_failed(call)

    @_hook
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.open_calls.on_parent_ended(run_id)


def _arrived(ids: dict[str, Any] | None) -> CallLogHandler:
    """Return a pickled handler. Without a call log in this process it is silent (`_listener`)."""
    return CallLogHandler(context=None if ids is None else CallContext(**ids))


def _read(reader: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
    """Return what `reader` makes of a payload. One that cannot be read costs its text, not the row, nor its end."""
    try:
        return reader(*args, **kwargs)
    except BaseException as problem:  # noqa: BLE001  payloads are the host's and the provider's
        _unread(problem, reader)
        return None


def _unread(problem: BaseException, reader: Callable[..., object]) -> None:
    swallow(problem, "handler_failed", "%s failed; the row is stored without its result", reader.__name__)


def _configurable_of(config: dict[str, Any] | None) -> Mapping[str, Any]:
    """Return what is configurable in a config, or in langchain-core's child config: that of what a chain runs."""
    if config is None:
        config = var_child_runnable_config.get()  # type: ignore[assignment]
    found = config.get("configurable") if config else None
    return found if type(found) is dict or isinstance(found, Mapping) else _NOTHING


_NOTHING: Final[Mapping[str, Any]] = {}
