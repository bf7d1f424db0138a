"""For tests of applications: a sink in memory, and a block that collects every call made in it."""

from llmctx.delivery.memory_sink import MemorySink
from llmctx.testing.captured import CapturedCalls, captured_calls

__all__ = ["CapturedCalls", "MemorySink", "captured_calls"]
