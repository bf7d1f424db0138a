"""Sleep in a thread of ours."""

from __future__ import annotations

import contextlib
import time


def pause(seconds: float) -> None:
    """Sleep, but not where the system refuses to: libfaketime does once the clock was set."""
    with contextlib.suppress(OSError):
        time.sleep(seconds)
