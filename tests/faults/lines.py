"""Failures at single lines of llmctx: a tracer that says which of them a scenario runs, and raises at one of them.

**What is promised.** An exception of whatever class, raised before any line of llmctx that runs in the application's
threads, tasks and contexts, changes nothing for the application. Left out (`SURROUNDING`) are only the functions that
stand on the stack around the application's own code, or are called by name by the application and raise on purpose:
their own lines are `try`, `finally`, `return`, an assignment, and calls of what is guarded. None of those can fail of
itself. (A signal or a full stack can strike there, as it can in the application's own next line.) What they call is not
left out. Nor does a bare `try:` or `return` fail anywhere: no `except` around it would be asked.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import llmctx

HOME: Final = str(Path(llmctx.__file__).parent)

SURROUNDING: Final = {
    "core/guard.py": {"guard.<locals>.decorate.<locals>.run", "is_from_outside"},
    "identity/binding.py": {
        "bind",  # a generator, with the application's block in the middle
        "amend",
        "_check_names",  # what is no name of an id is a TypeError
    },
    "identity/scope.py": {
        "Inside.__init__",
        "Inside.__enter__",
        "Inside.__exit__",
        "StepInside.__exit__",
        "InsideBlock.__init__",
        "InsideBlock.__exit__",
    },
    "identity/carry.py": {
        "run_in_failed_scope",
        "_awaited",
        "each_in.<locals>.run",
        "each_in.<locals>.run_async",
    },
    "identity/handover.py": {
        "take_over",
        "hand_over",
        "read",
        "_serializer",
        "_from_environment",
    },  # they raise on purpose
    "capture/manual.py": {
        "Recording.__init__",
        "Recording.set",  # what is no name of a column is a TypeError
        "Recording.__enter__",
        "Recording.__exit__",
    },
    "calllog.py": {
        "CallLog.__init__",  # a setting that cannot be used is a ConfigError
        "CallLog.record",
        "CallLog.start",
        "CallLog.close",
        "CallLog._leave",
        "CallLog._for_database",
        "CallLog.aclose",
        "CallLog.aflush",
        "CallLog._close_others",
        "CallLog.lifespan",
        "CallLog.__enter__",
        "CallLog.__exit__",
        "CallLog.__aenter__",
        "CallLog.__aexit__",
    },
    "delivery/worker.py": {"Worker.aflush", "Worker.astop", "Worker.wait_until_ready"},
    "middleware.py": {
        "ContextMiddleware.__init__",
        "ContextMiddleware.__call__",
        "ContextMiddleware._ask",
        "_following.<locals>.receive_as_newest",
    },
    "capture/handler.py": {"CallLogHandler.ignore_chain"},
    "capture/run_inline.py": {"_is_inline"},
    "capture/run_managers.py": {
        "_report_to_others.<locals>.on_llm_new_token",
        "_report_to_others_async.<locals>.on_llm_new_token",
        "_direct_end.<locals>.on_llm_end",
    },
    "graph/wrapping.py": {"wrap_graph", "wrap_node", "_compiling.<locals>.compile"},  # what is no graph is a TypeError
    "graph/node_identity.py": {"Plan.build"},  # as is what is no argument for it
    "graph/node_runnables.py": {
        "_invoke.<locals>.invoke",
        "_ainvoke.<locals>.ainvoke",
        "_stream.<locals>.stream",
        "_stream.<locals>.stream.<locals>.<lambda>",
        "_astream.<locals>.astream",
        "_astream.<locals>.astream.<locals>.<lambda>",
        "steps",
        "asteps",
    },
    "graph/node_functions.py": {
        "in_scope.<locals>.run",
        "_InNode.__enter__",
        "_InNode.__exit__",
        "_starting",
        "_starting.<locals>.<lambda>",
    },
    "identity/propagation/threads.py": {
        "_start.<locals>.start",
        "_inheriting.<locals>.inherit",
        "_submit_to_thread.<locals>.submit",
        "_submit_to_process.<locals>.submit",
        "_create_task.<locals>.create_task",
        "_start_process.<locals>.start",
        "_pool.<locals>.method",
        "_InProcess.__call__",
    },
    "identity/propagation/queues.py": {
        "_put.<locals>.put",
        "_send.<locals>.send",
        "_get.<locals>.get",
        "_get_nowait.<locals>.get_nowait",
        "_aget.<locals>.get",
        "_receive.<locals>.receive",
        "_receive_nowait.<locals>.receive_nowait",
        "_task_done.<locals>.task_done",
        "_simple_queue.<locals>.SimpleQueue.put_nowait",
        "_simple_queue.<locals>.SimpleQueue.get_nowait",
    },
}
"""File -> qualified names of the functions whose own lines are left out."""

GUARDED_BY_HAND: Final = {
    "_Hook.get",
    "_Watch.get",
    *(f"CallLogHandler.{name}" for name in ("on_chat_model_start", "on_llm_new_token", "on_llm_end")),
}
"""Hooks that are nothing but `try` and `except`: their lines fail as any other's, but never the hook as a whole."""

_NO_CODE: Final = frozenset({"try:", "return"})

Line = tuple[str, str, int]
"""A file of llmctx, the function's qualified name, the number of the line."""


class Lines:
    """The lines of llmctx that run while it is `traced`, and how often. Raises `problem` at the `nth` run of `at`."""

    def __init__(
        self, at: Line | None = None, nth: int = 1, problem: Callable[[], BaseException] | None = None
    ) -> None:
        self.runs: Counter[Line] = Counter()
        self.raised = False
        self._at = at
        self._nth = nth
        self._problem = problem
        self._ours: dict[CodeType, tuple[str, str] | None] = {}
        self._lock = threading.RLock()

    @property
    def codes(self) -> list[CodeType]:
        """The functions of ours that have run."""
        return [code for code, name in self._ours.items() if name is not None]

    @contextmanager
    def traced(self, *, threads: bool = True) -> Iterator[None]:
        """Follow this thread, and those that it starts."""
        before = sys.gettrace()
        if threads:
            threading.settrace(self._called)
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)
            threading.settrace(None)  # type: ignore[arg-type]  # nobody's

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code not in self._ours:
            self._ours[code] = self._name(code)
        return None if self._ours[code] is None or self.raised else self._stepped

    @staticmethod
    def _name(code: CodeType) -> tuple[str, str] | None:
        if not code.co_filename.startswith(HOME):
            return None
        file = code.co_filename[len(HOME) + 1 :]
        if file == "core/patches.py" and code.co_firstlineno == 1:  # what stands in for a library's function
            return None
        return None if code.co_qualname in SURROUNDING.get(file, ()) else (file, code.co_qualname)

    def _stepped(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = self._ours[frame.f_code]
        if event == "line" and name is not None and not self.raised:
            line = (*name, frame.f_lineno)
            if linecache.getline(frame.f_code.co_filename, frame.f_lineno).partition("#")[0].strip() in _NO_CODE:
                return self._stepped
            with self._lock:
                self.runs[line] += 1
                strikes = line == self._at and self.runs[line] == self._nth
                self.raised = self.raised or strikes
            if strikes and self._problem is not None:
                raise self._problem()
        return self._stepped
