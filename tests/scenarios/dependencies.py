"""FastAPI dependencies that bind and amend: sync, async, with `yield`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import StreamingResponse

from llmctx import amend, bind
from tests.kit.support import User
from tests.scenarios import enter, shape
from tests.scenarios.world import OURS, World, client, model


def naming(world: World) -> Callable[[HTTPConnection], User]:
    """The user whom the query names. The request itself is anonymous until a dependency says otherwise."""
    by_id = {user.user_id: user for user in world.users}
    return lambda connection: by_id[connection.query_params["user"]]


def amended(user: User) -> User:
    amend(user_id=user.user_id, session_id=user.session_id)
    return user


def _amending(world: World) -> dict[str, Callable[[HTTPConnection], Any]]:
    """Dependencies that find out who it is: in the request's task, in a thread, before a yield."""
    named = naming(world)

    async def amends(connection: HTTPConnection) -> User:
        await asyncio.sleep(0)
        return amended(named(connection))

    def amends_sync(connection: HTTPConnection) -> User:
        return amended(named(connection))

    async def amends_and_yields(connection: HTTPConnection) -> AsyncIterator[User]:
        user = amended(named(connection))
        yield user
        await model.ainvoke(world.prompt(user))

    def amends_and_yields_sync(connection: HTTPConnection) -> Iterator[User]:
        user = amended(named(connection))
        yield user
        model.invoke(world.prompt(user))

    async def binds(connection: HTTPConnection) -> AsyncIterator[User]:
        user = named(connection)
        with bind(user_id=user.user_id, session_id=user.session_id):
            yield user
            await model.ainvoke(world.prompt(user))

    return {run.__name__: run for run in (amends, amends_sync, amends_and_yields, amends_and_yields_sync, binds)}


def _depending(world: World, find: Callable[[HTTPConnection], Any]) -> FastAPI:
    """Endpoints that depend on `find`."""
    app = FastAPI(middleware=[OURS])

    @app.get("/async")
    async def run(user: User = Depends(find)) -> str:
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))
        return "done"

    @app.get("/sync")
    def run_sync(user: User = Depends(find)) -> str:
        model.invoke(world.prompt(user))
        return "done"

    @app.get("/stream")
    async def stream(tasks: BackgroundTasks, user: User = Depends(find)) -> StreamingResponse:
        tasks.add_task(model.ainvoke, world.prompt(user))
        return StreamingResponse(tokens(world.prompt(user)))

    return app


async def tokens(prompt: str) -> AsyncIterator[str]:
    async for chunk in model.astream(prompt):
        yield str(chunk.content)


async def asked_for(world: World, app: Any, paths: Sequence[str] = ("/async", "/sync", "/stream")) -> None:
    """All users at once, without a header: only the query names them."""
    async with client(app) as http:

        async def ask(user: User) -> None:
            for path in paths:
                response = await http.get(path, params={"user": user.user_id or ""})
                assert response.status_code == 200, response.text

        await world.each(ask)


for _name in ("amends", "amends_sync", "amends_and_yields", "amends_and_yields_sync", "binds"):

    async def _dependency(world: World, name: str = _name) -> None:
        await asked_for(world, _depending(world, _amending(world)[name]))

    enter(f"dependency_that_{_name}", _dependency, family=__name__)


@shape
async def dependency_of_a_dependency(world: World) -> None:
    """The inner one amends in a thread, the outer one asks a model, in a router's dependency."""
    amends_sync = _amending(world)["amends_sync"]

    async def moderated(user: User = Depends(amends_sync)) -> User:
        await model.ainvoke(world.prompt(user))
        return user

    router = APIRouter(dependencies=[Depends(moderated)])
    router.include_router(_depending(world, moderated).router)
    app = FastAPI(middleware=[OURS])
    app.include_router(router)
    await asked_for(world, app)


@shape
async def sync_dependency_with_yield_that_binds(world: World) -> None:
    """It runs in another thread, so that its endpoint never sees what it has bound: nobody's, rather than wrong."""
    named = naming(world)

    def binds_in_a_thread(request: Request) -> Iterator[None]:
        user = named(request)
        with bind(user_id=user.user_id, session_id=user.session_id):
            model.invoke(world.prompt(user))
            yield

    app = FastAPI(middleware=[OURS])

    @app.get("/", dependencies=[Depends(binds_in_a_thread)])
    async def root() -> str:
        await model.ainvoke(world.prompt(None))
        return "done"

    await asked_for(world, app, ["/", "/"])


@shape
async def dependencies_that_run_side_by_side_with_the_model(world: World) -> None:
    """A task that the endpoint's dependency has started, before and after it knew the user."""
    named = naming(world)

    async def started(request: Request) -> tuple[User, asyncio.Event, asyncio.Task[Any]]:
        user, known = named(request), asyncio.Event()

        async def look_up() -> None:
            await known.wait()
            await model.ainvoke(world.prompt(user))

        task = asyncio.create_task(look_up())
        return amended(user), known, task

    app = FastAPI(middleware=[OURS])

    @app.get("/")
    async def root(found: Any = Depends(started)) -> str:
        user, known, task = found
        known.set()
        await model.ainvoke(world.prompt(user))
        await task
        return "done"

    await asked_for(world, app, ["/", "/"])
