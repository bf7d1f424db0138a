"""What may be absent where the tests run, and what is left out then: recorded traffic, a browser, Prometheus,
Python 3.12.

Everything else is there, or the tests fail. The summary says each in one line.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# read at import, before any fixture takes LLMCTX_* out of the environment
RECORDED: Final = Path(os.environ.get("LLMCTX_RECORDED_DATA") or Path(__file__).resolve().parents[3] / "shared")
"""The folder that holds `data` and `replay`; the recordings are no part of the repository."""
NEEDED: Final = (RECORDED / "data" / "exchanges.jsonl", RECORDED / "replay" / "server.py")
HAS_RECORDED: Final = all(path.exists() for path in NEEDED)
BROWSER: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Debian's Chromium; `make install-browser` installs it."""
_UNPACKED: Final = Path(sys.prefix) / "prometheus/usr/bin/prometheus"
PROMETHEUS: Final = str(_UNPACKED) if _UNPACKED.exists() else shutil.which("prometheus")
"""Debian's Prometheus, with promtool beside it; `make install-prometheus` unpacks it."""

STARTS_EAGERLY: Final = hasattr(asyncio, "eager_task_factory")
"""Event loops can start tasks eagerly from Python 3.12."""


def lines() -> Iterator[str]:
    """Yield a line for each kind of test that is left out."""
    if not HAS_RECORDED:
        yield "left out: test_recorded.py, no recorded provider traffic (LLMCTX_RECORDED_DATA)"
    if BROWSER is None:
        yield "left out: tests/browser, no Chromium (make install-browser)"
    if PROMETHEUS is None:
        yield "left out: tests/monitoring, no Prometheus (make install-prometheus)"
    if not STARTS_EAGERLY:
        yield "left out: test_eager_loops.py, no eager tasks before Python 3.12"
