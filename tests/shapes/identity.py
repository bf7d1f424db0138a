"""Whose a call is where that is not plain: shared and stolen threads, late and odd ids, witnesses that disagree.

Who a request belongs to is what its authentication says, whatever else the client sends; each row is held against that.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from llmctx import CallContext, amend, bind
from llmctx.graph import wrap_graph
from llmctx.handler import CallLogHandler
from llmctx.middleware import ContextMiddleware
from llmctx.record import CallRecord
from tests.serving import served
from tests.shapes import enter, shape
from tests.shapes.http import asker, fed_by_a_task, listening, refused, turned
from tests.shapes.world import OURS, USERS, State, World, chain, client, in_thread, model, on, talk, who
from tests.support import Talker, User

NOBODY = User(None, None, "t-nobody")


def application(run: Callable[[Request], Awaitable[Any]], *middleware: Middleware) -> Starlette:
    """An application of one endpoint, for all methods and turns."""

    async def root(request: Request) -> Response:
        return await run(request) or PlainTextResponse("done")

    return Starlette(routes=[Route("/", root)], middleware=list(middleware or [OURS]))


async def ask(http: httpx.AsyncClient, user: User = NOBODY, path: str = "/", /, **params: str | None) -> None:
    response = await http.get(path, headers=user.headers, params=params)
    assert response.status_code == 200, response.text


def identified(identify: Any) -> Middleware:
    return Middleware(ContextMiddleware, identify=identify)


async def settled(world: World) -> list[CallRecord]:
    """The rows so far, where more is to be said of them than whose they are."""
    assert await world.log.aflush(10) == 0
    return world.sink.records


def neighbour(world: World, user: User, steps: int = 1) -> User:
    """Somebody else."""
    return world.users[(world.users.index(user) + steps) % USERS]


# -- sessions -------------------------------------------------------------------------------------------------------


@shape
async def one_user_with_several_sessions_in_one_request(world: World) -> None:
    async def endpoint(user: User) -> None:
        async def in_session(number: int) -> None:
            now = turned(user, number)
            with bind(session_id=now.session_id):
                await model.ainvoke(world.prompt(now))
                await asyncio.to_thread(model.invoke, world.prompt(now))
                await world.graphs[True].ainvoke({"prompt": world.prompt(now)}, on(user))

        await asyncio.gather(*(in_session(number) for number in range(3)))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def one_user_with_two_sessions_at_once(world: World) -> None:
    """Two browser windows: two requests at once, on threads of their own and on one that they share."""

    async def run(request: Request) -> None:
        session = request.headers["x-session"]
        user = User(request.headers["x-user"], session, f"t-{session}")
        await asyncio.gather(model.ainvoke(world.prompt(user)), asyncio.to_thread(model.invoke, world.prompt(user)))
        for thread_id in (user.thread_id, f"t-{user.user_id}"):
            for compiled in world.graphs.values():
                await compiled.ainvoke({"prompt": world.prompt(user)}, {"configurable": {"thread_id": thread_id}})

    async with client(application(run)) as http:
        await world.each(lambda user: asyncio.gather(ask(http, turned(user, "left")), ask(http, turned(user, "right"))))


@shape
async def two_sessions_of_a_user_on_one_thread_and_a_job_without_scope(world: World) -> None:
    """The thread is one user's, but of two sessions: it testifies to the user alone, and the scope knows the rest."""

    async def endpoint(user: User) -> None:
        for turn in range(2):
            now = turned(user, turn)
            with bind(session_id=now.session_id):
                await world.graphs[True].ainvoke({"prompt": world.prompt(now)}, on(user))
        afterwards = world.prompt(User(user.user_id, None, user.thread_id))
        outside.append((user, afterwards))

    outside: list[tuple[User, str]] = []
    await world.through(endpoint, rounds=1)
    await asyncio.gather(*(in_thread(lambda u=u, p=p: model.invoke(p, on(u))) for u, p in outside))


# -- threads that are shared, guessed, taken over -------------------------------------------------------------------


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


# -- anonymous requests ---------------------------------------------------------------------------------------------


@shape
async def anonymous_requests_between_those_of_known_users(world: World) -> None:
    """On all ways: no ids, a reason, never a name."""
    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}

    async def run(request: Request) -> Response:
        user = by_id.get(request.headers.get("x-user"), NOBODY)
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        return PlainTextResponse("done", background=BackgroundTask(model.ainvoke, world.prompt(user)))

    async with client(application(run)) as http:
        await world.each(lambda user: asyncio.gather(ask(http, user), ask(http)))
    reasons = {row.identity_reason for row in await settled(world) if row.user_id is None}
    assert reasons == {"anonymous_request"}


@shape
async def health_checks_on_the_connection_of_a_user(world: World) -> None:
    """They ask a model whether it is there, between two requests of somebody, on his kept-alive connection."""
    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}

    async def run(request: Request) -> None:
        await model.ainvoke(world.prompt(by_id.get(request.headers.get("x-user"))))

    async with served(application(run)) as base:

        async def visit(user: User) -> None:
            async with httpx.AsyncClient(base_url=base, limits=httpx.Limits(max_connections=1), timeout=30) as http:
                for visitor in (user, NOBODY, user):
                    await ask(http, visitor)

        await world.each(visit)


@shape
async def no_middleware_at_all(world: World) -> None:
    """Nobody is known, however many headers the client sends."""

    async def run(request: Request) -> None:
        await model.ainvoke(world.prompt(None))
        await world.graphs[True].ainvoke({"prompt": world.prompt(None)}, on(asker(world)(request)))

    async def root(request: Request) -> Response:
        await run(request)
        return PlainTextResponse("done")

    async with client(Starlette(routes=[Route("/", root)])) as http:
        await world.each(lambda user: ask(http, user))


# -- identify -------------------------------------------------------------------------------------------------------


async def who_async(connection: HTTPConnection) -> CallContext | None:
    """As a team would ask its session store; the later the request, the sooner the answer."""
    for _ in range(hash(connection.headers["x-user"]) % 5):
        await asyncio.sleep(0)
    return who(connection)


def who_mapping(connection: HTTPConnection) -> Any:
    return {"user_id": connection.headers["x-user"], "session_id": connection.headers["x-session"]}


class Who:
    """An object that can be called."""

    async def __call__(self, connection: HTTPConnection) -> CallContext | None:
        return await who_async(connection)


for _name, _identify in {"async": who_async, "mapping": who_mapping, "object": Who()}.items():

    async def _identified(world: World, identify: Any = _identify) -> None:
        async def endpoint(user: User) -> None:
            await model.ainvoke(world.prompt(user))
            await world.graphs[True].ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, on(user))

        await world.through(endpoint, middleware=(identified(identify),))

    enter(f"identify_{_name}", _identified, family=__name__)


def _raises(connection: HTTPConnection) -> CallContext:
    raise LookupError("the session store is away")


async def _raises_late(connection: HTTPConnection) -> CallContext:
    await asyncio.sleep(0)
    raise LookupError("the session store is away")


FAILING: dict[str, tuple[Any, str]] = {
    "raises": (_raises, "identify_failed"),
    "raises_async": (_raises_late, "identify_failed"),
    "returns_something_else": (lambda connection: connection.headers["x-user"], "identify_failed"),
    "returns_unknown_fields": (lambda connection: {"user": connection.headers["x-user"]}, "identify_failed"),
    "returns_none": (lambda connection: None, "anonymous_request"),
    "returns_empty_ids": (lambda connection: CallContext(user_id="", session_id=""), "anonymous_request"),
}

for _name, (_identify, _reason) in FAILING.items():

    async def _failing(world: World, identify: Any = _identify, reason: str = _reason) -> None:
        """The request goes on, and its rows say why they have no ids; until somebody amends."""

        async def endpoint(user: User) -> None:
            await model.ainvoke(world.prompt(None))
            await asyncio.to_thread(model.invoke, world.prompt(None))
            assert {row.identity_reason for row in await settled(world) if row.user_id is None} == {reason}
            amend(user_id=user.user_id, session_id=user.session_id)
            await model.ainvoke(world.prompt(user))

        await world.through(endpoint, rounds=1, middleware=(identified(identify),))

    enter(f"identify_that_{_name}", _failing, family=__name__)


@shape
async def identify_that_asks_a_model(world: World) -> None:
    """Before it has answered nobody is known, also on a connection that somebody else has used."""

    async def curious(connection: HTTPConnection) -> CallContext | None:
        await model.ainvoke(world.prompt(None))
        return who(connection)

    async def run(request: Request) -> None:
        await model.ainvoke(world.prompt(asks(request)))

    asks = asker(world)
    async with served(application(run, identified(curious))) as base:

        async def pair(one: User, other: User) -> None:
            async with httpx.AsyncClient(base_url=base, limits=httpx.Limits(max_connections=1), timeout=30) as http:
                for user in (one, other, one):
                    await ask(http, user)

        await asyncio.gather(*(pair(*world.users[n : n + 2]) for n in range(0, USERS, 2)))


@shape
async def identify_that_raises_for_every_other_user(world: World) -> None:
    """One request's failure is no other's."""

    async def flaky(connection: HTTPConnection) -> CallContext | None:
        await asyncio.sleep(0)
        if int(connection.headers["x-user"][1:]) % 2:
            raise LookupError
        return who(connection)

    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(None if world.users.index(user) % 2 else user))

    await world.through(endpoint, middleware=(identified(flaky),))


# -- known late -----------------------------------------------------------------------------------------------------


@shape
async def amended_after_the_first_call(world: World) -> None:
    """First the session becomes known, then the user; what has become a row before stays as it is."""

    async def run(request: Request) -> None:
        user = by_id[request.query_params["user"]]
        await model.ainvoke(world.prompt(None))
        await world.log.aflush()
        amend(session_id=user.session_id)
        await model.ainvoke(world.prompt(User(None, user.session_id, user.thread_id)))
        await world.log.aflush()
        amend(user_id=user.user_id)
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))

    by_id = {user.user_id: user for user in world.users}
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user=user.user_id))


@shape
async def amended_by_a_thread_and_by_a_child_task(world: World) -> None:
    """Whoever amends changes the scope for everybody in it."""

    async def run(request: Request) -> None:
        user = by_id[request.query_params["user"]]
        await asyncio.to_thread(amend, user_id=user.user_id)

        async def child() -> None:
            amend(session_id=user.session_id)

        await asyncio.create_task(child())
        await model.ainvoke(world.prompt(user))

    by_id = {user.user_id: user for user in world.users}
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user=user.user_id))


@shape
async def amended_by_a_node_of_a_graph(world: World) -> None:
    """A graph that is not wrapped has no scopes of its own: its node amends the request's."""

    async def log_in(state: State) -> State:
        user = by_id[state["leave"]]
        amend(user_id=user.user_id, session_id=user.session_id)
        return {}

    async def run(request: Request) -> None:
        user = by_id[request.query_params["user"]]
        await compiled.ainvoke({"leave": user.user_id, "prompt": world.prompt(user)}, on(user))
        await model.ainvoke(world.prompt(user))

    by_id = {user.user_id or "": user for user in world.users}
    builder = StateGraph(State).add_node("log_in", log_in).add_node("talk", talk)
    compiled = builder.add_edge(START, "log_in").add_edge("log_in", "talk").compile()
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user=user.user_id))


@shape
async def amended_while_a_stream_is_read(world: World) -> None:
    """A call keeps what was true when it began; the next one is the amended user's."""

    async def run(request: Request) -> Response:
        user = asks(request)
        after = turned(user, "after")

        async def body() -> AsyncIterator[str]:
            async for chunk in model.astream(world.prompt(user)):
                amend(session_id=after.session_id)
                yield str(chunk.content)
            yield str((await model.ainvoke(world.prompt(after))).content)

        return StreamingResponse(body())

    asks = asker(world)
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user))


@shape
async def amended_into_another_user(world: World) -> None:
    """A conflict, which each row says from then on; what began before stays its user's."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        await model.ainvoke(world.prompt(user))
        stream = model.astream(world.prompt(user))
        await anext(stream)
        amend(user_id=other.user_id, session_id=other.session_id)
        assert [chunk async for chunk in stream]
        after.update(prompts := [world.prompt(other), world.prompt(other)])
        await model.ainvoke(prompts[0])
        await asyncio.to_thread(model.invoke, prompts[1])

    after: set[str] = set()
    await world.through(endpoint, rounds=1)
    for row in await settled(world):
        odd = any(prompt in (row.prompt_snapshot or "") for prompt in after)
        assert (row.identity_reason == "conflict") is odd


class Backend(AuthenticationBackend):
    """A session store of starlette's kind, which takes its time."""

    def __init__(self, make: Callable[[str], BaseUser] = SimpleUser) -> None:
        self.make = make

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        await asyncio.sleep(0)
        user_id = conn.headers.get("x-user")
        return (AuthCredentials(["authenticated"]), self.make(user_id)) if user_id else None


class Account(BaseUser):
    """A user that has nothing but a number in a database."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.id = UUID(int=int(name[1:]))


def _without_session(user: User) -> User:
    return User(user.user_id, None, user.thread_id)


UNASKED = Middleware(ContextMiddleware)
STACKS: dict[str, list[Middleware]] = {
    "inside_of_ours": [UNASKED, Middleware(AuthenticationMiddleware, backend=Backend())],
    "around_ours": [Middleware(AuthenticationMiddleware, backend=Backend()), UNASKED],
}

for _name, _stack in STACKS.items():

    async def _authenticated(world: World, stack: list[Middleware] = _stack) -> None:
        """`scope["user"]` says who it is; the session becomes known later, or never."""

        async def endpoint(user: User) -> None:
            partly = _without_session(user)
            await model.ainvoke(world.prompt(partly))
            await asyncio.to_thread(model.invoke, world.prompt(partly))
            await world.graphs[True].ainvoke({"prompt": world.prompt(partly)}, on(user))
            await world.log.aflush()
            amend(session_id=user.session_id)
            await model.ainvoke(world.prompt(user))

        await world.through(endpoint, rounds=1, middleware=tuple(stack))

    enter(f"authentication_middleware_{_name}", _authenticated, family=__name__)


@shape
async def authentication_middleware_with_users_of_its_own(world: World) -> None:
    """A user object that leaves most of starlette's fields undefined."""

    async def endpoint(user: User) -> None:
        account = CallContext(user_id=Account(user.user_id or "").id)  # type: ignore[arg-type]
        await model.ainvoke(world.prompt(User(account.user_id, None, user.thread_id)))

    backend = Middleware(AuthenticationMiddleware, backend=Backend(Account))
    await world.through(endpoint, middleware=(UNASKED, backend))


@shape
async def authentication_middleware_of_a_mounted_application(world: World) -> None:
    """Ours is around it all; in the other mounted application nobody is ever known."""

    async def inside(request: Request) -> Response:
        await model.ainvoke(world.prompt(_without_session(asks(request))))
        return PlainTextResponse("done")

    async def beside(request: Request) -> Response:
        await model.ainvoke(world.prompt(None))
        return PlainTextResponse("done")

    asks = asker(world)
    account = Starlette(
        routes=[Route("/", inside)], middleware=[Middleware(AuthenticationMiddleware, backend=Backend())]
    )
    public = Starlette(routes=[Route("/", beside)])
    app = Starlette(routes=[Mount("/account", app=account), Mount("/public", app=public)], middleware=[UNASKED])
    async with client(app) as http:
        await world.each(lambda user: asyncio.gather(ask(http, user, "/account/"), ask(http, user, "/public/")))


@shape
async def authentication_middleware_and_anonymous_requests(world: World) -> None:
    """Starlette's UnauthenticatedUser is nobody, and headers count for nothing by themselves."""

    async def run(request: Request) -> None:
        user = by_id[request.headers["x-user"]] if request.user.is_authenticated else NOBODY
        await model.ainvoke(world.prompt(_without_session(user)))

    by_id = {user.user_id: user for user in world.users}
    async with client(application(run, *STACKS["inside_of_ours"])) as http:
        await world.each(lambda user: asyncio.gather(ask(http, user), ask(http)))


@shape
async def headers_that_nobody_asked_for(world: World) -> None:
    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(None))

    await world.through(endpoint, middleware=(UNASKED,))


@shape
async def authentication_of_a_websocket(world: World) -> None:
    asks = asker(world)

    async def chat(socket: WebSocket) -> None:
        user = asks(socket)
        await socket.accept()
        await model.ainvoke(world.prompt(_without_session(user)))
        await world.log.aflush()
        for turn in range(2):
            now = turned(user, turn)
            amend(session_id=now.session_id)
            await model.ainvoke(world.prompt(now))
        await socket.send_text("done")

    app = Starlette(routes=[WebSocketRoute("/", chat)], middleware=STACKS["inside_of_ours"])
    async with listening(app) as base:

        async def converse(user: User) -> None:
            async with connect(base, additional_headers=user.headers, proxy=None) as socket:
                assert await socket.recv() == "done"

        await world.each(converse)


@shape
async def mounted_application_that_knows_somebody_else(world: World) -> None:
    """Behind a gateway's account stands its customer: inside he is believed, outside the gateway."""
    asks = asker(world)

    def customer(connection: HTTPConnection) -> CallContext:
        other = neighbour(world, asks(connection))
        return CallContext(user_id=other.user_id, session_id=other.session_id)

    async def inside(request: Request) -> Response:
        other = neighbour(world, asks(request))
        await model.ainvoke(world.prompt(other))
        await world.graphs[True].ainvoke({"prompt": world.prompt(other)}, on(other))
        return PlainTextResponse("done")

    class Around:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await model.ainvoke(world.prompt(asks(HTTPConnection(scope))))
            await self.app(scope, receive, send)
            await model.ainvoke(world.prompt(asks(HTTPConnection(scope))))

    mounted = Starlette(routes=[Route("/", inside)], middleware=[identified(customer)])
    app = Starlette(routes=[Mount("/mounted", app=mounted)], middleware=[OURS, Middleware(Around)])
    async with client(app) as http:
        await world.each(lambda user: ask(http, user, "/mounted/"))


# -- odd ids --------------------------------------------------------------------------------------------------------

ODD: dict[str, Callable[[int], Any]] = {
    "of_5000_characters": lambda n: f"{n}".rjust(5000, "x"),
    "of_exactly_256_characters": lambda n: f"{n}".rjust(256, "x"),
    "that_differ_after_character_256": lambda n: f"{'x' * 256}{n}",
    "non_ascii": lambda n: f"Jürgen Žižek Ωμέγα 山田太郎 {n}",
    "right_to_left": lambda n: f"\u202eמשתמש مستخدم\u202c {n}",
    "emoji": lambda n: f"👩‍👩‍👧‍👦🏳️‍🌈 {n}",
    "with_nul": lambda n: f"a\x00b\x00{n}",
    "with_newlines": lambda n: f"a\r\nb\n{n}\u2028",
    "with_control_characters": lambda n: f"\x1b[31m{n}\x7f\x9b",
    "with_lone_surrogates": lambda n: f"\ud83d{n}\udc80",
    "with_quotes": lambda n: f'O\'Neil "{n}" `x` \\ %s {{prompt}} $1',
    "like_sql": lambda n: f"{n}'); DROP TABLE biz_agent_llm_call_logs; --",
    "of_spaces": lambda n: " " * (n + 1),
    "of_tabs": lambda n: "\t" * (n + 1),
    "like_null": lambda n: ("None", "null", "NULL", "undefined", "nan")[n % 5] + " " * (n // 5),
    "numbers": lambda n: n - 3,
    "uuids": lambda n: UUID(int=n),
}


class Named(State):
    """A state that holds ids, as the application writes them."""

    user_id: Any
    session_id: Any


NAMED: Any = wrap_graph(StateGraph(Named).add_node("talk", talk).add_edge(START, "talk")).compile()

for _name, _odd in ODD.items():

    async def _oddly(world: World, odd: Callable[[int], Any] = _odd) -> None:
        """By every door: identify, bind, amend, metadata, state; and out again by config and thread_id."""

        def identify(connection: HTTPConnection) -> CallContext:
            value = odd(int(connection.headers["x-user"][1:]))
            return CallContext(user_id=value, session_id=value)

        async def endpoint(user: User) -> None:
            value = odd(world.users.index(user))
            known = CallContext(user_id=value, session_id=value)
            assert known.user_id
            assert known.user_id.isprintable() or known.user_id == value
            clean = User(known.user_id, known.session_id, value)  # and an odd thread_id

            async def out(config: RunnableConfig) -> None:
                prompt = world.prompt(clean)
                await in_thread(lambda: model.invoke(prompt, config))

            await model.ainvoke(world.prompt(clean))
            await OUT.ainvoke({"prompt": world.prompt(clean)}, {**on(clean), "metadata": {"out": out}})
            prompt = world.prompt(clean)
            await in_thread(lambda: model.invoke(prompt, on(clean)))
            with bind(user_id="somebody", session_id="else"):
                with bind(user_id=value, session_id=value):
                    await model.ainvoke(world.prompt(clean))
                named = {"llmctx_user_id": value, "llmctx_session_id": value}
                await model.ainvoke(world.prompt(clean), {"metadata": named})
            with bind():
                amend(user_id=value, session_id=value)
                await model.ainvoke(world.prompt(clean))
            prompt = world.prompt(clean)
            await in_thread(
                lambda: asyncio.run(NAMED.ainvoke({"prompt": prompt, "user_id": value, "session_id": value}))
            )

        await world.through(endpoint, rounds=1, middleware=(identified(identify),))
        assert len({row.user_id for row in await settled(world)}) == USERS

    enter(f"ids_{_name}", _oddly, family=__name__)


async def depart(state: State, config: RunnableConfig) -> State:
    """Hands its config on, to whatever the caller has put there."""
    await model.ainvoke(state["prompt"])
    await config["metadata"]["out"](config)
    return {}


OUT: Any = wrap_graph(StateGraph(State).add_node("depart", depart).add_edge(START, "depart")).compile()


# -- explicit ids ---------------------------------------------------------------------------------------------------


def outright(user: User) -> RunnableConfig:
    return {"metadata": {"llmctx_user_id": user.user_id, "llmctx_session_id": user.session_id}}


@shape
async def metadata_against_the_scope(world: World) -> None:
    """What a call says outright is believed, on all ways, and the row says that others disagree."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        await model.ainvoke(world.prompt(other), outright(other))
        await asyncio.to_thread(model.invoke, world.prompt(other), outright(other))
        await chain.ainvoke({"prompt": world.prompt(other)}, outright(other))
        assert [chunk async for chunk in model.astream(world.prompt(other), outright(other))]
        await refused(model.with_config(outright(other)).ainvoke(world.prompt(other, "error")))
        prompt = world.prompt(other)
        await in_thread(lambda: model.invoke(prompt, outright(other)))

    await world.through(endpoint, rounds=1)
    odd = {(row.identity_source, row.identity_reason) for row in await settled(world)}
    assert ("explicit", "conflict") in odd


@shape
async def metadata_of_a_graph(world: World) -> None:
    """It is said once, and holds for all calls of the run."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        for compiled in world.graphs.values():
            state: State = {"prompt": world.prompt(other), "prompts": [world.prompt(other), world.prompt(other)]}
            await compiled.ainvoke(state, {**outright(other), **on(other)})
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def metadata_that_names_the_user_alone(world: World) -> None:
    """The session is filled by the scope if that is of the same user, and by nobody otherwise."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        await model.ainvoke(world.prompt(user), {"metadata": {"llmctx_user_id": user.user_id}})
        stranger = User(other.user_id, None, other.thread_id)
        await model.ainvoke(world.prompt(stranger), {"metadata": {"llmctx_user_id": other.user_id}})

    await world.through(endpoint)


@shape
async def metadata_that_names_the_session_alone(world: World) -> None:
    """The user is filled by the scope if that is of the same session; a session of others may be anybody's."""

    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(user), {"metadata": {"llmctx_session_id": user.session_id}})
        report = User(None, f"report-{user.session_id}", user.thread_id)
        await model.ainvoke(world.prompt(report), {"metadata": {"llmctx_session_id": report.session_id}})

    await world.through(endpoint)


@shape
async def handler_with_a_context(world: World) -> None:
    """On the model or in the config, under other people's scopes; only a call's own metadata comes before it."""
    report = User("nightly", "report", "t")
    handler = CallLogHandler(context=CallContext(user_id="nightly", session_id="report"))
    reporting = Talker(callbacks=[handler])

    async def endpoint(user: User) -> None:
        await reporting.ainvoke(world.prompt(report))
        await asyncio.to_thread(reporting.invoke, world.prompt(report))
        await model.ainvoke(world.prompt(report), {"callbacks": [handler]})
        await chain.ainvoke({"prompt": world.prompt(report)}, {"callbacks": [handler]})
        await reporting.ainvoke(world.prompt(user), outright(user))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def handler_with_a_context_for_each_user(world: World) -> None:
    """Made anew for each call, in a bare thread without anything else."""

    async def visit(user: User) -> None:
        handler = CallLogHandler(context=CallContext(user_id=user.user_id, session_id=user.session_id))
        prompt = world.prompt(user)
        await in_thread(lambda: model.invoke(prompt, {"callbacks": [handler]}))
        await world.graphs[False].ainvoke({"prompt": world.prompt(user)}, {**on(user), "callbacks": [handler]})
        await refused(model.ainvoke(world.prompt(user, "error"), {"callbacks": [handler]}))

    await world.each(visit)


# -- bind -----------------------------------------------------------------------------------------------------------


@shape
async def bind_in_bind(world: World) -> None:
    """What is not named is inherited, and what was before is so again, also after an exception."""

    async def endpoint(user: User) -> None:
        one, two = turned(user, "one"), turned(user, "two")
        with bind(session_id=one.session_id):
            await model.ainvoke(world.prompt(one))
            with bind(session_id=two.session_id):
                await asyncio.gather(*(model.ainvoke(world.prompt(two)) for _ in range(2)))
                with bind(conversation_id="c"):
                    await refused(model.ainvoke(world.prompt(two, "error")))
            await asyncio.to_thread(model.invoke, world.prompt(one))
            try:
                with bind(session_id=two.session_id):
                    raise LookupError
            except LookupError:
                await model.ainvoke(world.prompt(one))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint)


@shape
async def bind_to_another_user_within_a_request(world: World) -> None:
    """An administrator acts for a customer for a while, on the customer's thread; tasks begun there stay there."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        with bind(CallContext(user_id=other.user_id, session_id=other.session_id)):
            await model.ainvoke(world.prompt(other))
            await world.graphs[True].ainvoke({"prompt": world.prompt(other)}, on(other))
            begun = asyncio.create_task(model.ainvoke(world.prompt(other)))
            await asyncio.sleep(0)
        await model.ainvoke(world.prompt(user))
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        await begun

    await world.through(endpoint, rounds=1)


@shape
async def bind_without_any_request(world: World) -> None:
    """A script or a consumer that binds for each of its jobs, many at once."""

    async def job(user: User) -> None:
        await model.ainvoke(world.prompt(None))
        with bind(user_id=user.user_id, session_id=user.session_id):
            await model.ainvoke(world.prompt(user))
            await asyncio.to_thread(model.batch, [world.prompt(user), world.prompt(user)])
            for compiled in world.graphs.values():
                await compiled.ainvoke({"prompt": world.prompt(user)}, on(user))
        await model.ainvoke(world.prompt(None))

    await world.each(job)


@shape
async def amend_inside_of_bind(world: World) -> None:
    """It changes the block, not what is around it."""

    async def endpoint(user: User) -> None:
        inner = turned(user, "inner")
        with bind():
            amend(session_id=inner.session_id)
            await model.ainvoke(world.prompt(inner))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint)


# -- everything else that a row says of its caller ------------------------------------------------------------------


@shape
async def six_ids_that_are_never_mixed(world: World) -> None:
    """Each goes into its own column, and all of them are of one person."""

    def everything(connection: HTTPConnection) -> CallContext:
        name = connection.headers["x-user"]
        ids = {f"{what}_id": f"{what}-{name}" for what in ("trace", "conversation", "thread")}
        return CallContext(user_id=name, session_id=connection.headers["x-session"], agent_key=f"agent-{name}", **ids)

    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))
        await refused(model.ainvoke(world.prompt(user, "error")))

    await world.through(endpoint, middleware=(identified(everything),))
    for row in await settled(world):
        got = (row.session_id, row.trace_id, row.conversation_id, row.thread_id, row.agent_key)
        name = row.user_id or ""
        assert got == (f"s{name[1:]}", f"trace-{name}", f"conversation-{name}", f"thread-{name}", f"agent-{name}")


@shape
async def a_trace_per_request(world: World) -> None:
    """A request that brings no trace_id gets one of its own, which all of its calls share."""

    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(user))
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))

    await world.through(endpoint)
    traces: dict[str | None, list[str | None]] = {}
    for row in await settled(world):
        traces.setdefault(row.trace_id, []).append(row.user_id)
    assert None not in traces
    assert len(traces) == 2 * USERS
    assert all(len(whose) == 2 and len(set(whose)) == 1 for whose in traces.values())


@shape
async def attributes(world: World) -> None:
    """From identify, bind and amend: they add up, and those of others are never among them."""

    def with_tenant(connection: HTTPConnection) -> CallContext:
        name = connection.headers["x-user"]
        ids = {"user_id": name, "session_id": connection.headers["x-session"]}
        return CallContext(**ids, attributes={"tenant": f"of {name}", "plan": "free"})

    async def endpoint(user: User) -> None:
        with bind(attributes={"plan": f"paid by {user.user_id}"}):
            amend(attributes={"feature": f"for {user.user_id}"})
            await model.ainvoke(world.prompt(user))
            await asyncio.to_thread(model.invoke, world.prompt(user))
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))

    await world.through(endpoint, middleware=(identified(with_tenant),))
    for row in await settled(world):
        name = row.user_id
        wanted = {"tenant": f"of {name}", "plan": f"paid by {name}", "feature": f"for {name}"}
        assert wanted.items() <= (row.attributes or {}).items()
