"""Tasks that start eagerly, from Python 3.12: the first step is part of what made them, if that waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from langchain_core.language_models.fake import FakeListLLM

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.record import Status
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.await_graph import awaiting_task, is_part_of, is_unawaited
from llmctx.identity.scope import current_scope

Main = Callable[[], Coroutine[Any, Any, Any]]


def started_eagerly(main: Main) -> Any:
    """Run `main` on a loop that starts all tasks eagerly."""

    async def run() -> Any:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]  # from 3.12
        return await main()

    return asyncio.run(run())


async def asked() -> tuple[bool | None, bool, asyncio.Task[Any] | None]:
    return is_part_of(current_scope()), is_unawaited(asyncio.current_task()), awaiting_task()


async def _by_gather() -> Any:
    return (await asyncio.gather(asked()))[0]


async def _in_a_group() -> Any:
    async with asyncio.TaskGroup() as group:
        made = group.create_task(asked())
    return made.result()


async def _by_gather_in_gather() -> Any:
    return (await asyncio.gather(_by_gather()))[0]


@pytest.mark.parametrize("how", [_by_gather, _in_a_group])
def test_what_is_waited_for_is_part_of_the_request(how: Main) -> None:
    async def main() -> None:
        with bind(user_id="ann"):
            assert await how() == (True, False, asyncio.current_task())

    started_eagerly(main)


def test_one_in_another() -> None:
    """Each is waited for by the one that made it, and so by the request."""

    async def main() -> None:
        with bind(user_id="ann"):
            is_part, is_dark, waiting = await _by_gather_in_gather()
            assert (is_part, is_dark) == (True, False)
            assert waiting not in (None, asyncio.current_task())

    started_eagerly(main)


def test_a_task_that_may_be_a_worker() -> None:
    """Whether `create_task` is followed by an `await` cannot be seen in the first step: it is looked at once more."""

    async def main() -> None:
        with bind(user_id="ann"):
            assert await asyncio.create_task(asked()) == (False, True, None)

    started_eagerly(main)


class Slow(FakeListLLM):
    async def _acall(self, *args: Any, **kwargs: Any) -> str:
        await asyncio.sleep(0)
        return "x"


def test_completion_models() -> None:
    """They report from helper tasks, whose end is not the call's."""
    sink = MemorySink()

    async def main() -> None:
        async with CallLog(sink=sink) as log:
            with bind(user_id="ann"):
                await Slow(responses=["x"]).ainvoke("a")
                await asyncio.gather(Slow(responses=["x"]).ainvoke("b"), Slow(responses=["x"]).ainvoke("c"))
            await log.aflush()

    started_eagerly(main)
    assert [(row.user_id, row.status) for row in sink.records] == [("ann", Status.OK)] * 3
