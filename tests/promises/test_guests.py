"""What llmctx puts into the application's data and classes does not disturb the application, nor its other guests."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import itertools
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import wrapt
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.handler import CallLogHandler
from tests.conftest import ROOT
from tests.kit.support import Talker

model = Talker()


@pytest.mark.parametrize("by_pickle", [False, True], ids=["deepcopy", "pickle"])
def test_configs_with_a_handler_are_copied_and_pickled(by_pickle: bool) -> None:
    """A copy records each call once; a pickled one keeps the identity that was given by hand."""
    with CallLog(sink=(sink := MemorySink())) as call_log:
        config: Any = {"callbacks": [call_log.handler, CallLogHandler(context=CallContext(user_id="u"))]}
        other = pickle.loads(pickle.dumps(config)) if by_pickle else copy.deepcopy(config)
        assert repr(other)
        assert by_pickle or other == config
        model.invoke("hello", other)
        call_log.flush()
    (record,) = sink.records
    assert record.user_id == "u"


def test_a_pickled_handler_is_silent_without_a_call_log() -> None:
    """In a process without a call log nothing happens, and the model answers."""
    handler = pickle.loads(pickle.dumps(CallLogHandler()))
    assert model.invoke("hello", {"callbacks": [handler]}).content == "heard hello"


# -- patches of the same functions -----------------------------------------------------------------------------------


class _Bound:
    """A method that is bound to its object, as wrapt's BoundFunctionWrapper."""

    def __init__(self, method: Any, seen: list[str]) -> None:
        self.method, self.seen = method, seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append("descriptor")
        return self.method(*args, **kwargs)


class _Descriptor:
    """A patch that is no function and has to be bound; it says that it is what it wraps."""

    def __init__(self, wrapped: Any, seen: list[str]) -> None:
        self.__wrapped__, self.seen = wrapped, seen

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __get__(self, one: Any, owner: Any) -> _Bound:
        return _Bound(self.__wrapped__.__get__(one, owner), self.seen)

    def __call__(self, *args: Any) -> Any:
        raise AttributeError("called without being bound")


def _with_wraps(original: Any, seen: list[str]) -> Any:
    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        seen.append("wraps")
        return original(*args, **kwargs)

    return patched


def _without_wraps(original: Any, seen: list[str]) -> Any:
    def patched(*args: Any, **kwargs: Any) -> Any:
        seen.append("plain")
        return original(*args, **kwargs)

    return patched


def _wrapt(original: Any, seen: list[str]) -> Any:
    def patched(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append("wrapt")
        return wrapped(*args, **kwargs)

    return wrapt.FunctionWrapper(original, patched)


WRAPPERS: dict[str, Callable[[Any, list[str]], Any]] = {
    "wraps": _with_wraps,
    "plain": _without_wraps,
    "wrapt": _wrapt,
    "descriptor": _Descriptor,
}


class Guest:
    """Another library that patches one function, and puts back what it had found."""

    def __init__(self, owner: Any, name: str, kind: str) -> None:
        self.owner, self.name, self.kind = owner, name, kind
        self.seen: list[str] = []

    def install(self) -> None:
        self.before = vars(self.owner)[self.name]
        setattr(self.owner, self.name, WRAPPERS[self.kind](self.before, self.seen))

    def remove(self) -> None:
        setattr(self.owner, self.name, self.before)


class Subclassing(Guest):
    """One that puts a subclass in the place of `threading.Thread`."""

    def install(self) -> None:
        self.before, seen = threading.Thread, self.seen

        class Traced(threading.Thread):
            def start(self) -> None:
                seen.append("subclass")
                super().start()

        threading.Thread = Traced  # type: ignore[misc]

    def remove(self) -> None:
        threading.Thread = self.before  # type: ignore[misc]


class Us(Guest):
    """llmctx."""

    def __init__(self) -> None:
        self.call_log = CallLog(sink=MemorySink(), carry=True)

    def install(self) -> None:
        self.call_log.start()

    def remove(self) -> None:
        self.call_log.close()


def _users_in(run: Callable[[Callable[[], None]], Any]) -> str | None:
    """Return the user whom what `run` runs elsewhere sees."""
    users: list[str | None] = []
    run(lambda: users.append(current().user_id))
    return users[0]


def _in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _in_a_pool(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def _by_a_queue(work: Callable[[], None]) -> None:
    jobs: queue.Queue[Callable[[], None]] = queue.Queue()
    worker = threading.Thread(target=contextvars.Context().run, args=(lambda: jobs.get()(),))
    contextvars.Context().run(worker.start)
    jobs.put(work)
    worker.join()


def _by_a_queue_of_tasks(work: Callable[[], None]) -> None:
    async def run() -> None:
        jobs: asyncio.Queue[Callable[[], None]] = asyncio.Queue()

        async def worker() -> None:
            (await jobs.get())()

        task = contextvars.Context().run(asyncio.create_task, worker())
        jobs.put_nowait(work)
        await task

    asyncio.run(run())


def _by_an_executor_of_the_loop(work: Callable[[], None]) -> None:
    async def run() -> None:
        await asyncio.get_running_loop().run_in_executor(None, work)

    asyncio.run(run())


TARGETS: list[tuple[Any, str, Callable[..., Any]]] = [
    (threading.Thread, "start", _in_a_thread),
    (ThreadPoolExecutor, "submit", _in_a_pool),
    (queue.Queue, "put", _by_a_queue),
    (queue.Queue, "get", _by_a_queue),
    (asyncio.Queue, "put_nowait", _by_a_queue_of_tasks),
    (asyncio.Queue, "get", _by_a_queue_of_tasks),
    (asyncio.BaseEventLoop, "create_task", _by_a_queue_of_tasks),
    (asyncio.BaseEventLoop, "run_in_executor", _by_an_executor_of_the_loop),
]
ORDERS = [
    one for one in itertools.permutations("uUgG") if one.index("u") < one.index("U") and one.index("g") < one.index("G")
]


@pytest.mark.parametrize(("owner", "name", "run"), TARGETS, ids=[f"{owner.__name__}.{n}" for owner, n, _ in TARGETS])
@pytest.mark.parametrize("kind", [*WRAPPERS, "subclass"])
def test_carry_beside_another_patch_in_any_order(kind: str, owner: Any, name: str, run: Any) -> None:
    """Both see each use for as long as they are installed; afterwards all is as it was."""
    original, code = vars(owner)[name], vars(owner)[name].__code__
    for order in ORDERS:
        guest = Subclassing(owner, name, kind) if kind == "subclass" else Guest(owner, name, kind)
        here = {"u": (us := Us()).install, "U": us.remove, "g": guest.install, "G": guest.remove}
        present: set[str] = set()
        for step in order:
            here[step]()
            (present.add if step.islower() else present.discard)(step.lower())
            guest.seen.clear()
            with bind(user_id="u"):
                assert (_users_in(run) == "u") == ("u" in present), order
            if kind != "subclass" or run is _in_a_thread:
                assert bool(guest.seen) == ("g" in present), order
        assert vars(owner)[name] is original
        assert original.__code__ is code
        assert "__wrapped__" not in vars(original)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=14))
def test_carry_beside_many_patches_that_come_and_go(steps: list[int]) -> None:
    """Two call logs and eight guests, each installed and removed again; the guests as if each were alone."""
    originals = [(owner, name, vars(owner)[name], vars(owner)[name].__code__) for owner, name, _ in TARGETS]
    targets = itertools.islice(itertools.cycle(TARGETS), 3, None)
    guests = [Guest(owner, name, kind) for (owner, name, _), kind in zip(targets, [*WRAPPERS] * 2, strict=False)]
    parties: list[Guest] = [Us(), Us(), *guests]
    installed: list[Guest] = []
    try:
        for step in steps:
            party = parties[step]
            (party.remove if party in installed else party.install)()
            (installed.remove if party in installed else installed.append)(party)
            carries = any(isinstance(one, Us) for one in installed)
            with bind(user_id="u"):
                for run in {run for _, _, run in TARGETS}:
                    assert (_users_in(run) == "u") == carries
    finally:
        for party in reversed(installed):
            party.remove()
        for owner, name, original, _ in originals:
            setattr(owner, name, original)  # guests that left in another order than they came
    assert all(original.__code__ is code for _, _, original, code in originals)


# -- patches in langchain-core ------------------------------------------------------------------------------------

BESIDE = """
import asyncio, sys
import wrapt
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, BaseCallbackManager, CallbackManager
from langchain_core.language_models import BaseChatModel, BaseLLM

class Callable:
    def __init__(self, wrapped):
        self.wrapped = wrapped
    def __get__(self, one, owner):
        return self if one is None else lambda *args, **kwargs: self.wrapped.__get__(one, owner)(*args, **kwargs)

def plain(wrapped):
    return lambda *args, **kwargs: wrapped(*args, **kwargs)

def by_wrapt(wrapped):
    return wrapt.FunctionWrapper(wrapped, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))

def patch():
    for wrap, owner, names in (
        (by_wrapt, BaseCallbackManager, ("__init__", "add_handler")),
        (by_wrapt, CallbackManager, ("on_chat_model_start",)),
        (Callable, AsyncCallbackManager, ("on_llm_start",)),
        (plain, BaseChatModel, ("generate", "agenerate", "ainvoke")),
        (Callable, BaseChatModel, ("invoke", "stream")),
        (by_wrapt, BaseChatModel, ("astream",)),
        (plain, BaseLLM, ("agenerate", "generate")),
    ):
        for name in names:
            setattr(owner, name, wrap(vars(owner)[name]))
    for manager in (CallbackManager, AsyncCallbackManager):
        manager.configure = classmethod(plain(vars(manager)["configure"].__func__))

if sys.argv[1] == "before":
    patch()
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Completer, Talker
if sys.argv[1] == "after":
    patch()

class Listener(BaseCallbackHandler):
    heard = []
    def on_llm_start(self, *args, **kwargs):
        self.heard.append("start")
    on_chat_model_start = on_llm_start
    def on_llm_end(self, *args, **kwargs):
        self.heard.append("end")

async def ask(model, config):
    model.invoke("one", config)
    [_ for _ in model.stream("two", config)]
    await model.ainvoke("three", config)
    [_ async for _ in model.astream("four", config)]
    await model.abatch(["five", "six"], config)

with CallLog(sink=(sink := MemorySink())):
    for model in (Completer(), Talker()):
        asyncio.run(ask(model, {"callbacks": [Listener()]}))
print(len(sink.records), Listener.heard.count("start"), Listener.heard.count("end"), dict(diagnostics.by_cause()))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_llmctx_beside_patches_of_langchain(when: str) -> None:
    """Imported before or after another library has wrapped what llmctx looks for: all calls, and all of its events."""
    script = [sys.executable, "-W", "ignore", "-c", BESIDE, when]
    ran = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ran.stdout == "12 12 12 {}\n", ran.stderr[-3000:]
