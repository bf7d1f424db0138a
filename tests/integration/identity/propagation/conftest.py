"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def call_log(sink: MemorySink) -> Iterator[CallLog]:
    with CallLog(sink=sink, carry=True) as started:
        yield started
