"""What is left of a request, or never knew it: detached tasks on threads of others, and threads without a context."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llmctx import CallContext
from llmctx.middleware import ContextMiddleware
from tests.kit.trust import IN_METADATA, PLACES, Sent, bare, bare_sync, functional, recorded, unwrapped, wrapped

ON_THREAD = Sent({}, {"configurable": {"thread_id": "t"}, "metadata": {"thread_id": "t"}})


def _who(connection: Any) -> CallContext:
    user = connection.headers["user"]
    return CallContext(user_id=user, session_id=f"s-{user}")


@pytest.mark.parametrize("carry", [False, True], ids=["plain", "carry"])
@pytest.mark.parametrize("path", [bare, unwrapped, wrapped, functional])
def test_a_detached_task_on_a_thread_that_others_have_used_since(path: Any, carry: bool) -> None:
    """It is its own request's where that has used the thread, too. Where it has not, it is as a worker that was started
    in a request and is given jobs by their thread_id: the thread's user's; and nobody's, where it has several.
    """
    right = {("used",): "alice", ("used", "carol"): "alice", (): "bob", ("carol",): None}
    found = {}
    for case in right:
        with recorded(carry=carry) as sink:
            asyncio.run(_detached(path, *case))
        found[case] = sink.records[-1].user_id
    assert found == right


async def _detached(path: Any, *case: str) -> None:
    turn, kept = asyncio.Event(), []

    async def job() -> None:
        await turn.wait()
        await path(ON_THREAD)

    async def begin(request: Request) -> PlainTextResponse:
        if "used" in case:
            await path(ON_THREAD)
        kept.append(asyncio.create_task(job()))
        return PlainTextResponse("")

    async def use(request: Request) -> PlainTextResponse:
        await wrapped(ON_THREAD)
        return PlainTextResponse("")

    app = ContextMiddleware(Starlette(routes=[Route("/begin", begin), Route("/use", use)]), identify=_who)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await client.get("/begin", headers={"user": "alice"})
        for user in ("bob", *(name for name in case if name != "used")):
            await client.get("/use", headers={"user": user})
        turn.set()
        await kept[0]


@pytest.mark.parametrize("place", IN_METADATA)
@pytest.mark.parametrize("said", ["victim", "alice"])
def test_data_in_a_bare_thread(place: str, said: str) -> None:
    """A thread without a context is to llmctx what a script is: data count. With `carry=True` it has the request's
    scope, and data name nobody else.
    """
    sent = PLACES[place](said)
    users = {}
    for carry in (False, True):
        with recorded(carry=carry) as sink:
            asyncio.run(_in_bare_thread(sent))
        users[carry] = [(row.user_id, row.identity_reason == "conflict") for row in sink.records]
    assert users[True] == [("alice", said == "victim")]
    assert [user for user, _ in users[False]] == [said]


async def _in_bare_thread(sent: Sent) -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        thread = threading.Thread(target=lambda: asyncio.run(bare_sync(sent)))
        thread.start()
        await asyncio.to_thread(thread.join)
        return PlainTextResponse("")

    app = ContextMiddleware(Starlette(routes=[Route("/", endpoint)]), identify=_who)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await client.get("/", headers={"user": "alice"})
