"""Python 3.11 starts no task eagerly: what is about a loop that does is left out there."""

from __future__ import annotations

from tests.kit.absent import STARTS_EAGERLY

collect_ignore = [] if STARTS_EAGERLY else ["test_eager_loops.py"]
