"""What tests ask of a batcher."""

from __future__ import annotations

from llmctx.delivery.batcher import Batcher
from tests.kit.support import wait_for


def adds_up(one: Batcher, started: int) -> bool:
    return started == one.written + one.waiting + one.quarantined + one.dropped


async def troubled(one: Batcher) -> None:
    await wait_for(lambda: one.last_error is not None, "the writer to notice")
