"""RedisRegistry against a real Redis: what one process knows of a thread helps another, and never misleads it.

"Elsewhere" stands for another process: a registry of its own on the same Redis. Where it matters it is one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableConfig

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.registry import MemoryRegistry, registry_of
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import EMPTY, Scope, amend_scope, enter, leave
from llmctx.settings import load
from tests.conftest import ROOT
from tests.kit.redis_server import RedisServer
from tests.kit.support import Talker, wait_for, wait_until
from tests.scenarios.world import graph, in_thread

A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")
NOBODY = (None, None)

model = Talker()


@pytest.fixture
def prefix() -> str:
    """Of the keys of this test."""
    return f"test:{uuid4().hex}:"


def on(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


def ids(row: CallRecord) -> tuple[str | None, str | None]:
    return row.user_id, row.session_id


def why(row: CallRecord) -> tuple[str | None, str | None]:
    return row.identity_source, row.identity_reason


class Here:
    """This process: a call log whose registry is the Redis."""

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        self.registry = RedisRegistry(url, prefix=prefix, **{"timeout_s": 2.0, "backoff_s": (0.2, 0.5), **options})
        self.sink = MemorySink()
        self.log = CallLog(sink=self.sink, registry=self.registry, linger_ms=1)

    def __enter__(self) -> Here:
        self.log.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.log.close()

    def rows(self) -> list[CallRecord]:
        """The rows of all calls that have ended, which takes no longer than a few seconds, come what may."""
        assert self.log.flush(10) == 0
        assert self.log.stats().balanced
        return list(self.sink.records)

    async def arows(self) -> list[CallRecord]:
        assert await self.log.aflush(10) == 0
        return list(self.sink.records)

    def lost_call(self, thread_id: str) -> CallRecord:
        """The row of a call in a bare thread, of which nothing is known but its thread_id."""
        thread = threading.Thread(target=lambda: model.invoke("lost", on(thread_id)))
        thread.start()
        thread.join(20)
        return self.rows()[-1]


def use_elsewhere(url: str, prefix: str, thread_id: str, *who: CallContext, task: str | None = None) -> None:
    """Another process has a scope of each of `who` use the thread."""

    async def use() -> None:
        elsewhere = RedisRegistry(url, prefix=prefix, timeout_s=2.0)
        for identity in who:
            elsewhere.put(Scope(identity, "request"), thread_id=thread_id, task=task)
        assert await elsewhere.publish(5) == 0
        await elsewhere.aclose()

    asyncio.run(use())


async def ause_elsewhere(*arguments: Any, **named: Any) -> None:
    await asyncio.to_thread(use_elsewhere, *arguments, **named)


@contextmanager
def request_of(who: CallContext) -> Iterator[Scope]:
    scope = Scope(who, "request")
    token = enter(scope)
    try:
        yield scope
    finally:
        leave(scope, token)


def test_another_worker_resumes_with_user_and_session(redis_url: str, prefix: str) -> None:
    """A request in one worker uses a thread; a call on it in the next worker has its user and session."""
    with Here(redis_url, prefix) as first, bind(A):
        model.invoke("hello", on("t"))
        assert ids(first.rows()[0]) == ("a", "s-a")
    with Here(redis_url, prefix) as second:
        row = second.lost_call("t")
    assert (ids(row), why(row)) == (("a", "s-a"), ("thread", None))


async def test_a_task_that_ran_elsewhere_is_known_here(redis_url: str, prefix: str) -> None:
    """Also on a thread that several use, and in tasks inside of the task."""
    await ause_elsewhere(redis_url, prefix, "t", A, task="node:1")
    await ause_elsewhere(redis_url, prefix, "t", B, task="node:2")
    with Here(redis_url, prefix) as here:
        config: RunnableConfig = {"metadata": {"thread_id": "t", "langgraph_checkpoint_ns": "node:1|inner:7"}}
        await in_thread(lambda: model.invoke("hello", config))
        (row,) = await here.arows()
    assert (ids(row), why(row)) == (("a", "s-a"), ("task", None))


def test_real_processes_learn_from_each_other(redis_url: str, prefix: str, tmp_path: Any) -> None:
    """One process registers, makes no call, and lives on; another one, meanwhile, knows the thread."""
    program = textwrap.dedent("""
        import sys, threading
        from llmctx import bind
        from llmctx.calllog import CallLog
        from llmctx.identity.scope import current_scope
        from llmctx.testing import MemorySink
        log = CallLog(sink=MemorySink()).start()
        with bind(user_id="a", session_id="s-a"):
            log.registry.put(current_scope(), thread_id="t")
            print("registered", flush=True)
            sys.stdin.read()
        log.close()
    """)
    env = {**os.environ, "LLMCTX_REGISTRY_URL": redis_url, "LLMCTX_REGISTRY_PREFIX": prefix}
    other = subprocess.Popen(
        [sys.executable, "-c", program], env=env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "registered\n"
        with Here(redis_url, prefix) as here:
            wait_until(lambda: ids(here.lost_call("t")) == ("a", "s-a"), "the other process to have told")
    finally:
        other.stdin.close()
        other.wait(20)
        other.stdout.close()


def _spawned(url: str, prefix: str, who: CallContext, said: Any) -> None:
    with Here(url, prefix) as here, bind(who):
        model.invoke("hello", on("t"))
        (row,) = here.rows()
        said.put((ids(row), why(row)))


def test_two_users_on_one_thread_in_two_processes_make_it_shared(redis_url: str, prefix: str) -> None:
    """Each has his own calls; what is lost on that thread is nobody's, in any process."""
    spawn = multiprocessing.get_context("spawn")
    said = spawn.Queue()
    results = []
    for who in (A, B):
        process = spawn.Process(target=_spawned, args=(redis_url, prefix, who, said))
        process.start()
        results.append(said.get(timeout=60))
        process.join(20)
    assert results == [
        (("a", "s-a"), ("context", None)),
        (("b", "s-b"), ("context", None)),
    ]
    with Here(redis_url, prefix) as here:
        assert why(here.lost_call("t")) == ("none", "shared_thread")


def test_what_only_this_process_says_of_a_thread_is_checked(redis_url: str, prefix: str) -> None:
    """Here A alone has used the thread. That B did, elsewhere, makes it shared here as well."""
    with Here(redis_url, prefix) as here:
        with bind(A):
            model.invoke("hello", on("t"))
        row = here.lost_call("t")
        assert (ids(row), why(row)) == (("a", "s-a"), ("thread", None))
        use_elsewhere(redis_url, prefix, "t", B)
        row = here.lost_call("t")
        assert (ids(row), why(row)) == (NOBODY, ("none", "shared_thread"))


def test_a_user_with_two_sessions_in_two_processes_is_known_without_the_session(redis_url: str, prefix: str) -> None:
    """The user is certain; which of the sessions it was is not."""
    use_elsewhere(redis_url, prefix, "t", A)
    use_elsewhere(redis_url, prefix, "t", CallContext(user_id="a", session_id="other"))
    with Here(redis_url, prefix) as here:
        row = here.lost_call("t")
    assert (ids(row), why(row)) == (("a", None), ("thread", "partial"))


def test_who_logs_in_later_is_known_elsewhere_too(redis_url: str, prefix: str) -> None:
    """A request was told of as anonymous; when it has its user, that is told instead, without another call."""
    with Here(redis_url, prefix) as first, Here(redis_url, prefix) as second, request_of(EMPTY) as scope:
        first.registry.put(scope, thread_id="t")
        wait_until(lambda: second.lost_call("t").identity_source == "none", "a row")
        with redis_keys(redis_url, prefix) as keys:
            wait_until(lambda: len(keys()) == 1, "the anonymous use to be told")
        amend_scope(scope, A)
        wait_until(lambda: ids(second.lost_call("t")) == ("a", "s-a"), "the user to be told")


@contextmanager
def redis_keys(url: str, prefix: str) -> Iterator[Callable[[], list[str]]]:
    import redis

    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield lambda: sorted(client.keys(f"{prefix}*"))


async def _same_task(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


async def _child_task(call: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.gather(asyncio.create_task(_awaited(call)))


async def _awaited(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


async def _detached_task(call: Callable[[], Awaitable[Any]]) -> None:
    task = asyncio.create_task(_awaited(call))
    await wait_for(task.done, "the call")


async def _thread(call: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.to_thread(asyncio.run, _awaited(call))


WAYS = [_same_task, _child_task, _detached_task, _thread]


@pytest.mark.parametrize("wrapped", [True, False, None], ids=["wrapped", "plain", "model"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("who", [EMPTY, A], ids=["anonymous", "named"])
async def test_naming_the_thread_of_another_gives_nobody_his_name(
    redis_url: str, prefix: str, who: CallContext, way: Any, wrapped: bool | None
) -> None:
    """The victim's thread is known elsewhere alone. Whoever names it here has his own name, or none."""
    await ause_elsewhere(redis_url, prefix, "victim's", B)
    with Here(redis_url, prefix) as here:

        async def attack() -> None:
            if wrapped is None:
                await model.ainvoke("hello", on("victim's"))
            else:
                await graph(wrapped).ainvoke({"prompt": "hello", "prompts": ["again"]}, on("victim's"))

        with request_of(who):
            await way(attack)
        rows = await here.arows()
    assert rows
    if who is EMPTY or way in (_same_task, _child_task):
        assert {ids(row) for row in rows} <= {(who.user_id, who.session_id), NOBODY}
    else:  # a worker that A's request started does what B's would: neither is A's
        assert {ids(row) for row in rows} <= {("a", "s-a"), ("b", "s-b"), NOBODY}
    if way in (_same_task, _child_task):
        assert {ids(row) for row in rows} == {(who.user_id, who.session_id)}
    assert all(why(row)[1] for row in rows if ids(row) == NOBODY)


async def _worker_of(jobs: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Event]]) -> None:
    while True:
        job, done = await jobs.get()
        await job()
        done.set()


@pytest.mark.parametrize("closed", [False, True], ids=["open request", "closed request"])
@pytest.mark.parametrize("wrapped", [True, False, None], ids=["wrapped", "plain", "model"])
async def test_a_worker_started_in_one_request_works_for_another_elsewhere(
    redis_url: str, prefix: str, wrapped: bool | None, closed: bool
) -> None:
    """It has inherited A's scope, and runs the thread that only B's process knows: that is B's, never A's."""
    with Here(redis_url, prefix) as here:
        jobs: asyncio.Queue[Any] = asyncio.Queue()

        async def job() -> None:
            if wrapped is None:
                await model.ainvoke("hello", on("b's"))
            else:
                await graph(wrapped).ainvoke({"prompt": "hello", "prompts": ["again"]}, on("b's"))

        with request_of(A):
            await model.ainvoke("hello", on("a's"))
            worker = asyncio.create_task(_worker_of(jobs))
            done = asyncio.Event()
            await ause_elsewhere(redis_url, prefix, "b's", B)
            if not closed:
                jobs.put_nowait((job, done))
                await done.wait()
        if closed:
            jobs.put_nowait((job, done))
            await done.wait()
        worker.cancel()
        first, *rows = await here.arows()
    assert ids(first) == ("a", "s-a")
    believed, nobody = (("b", "s-b"), ("thread", None)), (NOBODY, ("none", "shared_thread"))
    assert (ids(rows[0]), why(rows[0])) == believed
    # A synchronous node is begun in its thread before anybody can be seen to wait for it: then it cannot be told.
    assert {(ids(row), why(row)) for row in rows} <= {believed, nobody}
    with Here(redis_url, prefix) as later:
        row = later.lost_call("b's")
    assert (ids(row), why(row)) == (("b", "s-b"), ("thread", None)), "A was registered as a user of B's thread"


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "plain"])
async def test_what_a_request_starts_and_does_not_wait_for_is_its_own_on_a_thread_of_nobody_else(
    redis_url: str, prefix: str, wrapped: bool
) -> None:
    """Once the others have been asked. Then the thread is his for the others as well."""
    with Here(redis_url, prefix) as here:
        with request_of(A):
            run = asyncio.create_task(graph(wrapped).ainvoke({"prompt": "hello", "prompts": ["again"]}, on("new")))
            await wait_for(run.done, "the graph")
        rows = await here.arows()
        assert [ids(row) for row in rows] == [("a", "s-a")] * 2
        await wait_for(lambda: here.registry.get(thread_id="new") is not None, "the claim to be settled")
    with Here(redis_url, prefix) as second:
        assert ids(await asyncio.to_thread(second.lost_call, "new")) == ("a", "s-a")


async def test_a_call_waits_for_what_the_other_process_is_about_to_tell(redis_url: str, prefix: str) -> None:
    """B's process hands the job on before it has told of B's thread: within 50 ms it will have, and that is in time."""
    other = RedisRegistry(redis_url, prefix=prefix)
    telling = asyncio.create_task(other.run())
    with Here(redis_url, prefix) as here, request_of(A):
        await wait_for(lambda: other._loop is not None and other._idle, "the other process to run")
        other.put(Scope(B, "request"), thread_id="b's")
        call = asyncio.create_task(model.ainvoke("hello", on("b's")))
        await wait_for(call.done, "the call")
        (row,) = await here.arows()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await other.aclose()
    assert (ids(row), row.identity_source) == (("b", "s-b"), "thread")


def test_redis_away_from_the_start_costs_ids_of_others_alone(own_redis: RedisServer, prefix: str) -> None:
    """Calls in a scope are as ever, this process knows its own threads, the rest is NULL; later it heals."""
    with Here(own_redis.url, prefix) as here:
        with bind(A):
            model.invoke("hello", on("a's"))
        assert (ids(here.rows()[-1]), why(here.rows()[-1])) == (("a", "s-a"), ("context", None))
        row = here.lost_call("a's")
        assert (ids(row), why(row)) == (("a", "s-a"), ("thread", None))
        row = here.lost_call("b's")
        assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
        assert diagnostics.counts["registry_away"] > 0
        own_redis.start()
        use_elsewhere(own_redis.url, prefix, "b's", B)
        wait_until(lambda: ids(here.lost_call("b's")) == ("b", "s-b"), "the registry to heal")
    with Here(own_redis.url, prefix) as second:
        assert ids(second.lost_call("a's")) == ("a", "s-a"), "what waited for Redis was not told"


def test_redis_killed_and_started_anew(own_redis: RedisServer, prefix: str) -> None:
    """It has forgotten everything: unknown is NULL. What is used again is known again."""
    own_redis.start()
    use_elsewhere(own_redis.url, prefix, "b's", B)
    with Here(own_redis.url, prefix) as here:
        assert ids(here.lost_call("b's")) == ("b", "s-b")
        own_redis.kill()
        row = here.lost_call("c's")
        assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
        own_redis.start()
        wait_until(lambda: why(here.lost_call("c's"))[1] == "unknown_thread", "the registry to heal")
        use_elsewhere(own_redis.url, prefix, "c's", B)
        assert ids(here.lost_call("c's")) == ("b", "s-b")


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_redis_that_hangs_delays_no_call(own_redis: RedisServer, prefix: str, how: str) -> None:
    """200 calls complete as fast as without one, and all their rows arrive soon: NULL with a reason."""
    own_redis.start()

    def two_hundred(here: Here) -> float:
        began = time.perf_counter()
        threads = [
            threading.Thread(target=lambda n=n: [model.invoke("x", on(f"t{n}-{i}")) for i in range(10)])
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return time.perf_counter() - began

    with Here(own_redis.url, prefix, timeout_s=0.25) as here:
        well = two_hundred(here)
        assert {why(row) for row in here.rows()} == {("none", "unknown_thread")}
        if how == "stopped":
            own_redis.signal(signal.SIGSTOP)
        else:
            with own_redis.client() as client:
                client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
        ill = two_hundred(here)
        began = time.perf_counter()
        rows = here.rows()[200:]
        assert time.perf_counter() - began < 3
        assert len(rows) == 200
        assert {(ids(row), why(row)) for row in rows} == {(NOBODY, ("none", "registry_away"))}
        assert ill < well * 3 + 0.5
        if how == "stopped":
            own_redis.signal(signal.SIGCONT)
        else:
            own_redis.kill()
            own_redis.start()
        wait_until(lambda: why(here.lost_call("t"))[1] == "unknown_thread", "the registry to heal")


async def test_a_worker_started_in_a_request_is_nobody_while_redis_is_away(own_redis: RedisServer, prefix: str) -> None:
    """Only the others could say that the thread is not B's: they cannot be asked, so it is not A's either."""
    with Here(own_redis.url, prefix) as here:
        with request_of(A):
            for run in (model.ainvoke("hello", on("x")), graph(True).ainvoke({"prompt": "hello"}, on("y"))):
                task = asyncio.create_task(_awaited(lambda run=run: run))  # type: ignore[misc]
                await wait_for(task.done, "the call")
            await graph(True).ainvoke({"prompt": "hello"}, on("z"))
        rows = await here.arows()
    assert [(ids(row), row.identity_reason) for row in rows] == [(NOBODY, "registry_away")] * 2 + [(("a", "s-a"), None)]


def test_a_flushed_redis_is_told_anew(own_redis: RedisServer, prefix: str) -> None:
    """Scripts are gone as well. A thread that is used on is told again; nothing is wrong meanwhile."""
    own_redis.start()
    with Here(own_redis.url, prefix, ttl_s=2.0) as here, Here(own_redis.url, prefix) as second:
        with bind(A):
            model.invoke("hello", on("t"))
        wait_until(lambda: ids(second.lost_call("t")) == ("a", "s-a"), "the thread to be told")
        with own_redis.client() as client:
            client.flushall()
            client.script_flush()

        def known_again() -> bool:
            with bind(A):
                model.invoke("hello", on("t"))
            row = second.lost_call("t")
            assert ids(row) in (("a", "s-a"), NOBODY)
            with own_redis.client() as client:
                return bool(client.keys(f"{prefix}t:*"))

        wait_until(known_again, "the thread to be told again")
    assert here.log.stats().balanced


def test_a_redis_that_refuses_is_like_one_that_is_away(own_redis: RedisServer, prefix: str) -> None:
    """A wrong password: rows come, NULL, and the password is in no message."""
    own_redis.start("--requirepass", "right")
    url = own_redis.url.replace("unix://", "unix://:top-secret@")
    with Here(url, prefix) as here:
        row = here.lost_call("t")
    assert (ids(row), why(row)) == (NOBODY, ("none", "registry_away"))
    assert "top-secret" not in repr(here.registry)


def test_a_key_that_is_something_else_costs_that_thread_alone(redis_url: str, prefix: str) -> None:
    """Somebody's string under the name of our hash: that thread is unknown, the others are known."""
    import redis

    registry = RedisRegistry(redis_url, prefix=prefix)
    with redis.Redis.from_url(redis_url) as client:
        client.set(registry._layout.thread("taken"), "x")
    use_elsewhere(redis_url, prefix, "taken", B)
    use_elsewhere(redis_url, prefix, "t", B)
    with Here(redis_url, prefix) as here:
        assert why(here.lost_call("taken")) == ("none", "unknown_thread")
        assert ids(here.lost_call("t")) == ("b", "s-b")


def test_uses_expire(redis_url: str, prefix: str) -> None:
    """After the time to live nothing is left in Redis, and the thread is unknown."""
    with Here(redis_url, prefix, ttl_s=0.3) as first, bind(A):
        first.registry.put(Scope(A, "request"), thread_id="t", task="n:1")
        with redis_keys(redis_url, prefix) as keys:
            wait_until(lambda: len(keys()) == 3, "the use to be told")
            wait_until(lambda: not keys(), "the use to expire")
    with Here(redis_url, prefix) as second:
        assert why(second.lost_call("t")) == ("none", "unknown_thread")


def test_many_sessions_of_one_user_do_not_unshare_a_thread(redis_url: str, prefix: str) -> None:
    """A thread keeps few parties, and never forgets a user while it remembers another one twice."""
    crowd = [CallContext(user_id="b", session_id=f"s-{n}") for n in range(50)]
    strangers = [CallContext(session_id=f"x-{n}") for n in range(20)]
    use_elsewhere(redis_url, prefix, "t", A, *crowd, *strangers)
    import redis

    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys(f"{prefix}t:*")
        assert client.hlen(key) <= 9
    with Here(redis_url, prefix) as here:
        assert why(here.lost_call("t")) == ("none", "shared_thread")


async def test_what_waits_for_redis_is_bounded(own_redis: RedisServer, prefix: str) -> None:
    """While Redis is away the newest registrations are kept, up to a limit; all of them are told afterwards."""
    registry = RedisRegistry(own_redis.url, prefix=prefix)
    for number in range(12_000):
        registry.put(Scope(A, "request"), thread_id=f"t{number}")
    assert await registry.publish(0.5) == 10_000
    own_redis.start()
    registry._rest_until = 0.0
    assert await registry.publish(20) == 0
    await registry.aclose()
    with own_redis.client() as client:
        assert client.dbsize() == 10_001


def test_applications_with_other_prefixes_do_not_meet(redis_url: str, prefix: str) -> None:
    """The same thread_id is another thread there."""
    use_elsewhere(redis_url, f"{prefix}one:", "t", A)
    with Here(redis_url, f"{prefix}two:") as here:
        assert why(here.lost_call("t")) == ("none", "unknown_thread")


@pytest.mark.parametrize(
    "thread_id",
    ["x" * 5000, "a b\r\nSET x y\r\n*", "用户-线程-🧵", "bell\x07\x00nul", "\ud800lone", "{t}:*?[a-z]", "0"],
)
def test_any_id_makes_the_way_to_another_process(redis_url: str, prefix: str, thread_id: str) -> None:
    """Long, hostile, or in any script: thread, user and session arrive as they are stored in rows."""
    who = CallContext(user_id=f"u {thread_id}", session_id=f"s {thread_id}")
    with Here(redis_url, prefix) as first, bind(who):
        model.invoke("hello", on(thread_id))
        assert ids(first.rows()[0]) == (who.user_id, who.session_id)
    with Here(redis_url, prefix) as second:
        row = second.lost_call(thread_id)
        assert (ids(row), why(row)) == ((who.user_id, who.session_id), ("thread", None))


async def test_a_user_is_forgotten_with_one_command(redis_url: str, prefix: str) -> None:
    """Nothing that names him is left in Redis, of no process; others stay."""
    await ause_elsewhere(redis_url, prefix, "shared", A, B)
    await ause_elsewhere(redis_url, prefix, "b's", B)
    registry = RedisRegistry(redis_url, prefix=prefix)
    for number in range(600):
        registry.put(Scope(A, "request"), thread_id=f"t{number}", task=f"n:{number}")
    assert await registry.publish(10) == 0
    registry.put(Scope(A, "request"), thread_id="waits")
    assert await registry.aforget(user_id="a") == 1201
    assert await registry.publish(5) == 0
    await registry.aclose()
    with redis_keys(redis_url, prefix) as keys:
        left = keys()
        assert sorted(key.removeprefix(prefix)[0] for key in left) == ["t", "u"]
    with Here(redis_url, prefix) as here:
        assert ids(await asyncio.to_thread(here.lost_call, "b's")) == ("b", "s-b")


def test_forget_reaches_redis_by_itself(redis_url: str, prefix: str) -> None:
    """forget() answers at once, and the pipeline does the rest; what comes after it counts."""
    with Here(redis_url, prefix) as here, redis_keys(redis_url, prefix) as keys:
        for thread_id in ("one", "two"):
            here.registry.put(Scope(A, "request"), thread_id=thread_id)
        wait_until(lambda: len(keys()) == 3, "both to be told")
        assert here.registry.forget(thread_id="one") == 1
        wait_until(lambda: len(keys()) == 2, "the thread to be forgotten")
        assert here.registry.forget(user_id="a") == 1
        wait_until(lambda: not keys(), "the user to be forgotten")
        here.registry.put(Scope(A, "request"), thread_id="two")
        wait_until(lambda: len(keys()) == 2, "the new use to be told")


def test_the_setting_makes_one(redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMCTX_REGISTRY_URL is all it takes; without it the registry is in memory."""
    assert isinstance(CallLog(sink=MemorySink()).registry, MemoryRegistry)
    monkeypatch.setenv("LLMCTX_REGISTRY_URL", redis_url)
    use_elsewhere(redis_url, prefix, "t", A)
    sink = MemorySink()
    with CallLog(sink=sink, registry_prefix=prefix) as call_log:
        thread = threading.Thread(target=lambda: model.invoke("hello", on("t")))
        thread.start()
        thread.join(20)
        assert call_log.flush(10) == 0
    assert ids(sink.records[0]) == ("a", "s-a")


def test_the_password_is_nowhere_to_be_seen() -> None:
    """Not in the repr of the registry, nor of the settings, nor of the call log."""
    url = "redis://me:top-secret@cache.internal:6379/1?password=top-secret"
    settings = load(registry_url=url)
    shown = f"{RedisRegistry(url)!r} {settings!r} {CallLog(sink=MemorySink(), registry_url=url)!r}"
    assert "top-secret" not in shown
    assert "cache.internal:6379/1" in shown


@pytest.mark.parametrize("url", ["", "cache:6379", "http://cache", "redis://cache:port/0"])
def test_a_url_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    """By the name of its setting."""
    with pytest.raises(ConfigError, match="LLMCTX_REGISTRY_URL"):
        RedisRegistry(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "llmctx\[redis\]"'):
        registry_of(load(registry_url="redis://cache"))


def test_the_driver_is_loaded_late() -> None:
    """Who has no shared registry does not pay for one."""
    program = "import sys, llmctx.identity.registry, llmctx.calllog; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_a_forked_child_tells_of_its_threads_on_its_own_connection(redis_url: str, prefix: str) -> None:
    """Before its first call, too; and parent and child both go on."""
    with Here(redis_url, prefix) as here:
        use_elsewhere(redis_url, prefix, "b's", B)
        assert ids(here.lost_call("b's")) == ("b", "s-b")
        child = os.fork()
        if child == 0:
            here.registry.put(Scope(A, "request"), thread_id="child's")
            known = ids(here.lost_call("b's")) == ("b", "s-b")
            with redis_keys(redis_url, prefix) as keys:
                wait_until(lambda: len(keys()) == 4, "the child to tell")
            os._exit(0 if known else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ids(here.lost_call("child's")) == ("a", "s-a")


def test_two_call_logs_may_share_a_registry(redis_url: str, prefix: str) -> None:
    """Each asks in its own loop; when the one that tells is closed, the other does."""
    registry = RedisRegistry(redis_url, prefix=prefix)
    first, second = (CallLog(sink=MemorySink(), registry=registry, linger_ms=1) for _ in range(2))
    with second, redis_keys(redis_url, prefix) as keys:
        with first:
            registry.put(Scope(A, "request"), thread_id="one")
            wait_until(lambda: len(keys()) == 2, "the first to be told")
        registry.put(Scope(A, "request"), thread_id="two")
        wait_until(lambda: len(keys()) == 3, "the second to be told")
