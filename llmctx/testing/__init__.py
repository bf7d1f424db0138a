"""For the tests of applications: a sink in memory, a block that collects its calls, and the pytest plugin.

Imported by tests only; nothing of it runs in production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmctx.delivery.memory_sink import MemorySink
    from llmctx.testing.captured import CapturedCalls, captured_calls

__all__ = ["CapturedCalls", "MemorySink", "captured_calls"]


def __getattr__(name: str) -> Any:
    """Import on first use: pytest loads this package with the plugin, in every run of every suite."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmctx.delivery.memory_sink import MemorySink
    from llmctx.testing.captured import CapturedCalls, captured_calls

    globals().update(CapturedCalls=CapturedCalls, MemorySink=MemorySink, captured_calls=captured_calls)
    return globals()[name]
