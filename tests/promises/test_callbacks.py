"""A callback that has the context of one request works for another: what it starts is never the first one's user's.

A protocol's `data_received`, a timer, what is done when a future is done, and the like were all registered in alice's
request. What they start is given the thread that bob has named. It is bob's where bob's request waits for it, and may
have no user elsewhere, for alice's own callbacks look the same; those are never the victim's.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from llmctx import amend
from tests.kit.requests import MODES, THREAD, model, on, request, started_by_alice, the_victim_uses_the_thread
from tests.kit.trust import recorded

Job = tuple[str, str, asyncio.Event]  # a thread's id, what is asked, and what tells that it is done
Does = Callable[[Job], None]


async def serve(thread_id: str, text: str, done: asyncio.Event) -> None:
    await model.ainvoke(text, on(thread_id))
    done.set()


async def serve_events(thread_id: str, text: str, done: asyncio.Event) -> None:
    async for _ in model.astream_events(text, on(thread_id), version="v2"):
        pass
    done.set()


kept: set[asyncio.Task[Any]] = set()


def a_task(job: Job) -> None:
    kept.add(asyncio.create_task(serve(*job)))


def a_task_of_events(job: Job) -> None:
    kept.add(asyncio.create_task(serve_events(*job)))


def a_job_of_a_pool(job: Job) -> None:
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()

    def run() -> None:
        model.invoke(job[1], on(job[0]))
        loop.call_soon_threadsafe(job[2].set)

    loop.run_in_executor(None, context.run, run)


def outright(job: Job) -> None:
    model.invoke(job[1], on(job[0]))
    job[2].set()


class Soon:
    """What has kept the context in which it was made."""

    def __init__(self, does: Does) -> None:
        self.does, self.loop, self.context = does, asyncio.get_running_loop(), contextvars.copy_context()

    async def start(self) -> None:
        pass

    def put(self, job: Job) -> None:
        self.loop.call_soon(self.does, job, context=self.context)

    def stop(self) -> None:
        pass


class Later(Soon):
    def put(self, job: Job) -> None:
        self.loop.call_later(0.001, self.does, job, context=self.context)


class Done(Soon):
    """What is done when a future is done."""

    async def start(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.future: asyncio.Future[Job] = self.loop.create_future()
        self.future.add_done_callback(self.take)

    def take(self, future: asyncio.Future[Job]) -> None:
        self.renew()
        self.does(future.result())

    def put(self, job: Job) -> None:
        self.future.set_result(job)


class Received(Soon):
    """A protocol, on a connection of alice's."""

    async def start(self) -> None:
        outer, self.job = self, []
        self.here, there = socket.socketpair()

        class Protocol(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                outer.does(outer.job.pop())

        self.transport, _ = await self.loop.create_connection(Protocol, sock=there)

    def put(self, job: Job) -> None:
        self.job: list[Job] = [job]
        self.here.send(b".")

    def stop(self) -> None:
        self.transport.close()
        self.here.close()


WAYS = list(itertools.product([Soon, Later, Done, Received], [a_task, a_task_of_events, a_job_of_a_pool, outright]))


async def _employ(kind: type[Soon], does: Does, is_open: bool, waits: bool) -> None:
    case = f"{kind.__name__} {does.__name__} {is_open} {waits}"

    async def give(user: str, soon: Soon, done: asyncio.Event) -> None:
        amend(thread_id=f"t-{user}")
        soon.put((f"t-{user}", f"{case} for {user}", done))
        if waits:
            await done.wait()

    async with started_by_alice(partial(_start, kind, does), is_open=is_open) as soon:
        for user in ("bob", "carol", "bob"):
            done = asyncio.Event()
            await request(user, partial(give, user, soon, done))
            await done.wait()
        soon.stop()
    await asyncio.gather(*kept)
    kept.clear()


async def _start(kind: type[Soon], does: Does) -> Soon:
    soon = kind(does)
    await soon.start()
    return soon


@MODES
def test_what_a_callback_starts_is_not_the_users_in_whose_request_it_was_registered(carry: bool) -> None:
    cases = list(itertools.product(WAYS, (True, False), (True, False)))[::3]  # each kind in each state
    with recorded(carry=carry) as sink:
        for (kind, does), is_open, waits in cases:
            asyncio.run(_employ(kind, does, is_open, waits))
    said = {str(row.prompt_snapshot): row.user_id for row in sink.records}
    assert len(sink.records) == 3 * len(cases)
    assert {text: user for text, user in said.items() if user is not None and f"for {user}" not in text} == {}
    assert [text for text, user in said.items() if user is None and " a_task " in text and " True for" in text] == []


@MODES
def test_what_a_callback_of_a_request_starts_on_a_victims_thread_is_not_the_victims(carry: bool) -> None:
    async def main(kind: type[Soon], does: Does, waits: bool) -> None:
        done = asyncio.Event()
        made: list[Soon] = []

        async def endpoint() -> None:
            made.append(await _start(kind, does))
            await the_victim_uses_the_thread()
            made[0].put((THREAD, f"{kind.__name__} {does.__name__}", done))
            if waits:
                await done.wait()

        await request("alice", endpoint)
        await done.wait()
        made[0].stop()
        await asyncio.gather(*kept)
        kept.clear()

    with recorded(carry=carry) as sink:
        for (kind, does), waits in itertools.product(WAYS, (True, False)):
            if kind in (Soon, Later) or does is not outright:  # the others learn of the thread as workers do
                asyncio.run(main(kind, does, waits))
    rows = [(row.prompt_snapshot, row.user_id) for row in sink.records]
    assert [(text, user) for text, user in rows if user == "victim" and "victim" not in str(text)] == []


class Looking(Soon):
    """A thread that looks for what is due, and goes on until it is told to end."""

    async def start(self) -> None:
        self.jobs: list[Job | None] = []
        self.due = threading.Event()
        threading.Thread(target=self.look).start()

    def put(self, job: Job | None) -> None:
        self.jobs.append(job)
        self.due.set()

    def look(self) -> None:
        while self.due.wait(60) and (job := self.jobs.pop()) is not None:
            self.due.clear()
            self.does(job)

    def stop(self) -> None:
        self.put(None)


class ThreadOfEach:
    """In place of a pool: a thread for each job."""

    def __init__(self, threads: int) -> None:
        pass

    def submit(self, run: Callable[..., Any], *args: Any) -> Future[Any]:
        job: Future[Any] = Future()
        threading.Thread(target=lambda: job.set_result(run(*args))).start()
        return job


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ThreadOfEach])
@pytest.mark.parametrize("kind", [Looking, Later])
@pytest.mark.parametrize("is_used_before", [True, False])
def test_jobs_that_a_scheduler_hands_on_are_not_those_of_the_user_who_started_it(
    kind: type[Soon], is_used_before: bool, pool: Any
) -> None:
    """Pools and threads carry the scope in which a job is handed on: here that of a request which is over."""

    async def main() -> None:
        loop, done, threads = asyncio.get_running_loop(), asyncio.Event(), pool(1)

        def hand_on(job: Job) -> None:
            handed = threads.submit(model.invoke, job[1], on(job[0]))
            handed.add_done_callback(lambda _: loop.call_soon_threadsafe(job[2].set))

        if is_used_before:
            await the_victim_uses_the_thread()
        async with started_by_alice(partial(_start, kind, hand_on), is_open=False) as scheduler:
            if not is_used_before:
                await the_victim_uses_the_thread()
            scheduler.put((THREAD, "the victim's", done))
            await done.wait()
            scheduler.stop()

    with recorded(carry=True) as sink:
        asyncio.run(main())
    owners = {str(row.prompt_snapshot): row.user_id for row in sink.records}
    assert len(owners) == 2
    assert set(owners.values()) <= {"victim", None}
