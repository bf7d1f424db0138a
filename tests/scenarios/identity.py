"""Whose a call is where that is not plain: shared and stolen threads, late and odd ids, witnesses that disagree.

Who a request belongs to is what its authentication says, whatever else the client sends; each row is held against that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llmctx import CallContext, amend, bind
from llmctx.capture.handler import CallLogHandler
from llmctx.core.record import CallRecord
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker, User
from tests.kit.uvicorn_server import served
from tests.scenarios import enter, shape
from tests.scenarios.http import asker, refused, turned
from tests.scenarios.world import OURS, USERS, State, World, chain, client, in_thread, model, on, talk, who

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
    assert await world.log.aflush(60) == 0
    return world.sink.records


def neighbour(world: World, user: User, steps: int = 1) -> User:
    """Somebody else."""
    return world.users[(world.users.index(user) + steps) % USERS]


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
            with bind(user_id="somebody", session_id="else"), bind(user_id=value, session_id=value):
                await model.ainvoke(world.prompt(clean))
                named = {"llmctx_user_id": value, "llmctx_session_id": value}
                await model.ainvoke(world.prompt(clean), {"metadata": named})
            with bind():
                amend(user_id=value, session_id=value)
                await model.ainvoke(world.prompt(clean))
            if known.user_id == str(value):  # what a client may have sent is an id as it stands, or none
                prompt = world.prompt(clean)
                told: Any = {"prompt": prompt, "user_id": value, "session_id": value}
                await in_thread(lambda: asyncio.run(NAMED.ainvoke(told)))

        await world.through(endpoint, rounds=1, middleware=(identified(identify),))
        assert len({row.user_id for row in await settled(world)} - {None}) == USERS

    enter(f"ids_{_name}", _oddly, family=__name__)


async def depart(state: State, config: RunnableConfig) -> State:
    """Hands its config on, to whatever the caller has put there."""
    await model.ainvoke(state["prompt"])
    await config["metadata"]["out"](config)
    return {}


OUT: Any = wrap_graph(StateGraph(State).add_node("depart", depart).add_edge(START, "depart")).compile()


def outright(user: User) -> RunnableConfig:
    return {"metadata": {"llmctx_user_id": user.user_id, "llmctx_session_id": user.session_id}}


@shape
async def metadata_against_the_scope(world: World) -> None:
    """Metadata may be a client's: they never contradict the request, on all ways, and the row says that they tried."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        await model.ainvoke(world.prompt(user), outright(other))
        await asyncio.to_thread(model.invoke, world.prompt(user), outright(other))
        await chain.ainvoke({"prompt": world.prompt(user)}, outright(other))
        assert [chunk async for chunk in model.astream(world.prompt(user), outright(other))]
        await refused(model.with_config(outright(other)).ainvoke(world.prompt(user, "error")))

    await world.through(endpoint, rounds=1)
    odd = {(row.identity_source, row.identity_reason) for row in await settled(world)}
    assert ("context", "conflict") in odd


@shape
async def metadata_of_a_graph(world: World) -> None:
    """It does not contradict the request in any call of the run."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        for compiled in world.graphs.values():
            state: State = {"prompt": world.prompt(user), "prompts": [world.prompt(user), world.prompt(user)]}
            await compiled.ainvoke(state, {**outright(other), **on(user)})
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@shape
async def metadata_that_names_the_user_alone(world: World) -> None:
    """The session is the scope's, whoever is named."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        await model.ainvoke(world.prompt(user), {"metadata": {"llmctx_user_id": user.user_id}})
        await model.ainvoke(world.prompt(user), {"metadata": {"llmctx_user_id": other.user_id}})

    await world.through(endpoint)


@shape
async def metadata_that_names_the_session_alone(world: World) -> None:
    """The scope's session is known, so it stays."""

    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(user), {"metadata": {"llmctx_session_id": user.session_id}})
        await model.ainvoke(world.prompt(user), {"metadata": {"llmctx_session_id": f"report-{user.session_id}"}})

    await world.through(endpoint)


@shape
async def handler_with_a_context(world: World) -> None:
    """On the model or in the config, under other people's scopes. Metadata do not come before it."""
    report = User("nightly", "report", "t")
    handler = CallLogHandler(context=CallContext(user_id="nightly", session_id="report"))
    reporting = Talker(callbacks=[handler])

    async def endpoint(user: User) -> None:
        await reporting.ainvoke(world.prompt(report))
        await asyncio.to_thread(reporting.invoke, world.prompt(report))
        await model.ainvoke(world.prompt(report), {"callbacks": [handler]})
        await chain.ainvoke({"prompt": world.prompt(report)}, {"callbacks": [handler]})
        await reporting.ainvoke(world.prompt(report), outright(user))
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
