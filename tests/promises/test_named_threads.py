"""A thread that the application names is known from then on, wherever a call is given that thread_id alone.

As README has it: `amend(thread_id=…)` in the request, nothing wrapped, no `carry=True`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llmctx import amend
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker, User, users
from tests.scenarios.world import State, client, on, talk_sync, who

model = Talker()
graph = StateGraph(State).add_node("talk", talk_sync).add_edge(START, "talk").compile()

Ids = tuple[str | None, str | None, str | None]


def in_model(config: RunnableConfig) -> None:
    model.invoke("?", config)


def in_stream(config: RunnableConfig) -> None:
    list(model.stream("?", config))


def in_graph(config: RunnableConfig) -> None:
    graph.invoke({"prompts": ["?"]}, config)


def in_graphs_own_loop(config: RunnableConfig) -> None:
    asyncio.run(graph.ainvoke({"prompts": ["?"]}, config))


CALLS = (in_model, in_stream, in_graph, in_graphs_own_loop)


def work(config: RunnableConfig) -> None:
    for call in CALLS:
        call(config)


def in_process(config: RunnableConfig, redis_url: str, prefix: str) -> list[Ids]:
    """A job of a pool of processes, which has a call log of its own. Returns the ids of its rows."""
    sink = MemorySink()
    with CallLog(sink=sink, registry_url=redis_url, registry_prefix=prefix, linger_ms=1) as call_log:
        work(config)
        assert call_log.flush(60) == 0
    return [ids(row) for row in sink.records]


def ids(row: Any) -> Ids:
    return row.user_id, row.session_id, row.thread_id


class Worker:
    """A thread that was there before all requests, and takes configs from a queue."""

    def __init__(self) -> None:
        self.jobs: queue.Queue[RunnableConfig | None] = queue.Queue()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while (config := self.jobs.get()) is not None:
            work(config)
            self.jobs.task_done()


@contextmanager
def worker() -> Iterator[Worker]:
    started = Worker()
    try:
        yield started
    finally:
        started.jobs.put(None)
        started.thread.join()


async def requested(people: list[User], leave: Any) -> None:
    """A request of each user, which names its thread, and hands on nothing but that."""
    by_id = {user.user_id: user for user in people}

    async def endpoint(request: Request) -> PlainTextResponse:
        config = on(by_id[request.headers["x-user"]])
        amend(thread_id=config["configurable"]["thread_id"])
        leave(config)
        return PlainTextResponse("done")

    app = ContextMiddleware(Starlette(routes=[Route("/", endpoint, methods=["POST"])]), identify=who)
    async with client(app) as http:
        answers = await asyncio.gather(*(http.post("/", headers=user.headers) for user in people))
    assert {answer.status_code for answer in answers} == {httpx.codes.OK}


@pytest.mark.parametrize("way", ["thread", "pool", "worker"])
async def test_a_thread_that_is_given_only_the_thread_id_is_right(way: str) -> None:
    people, sink, threads = users(8), MemorySink(), list[threading.Thread]()
    async with CallLog(sink=sink, linger_ms=1) as call_log:
        with ThreadPoolExecutor(2) as pool, worker() as waiting:

            def leave(config: RunnableConfig) -> None:
                if way == "thread":
                    threads.append(threading.Thread(target=work, args=(config,)))
                    threads[-1].start()
                elif way == "pool":
                    pool.submit(work, config)
                else:
                    waiting.jobs.put(config)

            await requested(people, leave)
            for thread in threads:
                await asyncio.to_thread(thread.join)
        assert await call_log.aflush(60) == 0
    expected = [(user.user_id, user.session_id, user.thread_id) for user in people for _ in CALLS]
    assert sorted(map(ids, sink.records)) == sorted(expected)
    assert {row.identity_source for row in sink.records} == {"thread"}


async def test_another_process_that_is_given_only_the_thread_id_is_right(redis_url: str) -> None:
    """With a registry in Redis."""
    people, prefix = users(3, tag="named"), "named-threads:"
    handed: list[RunnableConfig] = []
    pool: Executor
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        async with CallLog(sink=MemorySink(), registry_url=redis_url, registry_prefix=prefix, linger_ms=1):
            await requested(people, handed.append)
            loop = asyncio.get_running_loop()
            jobs = [loop.run_in_executor(pool, in_process, config, redis_url, prefix) for config in handed]
            found = [row for rows in await asyncio.gather(*jobs) for row in rows]
    expected = [(user.user_id, user.session_id, user.thread_id) for user in people for _ in CALLS]
    assert sorted(found) == sorted(expected)
