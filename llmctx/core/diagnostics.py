"""Trouble that must neither reach the host application nor stay silent: counted, and logged once per cause.

Everything that llmctx swallows goes through `count`: the count grows each time, the log line comes at most once
a minute for one cause, so that a fault in a hot path can never flood the host's log.

Errors quote what they stumbled over: prompts, addresses with keys in them. So what is logged goes through `redact`
first, as text: an exception handed to the log would show its frames to whatever listens there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

LOG_EVERY_S = 60.0


class Diagnostics:
    """Counts by cause. `count` never raises; it may lose one to a race between threads, but never blocks."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unlogged = 0
        """Failures that could not even be counted: no stack or memory was left to do so."""
        self._logged_at: dict[str, float] = {}
        self.redact: Callable[[str], str] | None = None
        """Takes out of a line what must not be in a log; set by the first `CallLog`."""

    def reset(self) -> None:
        """Begin anew: nothing is counted, and every cause is logged when it comes next. For tests."""
        self.counts.clear()
        self._logged_at.clear()
        self.unlogged = 0

    def count(self, cause: str, message: str, *args: object, exc: BaseException | None = None) -> None:
        """Count `cause`, and log `message % args` unless the same cause was logged within the last minute."""
        try:
            self.counts[cause] += 1
            now = time.monotonic()
            if now - self._logged_at.get(cause, -LOG_EVERY_S) < LOG_EVERY_S:
                return
            self._logged_at[cause] = now
            import logging  # late: it is a third of what `import llmctx` would cost

            from llmctx.core.threads import PIPELINE, outside_loop

            log = logging.getLogger("llmctx")
            from llmctx.core.text import escape_controls

            line = f"llmctx: {escape_controls(message % args if args else message)}"
            if exc is not None:
                from traceback import format_exception

                # indented, or an error's text could look like lines of the log
                trace = escape_controls("".join(format_exception(exc)).rstrip(), breaks=True)
                line = f"{line}\n{trace}".replace("\n", "\n  ")
            warn = log.warning
            if threading.current_thread().name == PIPELINE:  # the application's handlers may write to files
                warn = outside_loop(warn)
            warn("%s", line if self.redact is None else self.redact(line), extra={"llmctx_cause": cause})
        except Exception:  # noqa: BLE001  a broken log handler of the host's is not a reason to disturb the host
            self.counts["log_failed"] += 1

    def count_loop_failure(self, loop: object, context: dict[str, Any]) -> None:
        """Count, for `loop.set_exception_handler`, a driver's failure that no coroutine awaits."""
        problem: BaseException | None = context.get("exception")
        self.count("loop_failed", "in the pipeline's event loop: %s", context.get("message"), exc=problem)

    def by_cause(self) -> dict[str, int]:
        """Return the counts, by cause."""
        return {**self.counts, "unsaid": self.unlogged} if self.unlogged else dict(self.counts)


diagnostics = Diagnostics()
"""The process's own: contexts are process-wide, so what goes wrong with them is counted here."""
