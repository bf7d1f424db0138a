"""Calls in other processes: pools and single ones, spawned and forked, given the metadata, a token, an id, or nothing.

The other process has a call log of its own. Its rows come back with the job, and are judged with those of this process;
one shape reads them from the SQLite file that they were written to. Without Redis no thread_id means anything there.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from sqlalchemy import create_engine, text

from llmctx import bind, hand_over, take_over
from llmctx.calllog import CallLog
from llmctx.identity import handover
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.testing.captured import captured_calls
from tests.kit.support import Known, ProviderDown, User
from tests.scenarios import Shape, enter, shape
from tests.scenarios.offcontext import of_a_wrapped_graph, small, with_thread_id
from tests.scenarios.world import World, model

KEY = "a key that both processes know"
ROOT = Path(__file__).parent.parent.parent

Row = Any


def calls(prompts: list[str], config: RunnableConfig | None) -> None:
    """One that is answered, one that is streamed, one that fails, and one in a graph."""
    model.invoke(prompts[0], config)
    list(model.stream(prompts[1], config))
    with suppress(ProviderDown):
        model.invoke(prompts[2], config)
    asyncio.run(small["wrapped"].ainvoke({"prompts": prompts[3:]}, config))


def in_process(prompts: list[str], config: RunnableConfig | None = None, token: str | None = None) -> list[Row]:
    """A job in another process. Returns its rows."""
    with captured_calls(handover_key=KEY) as captured, ExitStack() as stack:
        if token is not None:
            stack.enter_context(take_over(token))
        calls(prompts, config)
        return [*captured.records]


def in_process_with_database(database: str, prompts: list[str], config: RunnableConfig) -> None:
    with CallLog(database):
        calls(prompts, config)


def into_pipe(pipe: Any, *args: Any) -> None:
    """What a single process does."""
    pipe.send(in_process(*args))
    pipe.close()


def planned(world: World, user: User | None, known: Known = "always") -> list[str]:
    return [world.prompt(user, status, known=known) for status in ("ok", "ok", "error", "ok")]


def handed(config: RunnableConfig) -> RunnableConfig:
    """What of a config can be sent: its callbacks stay here."""
    return {"metadata": dict(config["metadata"])}


def fresh() -> BaseContext:
    """Processes that have inherited nothing, and have imported this module once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def spawned() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=fresh()) as pool:
        yield pool


@contextmanager
def key() -> Iterator[None]:
    """With a key for tokens."""
    handover.configure(KEY, "raise")
    try:
        yield
    finally:
        handover.configure(None, "raise")


async def run(world: World, pool: ProcessPoolExecutor, *args: Any) -> None:
    world.sink.records += await asyncio.get_running_loop().run_in_executor(pool, partial(in_process, *args))


Endpoint = Callable[[World, ProcessPoolExecutor, User], Awaitable[None]]


async def _in_requests(world: World, pool: ProcessPoolExecutor, endpoint: Endpoint, nobodys: Known = "always") -> None:
    """Everybody's work, and nobody's."""
    with key():
        await world.through(lambda user: endpoint(world, pool, user), rounds=1)
        await asyncio.gather(*(run(world, pool, planned(world, None, nobodys)) for _ in range(4)))


def _in_pool(endpoint: Endpoint) -> Shape:
    async def drive(world: World) -> None:
        with spawned() as pool:
            await _in_requests(world, pool, endpoint)

    return drive


async def with_metadata(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    """What a wrapped graph puts into the metadata takes the identity along."""

    async def out(config: RunnableConfig) -> None:
        await run(world, pool, planned(world, user), handed(config))

    await of_a_wrapped_graph(world, user, out)


async def with_nothing_but_a_thread_id(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    async def out(config: RunnableConfig) -> None:
        await run(world, pool, planned(world, user, "carried"), config)

    await with_thread_id(world, user, out)


async def with_nothing(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    await run(world, pool, planned(world, user, "carried"))


async def with_a_token(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    await run(world, pool, planned(world, user), None, hand_over())


async def with_a_token_of_somebody_else(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    """A request that hands on the work of another: the token says whose it is."""
    other = world.users[world.users.index(user) - 1]
    with bind(user_id=other.user_id, session_id=other.session_id):
        token = hand_over()
    await run(world, pool, planned(world, other), None, token)


async def by_submit_and_map(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    world.sink.records += await asyncio.wrap_future(pool.submit(in_process, planned(world, user, "carried")))
    results = pool.map(in_process, [planned(world, user, "carried")])
    for rows in await asyncio.to_thread(list, results):
        world.sink.records += rows


for _endpoint in (
    with_metadata,
    with_nothing_but_a_thread_id,
    with_nothing,
    with_a_token,
    with_a_token_of_somebody_else,
    by_submit_and_map,
):
    enter(f"pool_{_endpoint.__name__}", _in_pool(_endpoint), family=__name__)


@shape
async def pool_that_writes_to_a_database(world: World) -> None:
    """The rows of the other process, as they were stored."""
    with tempfile.TemporaryDirectory() as folder, spawned() as pool:
        database = f"sqlite+aiosqlite:///{folder}/calls.db"
        await asyncio.to_thread(migrate.upgrade, load(database_url=database))

        async def endpoint(user: User) -> None:
            async def out(config: RunnableConfig) -> None:
                job = pool.submit(in_process_with_database, database, planned(world, user), handed(config))
                await asyncio.wrap_future(job)

            await of_a_wrapped_graph(world, user, out)

        await world.through(endpoint, rounds=1)
        engine = create_engine(f"sqlite:///{folder}/calls.db")
        with engine.connect() as connection:
            rows: list[Any] = list(connection.execute(text("SELECT * FROM biz_agent_llm_call_logs")))
        engine.dispose()
    world.sink.records += rows


def _forked_in_a_request(endpoint: Endpoint) -> Shape:
    """The workers are forked in the middle of the first request, as is Python's way on Linux until 3.14."""

    async def drive(world: World) -> None:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            await _in_requests(world, pool, endpoint, nobodys="never")

    return drive


async def with_nothing_to_a_forked_worker(world: World, pool: ProcessPoolExecutor, user: User) -> None:
    await run(world, pool, planned(world, user, "never"))


for _endpoint in (with_metadata, with_nothing_but_a_thread_id, with_nothing_to_a_forked_worker, with_a_token):
    enter(f"forked_pool_{_endpoint.__name__}", _forked_in_a_request(_endpoint), family=__name__)


async def alone(context: BaseContext, world: World, *args: Any) -> None:
    """A process for one job."""
    there, here = context.Pipe()
    process = context.Process(target=into_pipe, args=(there, *args))  # type: ignore[attr-defined]
    process.start()
    world.sink.records += await asyncio.to_thread(here.recv)
    await asyncio.to_thread(process.join)
    there.close()
    here.close()


def _alone(
    method: Literal["forkserver", "fork"], endpoint: Callable[[BaseContext, World, User], Awaitable[None]]
) -> Shape:
    """A process for the job of every fourth user."""

    async def drive(world: World) -> None:
        context = fresh() if method == "forkserver" else multiprocessing.get_context(method)

        async def some(user: User) -> None:
            if user in world.users[::4]:
                await endpoint(context, world, user)

        with key():
            await world.through(some, rounds=1)

    return drive


async def metadata_alone(context: BaseContext, world: World, user: User) -> None:
    async def out(config: RunnableConfig) -> None:
        await alone(context, world, planned(world, user), handed(config))

    await of_a_wrapped_graph(world, user, out)


async def token_alone(context: BaseContext, world: World, user: User) -> None:
    await alone(context, world, planned(world, user), None, hand_over())


async def nothing_alone(context: BaseContext, world: World, user: User) -> None:
    await alone(context, world, planned(world, user, "carried"))


async def copy_of_a_request(context: BaseContext, world: World, user: User) -> None:
    """A forked process is a copy of this one, in the middle of the request."""
    await alone(context, world, planned(world, user))


enter("a_process_with_metadata", _alone("forkserver", metadata_alone), family=__name__)
enter("a_process_with_a_token", _alone("forkserver", token_alone), family=__name__)
enter("a_process_with_nothing", _alone("forkserver", nothing_alone), family=__name__)
enter("a_forked_process_with_nothing", _alone("fork", copy_of_a_request), family=__name__)
enter("a_forked_process_with_a_token", _alone("fork", token_alone), family=__name__)


@shape
async def a_command_with_a_token(world: World) -> None:
    """On its command line, with everybody's prompts."""
    jobs: list[tuple[list[str], str]] = []

    async def endpoint(user: User) -> None:
        jobs.append((planned(world, user), hand_over()))

    with key():
        await world.through(endpoint, rounds=1)
    script = "from tests.scenarios.processes import main; main()"
    said = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, json.dumps(jobs)], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    world.sink.records += pickle.loads(said.stdout)


def main() -> None:
    """The other end of `a_command_with_a_token`."""
    rows = [row for prompts, token in json.loads(sys.argv[1]) for row in in_process(prompts, None, token)]
    sys.stdout.buffer.write(pickle.dumps(rows))
