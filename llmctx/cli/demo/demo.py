"""One run of the demo, from its arguments to its exit code."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmctx.cli.demo import stages

_NEEDED: Final = ("fastapi", "httpx", "langchain_anthropic", "langchain_openai", "rich", "uvicorn", "websockets")

FINE, FINDING, USAGE, INTERRUPTED = 0, 1, 2, 130


def run(
    *, json_output: bool = False, keep: bool = False, ui: bool = False, users: int | None = None, speed: float = 10.0
) -> int:
    """Run the demo and print what it found; the exit code says whether llmctx kept its promise.

    Args:
        json_output: one JSON object on stdout instead of tables.
        keep: leave the database running, and say how to look into it.
        ui: show the calls in the dashboard, until Ctrl-C.
        users: patients at once; 20, or 3 where OPENAI_API_KEY names a real service.
        speed: by how much the provider answers faster than a real one.
    """
    if (users is not None and not 1 <= users <= 99) or not 0 < speed <= 1000:
        return _fail(USAGE, "users must be from 1 to 99, and speed above 0 and at most 1000.")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _fail(USAGE, f"{', '.join(missing)} not installed. Run: pip install 'llmctx[demo]'")

    from llmctx.cli.demo import report, stages  # late: they load half of the extra

    progress = stages.Progress()
    try:
        with _terminable(), progress.shown():
            outcome = stages.perform(users=users, speed=speed, keep=keep or ui, progress=progress)
    except KeyboardInterrupt:
        # It may have hit an event loop in the making, which complains when it goes; the process ends now anyway.
        sys.unraisablehook = lambda _: None
        return _fail(INTERRUPTED, "interrupted; everything is stopped and removed.")
    except Exception as problem:  # noqa: BLE001  a demo ends with a sentence, not with a stack
        return _fail(FINDING, f"{_innermost(problem)}. Nothing was left running.")
    if json_output:
        print(report.as_json(outcome, keep=keep))
    else:
        report.print_report(outcome, keep=keep)
    if ui:
        _show_dashboard(outcome, keep=keep)
    return FINE if outcome.comparisons["after"].total.clean else FINDING


def _show_dashboard(outcome: stages.Outcome, *, keep: bool) -> None:
    """Serve the dashboard on its usual port, or on a free one; then take the database away, unless `keep`."""
    from llmctx.calllog import CallLog
    from llmctx.cli.ui import DEFAULT_PORT, serve
    from llmctx.core.errors import LlmctxError

    call_log = CallLog(outcome.database_url)
    try:
        try:
            serve(call_log, port=DEFAULT_PORT, texts=True)
        except LlmctxError:
            serve(call_log, port=0, texts=True)
    finally:
        if not keep:
            from llmctx.cli.demo.stages import remove

            remove(outcome)


def _fail(code: int, text: str) -> int:
    print(f"llmctx demo: {text}", file=sys.stderr)
    return code


def _innermost(problem: BaseException) -> str:
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0].rstrip(".")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: clean up, then exit."""

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)  # an event loop has its own way of ending by that one

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
