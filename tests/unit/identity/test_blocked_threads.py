"""Who blocks a thread until work is done is found in its frames."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from llmctx import bind
from llmctx.identity.await_graph import is_part_of
from llmctx.identity.scope import current_scope


def asked() -> bool | None:
    """Return whether this is part of the flow around, once its thread or its job is waited for."""
    deadline = time.monotonic() + 60
    while not (answer := asked_now()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return answer


def asked_now() -> bool | None:
    scope = current_scope()
    assert scope is not None
    return is_part_of(scope)


def in_context(found: list[Any]) -> Callable[[], None]:
    return partial(contextvars.copy_context().run, lambda: found.append(asked()))


def joined(found: list[Any]) -> None:
    thread = threading.Thread(target=in_context(found))
    thread.start()
    thread.join()


def result(found: list[Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(in_context(found)).result()


def one_by_one(found: list[Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(in_context(found)) for _ in range(2)]:
            job.result()


def waited(found: list[Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        concurrent.futures.wait([pool.submit(in_context(found))])


def at_the_end_of_a_pool(found: list[Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(in_context(found))


WAYS = [joined, result, one_by_one, waited, at_the_end_of_a_pool]


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_request_blocks_for_is_part_of_it(way: Callable[[list[Any]], None]) -> None:
    """In its loop's thread, and in one of a pool."""
    found: list[Any] = []
    with bind(user_id="ann"):
        way(found)
        await asyncio.to_thread(way, found)
    assert found
    assert set(found) == {True}


def test_what_a_thread_blocks_for_that_nobody_joins_cannot_be_told() -> None:
    found: list[Any] = []
    done = threading.Event()

    def work() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(partial(contextvars.copy_context().run, lambda: found.append(asked_now()))).result()
        done.set()

    with bind(user_id="ann"):
        threading.Thread(target=contextvars.copy_context().run, args=(work,)).start()
        while not done.is_set():
            time.sleep(0.001)
    assert found == [None]
