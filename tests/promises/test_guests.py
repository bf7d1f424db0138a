"""What llmctx puts into the application's data and classes does not disturb the application, nor its other guests."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.handler import CallLogHandler
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


class _Bound:
    """`method` of one thread, as wrapt's BoundFunctionWrapper."""

    def __init__(self, method: Any, thread: Any, seen: list[str]) -> None:
        self.method, self.thread, self.seen = method, thread, seen

    def __call__(self) -> Any:
        self.seen.append(self.thread.name)
        return self.method()


class _Descriptor:
    """A patch that is no function and has to be bound, as wrapt's FunctionWrapper: called unbound it has no thread."""

    def __init__(self, wrapped: Any, seen: list[str]) -> None:
        self.__wrapped__, self.seen = wrapped, seen

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __get__(self, thread: Any, owner: Any) -> _Bound:
        return _Bound(self.__wrapped__.__get__(thread, owner), thread, self.seen)

    def __call__(self, *args: Any) -> Any:
        raise AttributeError("called without being bound")


def _user_in_thread() -> str | None:
    users: list[str | None] = []
    thread = threading.Thread(target=lambda: users.append(current().user_id), name="seen")
    thread.start()
    thread.join()
    return users[0]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_carry_beside_a_patch_that_is_a_descriptor(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see each start of a thread, in whichever order they came and go."""
    seen: list[str] = []
    call_log = CallLog(sink=MemorySink(), carry=True)
    if not before:
        call_log.start()
    monkeypatch.setattr(threading.Thread, "start", _Descriptor(vars(threading.Thread)["start"], seen))
    if before:
        call_log.start()
    with bind(user_id="u"):
        assert _user_in_thread() == "u"
        assert "seen" in seen
        call_log.close()
        seen.clear()
        assert _user_in_thread() is None
        assert seen == ["seen"]
        with call_log:
            seen.clear()
            assert _user_in_thread() == "u"
            assert seen.count("seen") == 1
