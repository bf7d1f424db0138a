"""RedisRegistry against a real Redis: what one process knows of a thread helps another, and never misleads it.

"Elsewhere" stands for another process: a registry of its own on the same Redis. Where it matters it is one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from typing import Any

from langchain_core.runnables import RunnableConfig

from llmctx import CallContext, bind
from llmctx.identity.binding import amend_scope
from llmctx.identity.scope import EMPTY, Scope
from tests.conftest import ROOT
from tests.kit.shared_registry import (
    A,
    B,
    Here,
    ause_elsewhere,
    ids,
    model,
    on,
    redis_keys,
    request_of,
    use_elsewhere,
    why,
)
from tests.kit.support import wait_until
from tests.scenarios.world import in_thread


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
        other.wait(60)
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
        process.join(60)
    assert results == [
        (("a", "s-a"), ("context", None)),
        (("b", "s-b"), ("context", None)),
    ]
    with Here(redis_url, prefix) as here:
        assert why(here.lost_call("t")) == ("none", "shared_thread")


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
