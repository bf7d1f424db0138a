"""LangGraph threads that are shared, guessed, or taken over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.runnables import RunnableConfig
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmctx import CallContext
from tests.kit.support import User
from tests.scenarios import enter, shape
from tests.scenarios.http import asker, fed_by_a_task, refused
from tests.scenarios.identity import NOBODY, application, ask, identified, neighbour
from tests.scenarios.world import OURS, USERS, State, World, chain, client, in_thread, model, on


def shared_thread(world: World) -> Starlette:
    """All requests run on the thread that the client names."""
    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}

    def asked(request: Request) -> tuple[User, RunnableConfig]:
        user = by_id.get(request.headers.get("x-user")) or NOBODY
        return user, {"configurable": {"thread_id": request.query_params["thread"]}}

    async def run(request: Request) -> Response:
        user, config = asked(request)
        for compiled in world.graphs.values():
            await compiled.ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, config)
        await asyncio.gather(*(model.ainvoke(world.prompt(user), config) for _ in range(2)))
        await refused(chain.ainvoke({"prompt": world.prompt(user, "error")}, config))
        return PlainTextResponse("done", background=BackgroundTask(model.ainvoke, world.prompt(user), config))

    def run_sync(request: Request) -> Response:
        user, config = asked(request)
        model.invoke(world.prompt(user), config)
        chain.invoke({"prompt": world.prompt(user)}, config)
        return PlainTextResponse("done")

    async def stream(request: Request) -> Response:
        user, config = asked(request)

        async def body() -> AsyncIterator[str]:
            state: State = {"prompt": world.prompt(user), "prompts": [world.prompt(user)]}
            async for _ in world.graphs[True].astream(state, config, stream_mode="updates"):
                yield "step"
            async for _ in model.astream(world.prompt(user), config):
                yield "word"

        return StreamingResponse(body())

    routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in (run, run_sync, stream)]
    return Starlette(routes=routes, middleware=[OURS])


KINDS = ("run", "run_sync", "stream")

for _kind in KINDS:

    async def _together(world: World, path: str = f"/{_kind}") -> None:
        """A group chat: whoever uses the thread first, or meanwhile, each request is its own user's."""
        together = asyncio.Barrier(USERS)
        async with client(shared_thread(world)) as http:

            async def chat(user: User) -> None:
                await together.wait()
                await ask(http, user, path, thread="shared")
                await ask(http, user, path, thread="shared")

            await world.each(chat)

    async def _pair(world: World, path: str = f"/{_kind}") -> None:
        """Two of them, each time on another thread."""
        async with client(shared_thread(world)) as http:
            await world.each(
                lambda user: asyncio.gather(
                    ask(http, user, path, thread=user.thread_id),
                    ask(http, neighbour(world, user), path, thread=user.thread_id),
                )
            )

    enter(f"all_users_at_once_on_one_thread_{_kind}", _together, family=__name__)
    enter(f"two_users_at_once_on_one_thread_{_kind}", _pair, family=__name__)


async def _attack(world: World, anonymous: bool, *steps: tuple[str, ...]) -> None:
    """In each step the victim and an attacker, who names the victim's thread, ask at once, by different ways."""
    async with client(shared_thread(world)) as http:

        async def visit(user: User) -> None:
            people = {"victim": user, "attacker": NOBODY if anonymous else neighbour(world, user)}
            kinds = itertools.cycle(KINDS[world.users.index(user) % 3 :] + KINDS)
            for step in steps:
                await asyncio.gather(
                    *(ask(http, people[name], f"/{next(kinds)}", thread=user.thread_id) for name in step)
                )

        await world.each(visit)


for _name, _steps in {
    "afterwards": (("victim",), ("attacker",), ("victim",)),
    "meanwhile": (("victim",), ("victim", "attacker", "victim", "attacker")),
    "beforehand": (("attacker",), ("victim",), ("attacker",)),
}.items():
    for _who in ("named", "anonymous"):

        async def _attacked(world: World, anonymous: bool = _who == "anonymous", steps: Any = _steps) -> None:
            """A client that sends somebody else's thread_id never gets his name on its rows, nor the reverse."""
            await _attack(world, anonymous, *steps)

        enter(f"somebody_elses_thread_id_{_who}_{_name}", _attacked, family=__name__)


@shape
async def somebody_elses_thread_id_and_work_that_leaves_the_context(world: World) -> None:
    """Once both have used the thread it testifies to neither, so that bare threads of either are nobody's or right."""

    async def run(request: Request) -> None:
        user = asks(request)
        config: RunnableConfig = {"configurable": {"thread_id": request.query_params["thread"]}}
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, config)
        if request.query_params["turn"] != "0":
            prompt = world.prompt(user, known="carried")
            await in_thread(lambda: model.invoke(prompt, config))

    asks = asker(world)
    async with client(application(run)) as http:

        async def visit(user: User) -> None:
            for turn, visitor in enumerate((user, neighbour(world, user), user)):
                await ask(http, visitor, thread=user.thread_id, turn=str(turn))

        await world.each(visit)


@shape
async def somebody_elses_thread_id_in_a_bare_thread_alone(world: World) -> None:
    """Neither scope nor graph in the attacker's own request: only the thread_id is left, and who started the thread."""

    async def run(request: Request) -> None:
        user = by_id.get(request.headers.get("x-user"), NOBODY)
        config: RunnableConfig = {"configurable": {"thread_id": request.query_params["thread"]}}
        if request.query_params["thread"] == user.thread_id:
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, config)
            return
        plain, in_graph = world.prompt(user, known="never"), world.prompt(user, known="never")
        await in_thread(lambda: model.invoke(plain, config))
        await in_thread(lambda: asyncio.run(world.graphs[True].ainvoke({"prompt": in_graph}, config)))

    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}
    async with client(application(run)) as http:

        async def visit(user: User) -> None:
            for visitor in (user, neighbour(world, user), NOBODY):
                await ask(http, visitor, thread=user.thread_id)

        await world.each(visit)


for _who in ("named", "anonymous"):

    async def _forgotten(world: World, anonymous: bool = _who == "anonymous") -> None:
        """The endpoint answers 202 and leaves its graph to a task that outlives it: the usual way to start a long run.

        The victim has used the thread before that request began, and not since: his name is not for it to have.
        """
        by_id: dict[str | None, User] = {user.user_id: user for user in world.users}
        answered = asyncio.Event()

        async def afterwards(user: User, config: RunnableConfig) -> None:
            await answered.wait()
            for compiled in world.graphs.values():
                await compiled.ainvoke({"prompt": world.prompt(user, known="carried")}, config)
            await model.ainvoke(world.prompt(user, known="carried"), config)

        async def run(request: Request) -> None:
            user = by_id.get(request.headers.get("x-user"), NOBODY)
            config: RunnableConfig = {"configurable": {"thread_id": request.query_params["thread"]}}
            if request.query_params["thread"] == user.thread_id:
                await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, config)
            else:
                world.detach(afterwards(user, config))

        async with client(application(run)) as http:
            await world.each(lambda user: ask(http, user, thread=user.thread_id))
            attacker = lambda user: NOBODY if anonymous else neighbour(world, user)  # noqa: E731
            await world.each(lambda user: ask(http, attacker(user), thread=user.thread_id))
        answered.set()

    enter(f"somebody_elses_thread_id_{_who}_in_a_task_that_is_left_behind", _forgotten, family=__name__)


@shape
async def somebody_elses_thread_id_without_running_a_graph(world: World) -> None:
    """A bare model call with a thread_id in its config: the open scope knows better than the thread."""

    async def run(request: Request) -> None:
        by_header = {user.user_id: user for user in world.users}
        user = by_header.get(request.headers.get("x-user"), NOBODY)
        config: RunnableConfig = {"configurable": {"thread_id": request.query_params["thread"]}}
        if request.query_params["thread"] == user.thread_id:
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, config)
        await model.ainvoke(world.prompt(user), config)
        await asyncio.to_thread(model.invoke, world.prompt(user), config)
        await chain.ainvoke({"prompt": world.prompt(user)}, config)

    async with client(application(run)) as http:

        async def visit(user: User) -> None:
            await ask(http, user, thread=user.thread_id)
            people = (NOBODY, neighbour(world, user), user)
            await asyncio.gather(*(ask(http, visitor, thread=user.thread_id) for visitor in people))

        await world.each(visit)


@shape
async def a_thread_taken_over(world: World) -> None:
    """A support agent goes on with the customer's thread; then it testifies to neither."""
    async with client(shared_thread(world)) as http:

        async def visit(user: User) -> None:
            case = f"case-{user.thread_id}"
            for visitor in (user, neighbour(world, user, 7), user):
                await ask(http, visitor, "/run", thread=case)
            lost = world.prompt(None)
            await in_thread(lambda: model.invoke(lost, {"configurable": {"thread_id": case}}))

        await world.each(visit)


@shape
async def a_thread_taken_over_by_a_body_that_is_fed_by_a_task(world: World) -> None:
    """The agent's request waits for a queue, not for the task that runs the graph on the customer's thread."""

    async def run(request: Request) -> Response:
        user = by_id.get(request.headers.get("x-user"), NOBODY)
        customer = by_thread[request.query_params["thread"]]
        # Without carry=True such a task may as well be a worker, which serves the customer: then it is nobody's.
        return fed_by_a_task(world, user, customer, "always" if user is customer else "carried")

    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}
    by_thread = {user.thread_id: user for user in world.users}
    async with client(application(run)) as http:
        for visitor in (lambda user: user, lambda user: neighbour(world, user, 7), lambda user: NOBODY):
            await world.each(lambda user, who=visitor: ask(http, who(user), thread=user.thread_id))


@shape
async def a_thread_taken_over_with_its_session(world: World) -> None:
    """The agent enters the customer's session under a name of his own."""

    async def run(request: Request) -> None:
        user = User(request.headers["x-user"], request.headers["x-session"], request.query_params["thread"])
        for compiled in world.graphs.values():
            await compiled.ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, on(user))

    async with client(application(run)) as http:

        async def visit(user: User) -> None:
            agent = User("agent", user.session_id, user.thread_id)
            for visitor in (user, agent, user, agent):
                await ask(http, visitor, thread=user.thread_id)

        await world.each(visit)


@shape
async def late_work_on_a_thread_that_was_taken_over(world: World) -> None:
    """The task that outlived its request is its starter's, whoever uses the thread by then."""
    taken_over = asyncio.Event()

    async def late(user: User, thread_id: str) -> None:
        await taken_over.wait()
        await model.ainvoke(world.prompt(user), {"configurable": {"thread_id": thread_id}})
        await model.ainvoke(world.prompt(user))

    async def run(request: Request) -> None:
        user, thread_id = asks(request), request.query_params["thread"]
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, {"configurable": {"thread_id": thread_id}})
        world.detach(late(user, thread_id))

    asks = asker(world)
    async with client(application(run)) as http:

        async def visit(user: User) -> None:
            for visitor in (user, neighbour(world, user)):
                await ask(http, visitor, thread=user.thread_id)

        await world.each(visit)
    taken_over.set()


for _session in ("a_new_session", "its_session"):

    async def _login(world: World, keeps: bool = _session == "its_session") -> None:
        """A guest logs in and goes on with his thread: each row says what was known at its time."""

        def visitor(connection: HTTPConnection) -> CallContext:
            return CallContext(
                user_id=connection.query_params.get("user"), session_id=connection.query_params["session"]
            )

        async def run(request: Request) -> None:
            user = User(request.query_params.get("user"), request.query_params["session"], request.headers["x-thread"])
            compiled = world.graphs[int(request.headers["x-thread"][1:]) % 2 == 0]
            await compiled.ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, on(user))
            await model.ainvoke(world.prompt(user), on(user))

        async with client(application(run, identified(visitor))) as http:

            async def visit(user: User) -> None:
                session, headers = user.session_id or "", {"x-thread": user.thread_id}
                guest = {"session": session if keeps else f"guest-{session}"}
                for ids in (guest, guest, {"user": user.user_id or "", "session": session}, guest):
                    assert (await http.get("/", headers=headers, params=ids)).status_code == 200

            await world.each(visit)

    enter(f"login_in_the_middle_of_a_thread_with_{_session}", _login, family=__name__)
