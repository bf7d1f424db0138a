"""What comes from outside while llmctx runs is the application's, and reaches it; what is llmctx's own does not.

Also where there is no room left: a full stack, a log that makes calls itself, a call log that closes meanwhile.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks.manager import CallbackManager

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.registry import MemoryRegistry
from llmctx.identity.scope import current_scope
from tests.faults.kit import MODEL, Kit, State


class TimeLimit(Exception):
    """What a job queue raises in the handler of a signal."""


class Killed(BaseException):
    """What a job queue throws into a thread."""


class Interrupting(MemoryRegistry):
    """Does something in the middle of llmctx: while it finds out whose call it is, or notes it."""

    def __init__(self, strike: Callable[[], None]) -> None:
        super().__init__()
        self.strike: Callable[[], None] | None = strike

    def get(self, **kwargs: Any) -> Any:
        strike, self.strike = self.strike, None
        if strike is not None:
            strike()
        return super().get(**kwargs)


@pytest.fixture
def handler_of_usr1() -> Iterator[Callable[[Callable[..., Any]], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler) and None
    signal.signal(signal.SIGUSR1, before)


def _time_is_up(number: int, frame: Any) -> None:
    raise TimeLimit


def _exit(number: int, frame: Any) -> None:
    sys.exit(3)


def _throw(kind: type[BaseException]) -> None:
    """As `PyThreadState_SetAsyncExc` is used, by dramatiq and others: into a thread that runs anything."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(kind))
    for _ in range(1000):
        pass


def _call(strike: Callable[[], None]) -> tuple[Any, list[Any]]:
    """Make a call that knows a thread only, so that the registry is asked, and tell what came of it, and the rows."""
    sink = MemorySink()
    came: Any
    with CallLog(sink=sink, registry=Interrupting(strike)) as call_log:
        try:
            came = MODEL.invoke("of nobody: hello", {"configurable": {"thread_id": "t"}}).content
        except BaseException as problem:
            came = type(problem)
        assert MODEL.invoke("of nobody: again").content == "heard of nobody: again"
        call_log.flush(5.0)
        assert current_scope() is None
    return came, sink.records


def _ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("handler", "kind"),
    [(signal.default_int_handler, KeyboardInterrupt), (_time_is_up, TimeLimit), (_exit, SystemExit)],
)
def test_what_a_signal_raises_in_our_code_reaches_the_application(
    handler: Callable[..., Any], kind: type[BaseException], handler_of_usr1: Callable[..., None]
) -> None:
    """Ctrl-C, a job's time limit, a worker's shutdown are not lost, though they strike inside of a handler."""
    handler_of_usr1(handler)
    came, _ = _call(lambda: signal.raise_signal(signal.SIGUSR1))
    assert came is kind


@pytest.mark.parametrize("kind", [Killed, SystemExit, KeyboardInterrupt])
def test_what_is_thrown_into_the_thread_reaches_the_application(kind: type[BaseException]) -> None:
    came, _ = _call(lambda: _throw(kind))
    assert came is kind


@pytest.mark.parametrize("kind", [ValueError, Killed, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_our_own_code_raises_does_not(kind: type[BaseException]) -> None:
    """Whatever its class: it was raised by code that we called, not by what struck us."""

    def fail() -> None:
        raise kind

    def throw() -> None:
        (_ for _ in ()).throw(kind())

    for strike in (fail, throw):
        came, records = _call(strike)
        assert came == "heard of nobody: hello"
        assert len(records) == 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Killed, TimeLimit])
def test_what_the_application_raises_in_its_own_node_passes(kind: type[BaseException]) -> None:
    """Through wrapped nodes and blocks, the same object; the scopes are closed, the call has its row."""
    from langgraph.graph import START, StateGraph

    problem = kind()

    def node(state: State) -> State:
        MODEL.invoke("of ada: before")
        raise problem

    sink = MemorySink()
    with CallLog(sink=sink) as call_log:
        kit = Kit(True, call_log)
        builder = StateGraph(State)
        builder.add_node("node", kit.node(node))
        builder.add_edge(START, "node")
        graph = kit.wrap(builder).compile()
        with pytest.raises(kind) as caught, bind(user_id="ada"):
            graph.invoke({"text": "x"})
        assert caught.value is problem
        assert current_scope() is None
        call_log.flush(5.0)
    assert [record.user_id for record in sink.records] == ["ada"]


def _at_depth(depth: int, work: Callable[[], Any]) -> Any:
    return work() if depth == 0 else _at_depth(depth - 1, work)


def _outcome(depth: int) -> str:
    try:
        return str(_at_depth(depth, lambda: MODEL.invoke("of ada: deep").content))
    except RecursionError:
        return "too deep"


def test_a_stack_that_is_almost_full_is_as_deep_as_without_us() -> None:
    """At every depth near the limit a call does what it does without llmctx, and the ones after it have their rows."""
    limit = sys.getrecursionlimit()
    room = limit - len(inspect.stack(0))
    depths = range(room - 120, room)
    usual = {depth: _outcome(depth) for depth in depths}
    assert set(usual.values()) == {"too deep", "heard of ada: deep"}
    sink = MemorySink()
    with CallLog(sink=sink) as call_log, bind(user_id="ada"):
        assert {depth: _outcome(depth) for depth in depths} == usual
        MODEL.invoke("of ada: shallow")
        call_log.flush(5.0)
        assert call_log.stats().balanced
    assert sink.records[-1].user_id == "ada"
    counted = call_log.stats().incidents
    answered = sum(outcome != "too deep" for outcome in usual.values())
    recorded = sum(record.status == "ok" for record in sink.records) - 1
    assert answered - recorded <= counted.get("handler_failed", 0) + counted.get("unsaid", 0)


def test_a_log_that_makes_calls_itself_comes_to_an_end() -> None:
    """The application's log handler asks a model about each line, and that call fails in llmctx as well."""
    asked = threading.local()
    lines: list[str] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            asked.depth = getattr(asked, "depth", 0) + 1
            assert asked.depth < 10
            lines.append(record.getMessage())
            try:
                MODEL.invoke("of nobody: what is this line about?", {"configurable": {"thread_id": "t"}})
            finally:
                asked.depth -= 1

    class Failing(MemoryRegistry):
        def get(self, **kwargs: Any) -> Any:
            raise ValueError("the registry fails")

    sink, handler = MemorySink(), Asking()
    diagnostics.reset()
    logging.getLogger("llmctx").addHandler(handler)
    try:
        with CallLog(sink=sink, registry=Failing()) as call_log:
            for _ in range(5):
                MODEL.invoke("of nobody: hello", {"configurable": {"thread_id": "t"}})
            call_log.flush(5.0)
    finally:
        logging.getLogger("llmctx").removeHandler(handler)
    assert len(lines) < 10
    assert len([one for one in sink.records if "hello" in (one.prompt_snapshot or "")]) == 5


def test_a_log_handler_that_raises_disturbs_nobody() -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Killed

    handler = Raising()
    diagnostics.reset()
    logging.getLogger("llmctx").addHandler(handler)

    def fail() -> None:
        raise ValueError("within llmctx")

    try:
        came, records = _call(fail)
    finally:
        logging.getLogger("llmctx").removeHandler(handler)
    assert came == "heard of nobody: hello"
    assert records


def test_a_call_log_that_closes_while_a_call_begins() -> None:
    """LangChain asks twice for the handler: it must not hear of one, and then of none."""
    sink = MemorySink()
    call_log = CallLog(sink=sink).start()
    added = CallbackManager.add_handler

    from langchain_core.tracers.context import _configure_hooks

    ours = next(hook for hook, *_ in _configure_hooks if getattr(hook, "recorder", None) is call_log._recorder)
    asked = type(ours).get
    times: list[None] = []

    def get(self: Any, default: Any = None) -> Any:
        answer = asked(self, default)
        if self is ours and not times:
            times.append(None)
            call_log.close()
        return answer

    try:
        type(ours).get = get
        assert MODEL.invoke("of nobody: hello").content == "heard of nobody: hello"
    finally:
        type(ours).get = asked
    assert times
    assert CallbackManager.add_handler is added
