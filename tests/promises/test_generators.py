"""`with bind(…)` around the yields of a generator holds for each of its steps, wherever it runs, and for no other's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from llmctx import CallContext, bind, current, hand_over, take_over
from llmctx.identity.held_scopes import held
from llmctx.middleware import ContextMiddleware
from tests.kit.requests import MODES, THREAD, model, on, request, the_victim_uses_the_thread, wrapped_graph
from tests.kit.trust import recorded

USERS = [f"u{number}" for number in range(6)]


def steps(user: str) -> Iterator[str]:
    with bind(user_id=user, session_id=f"s-{user}"):
        for _ in range(3):
            yield model.invoke(user).text
        with bind(conversation_id="c"):
            yield model.invoke(user).text
        yield model.invoke(user).text


def taken_over(user: str) -> Iterator[str]:
    with bind(user_id=user, session_id=f"s-{user}"):
        token = hand_over()
    with take_over(token):
        for _ in range(3):
            yield model.invoke(user).text


async def async_steps(user: str) -> AsyncIterator[str]:
    with bind(user_id=user, session_id=f"s-{user}"):
        for _ in range(3):
            yield (await model.ainvoke(user)).text
        await wrapped_graph.ainvoke({"text": user}, on(f"t-{user}"))


async def with_heartbeat(items: AsyncIterator[str]) -> AsyncIterator[str]:
    """Each step in a task of its own."""
    while True:
        step = asyncio.ensure_future(anext(items))  # type: ignore[arg-type]
        while not (await asyncio.wait({step}, timeout=0.001))[0]:
            yield ": ping"
        try:
            yield step.result()
        except StopAsyncIteration:
            return


def wrong(records: list[Any]) -> set[tuple[str, Any, Any]]:
    return {
        (user, row.user_id, row.session_id)
        for row in records
        for user in USERS
        if f'"{user}"' in str(row.prompt_snapshot) and (row.user_id, row.session_id) != (user, f"s-{user}")
    }


BODIES: dict[str, Callable[[str], Any]] = {
    "in a pool": steps,
    "taken over": taken_over,
    "in one task": async_steps,
    "beside a heartbeat": lambda user: with_heartbeat(async_steps(user)),
}


@MODES
@pytest.mark.parametrize("body", BODIES)
def test_the_body_of_a_response_to_a_service_is_the_end_users(
    body: str, carry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTX_HANDOVER_KEY", "k" * 40)

    async def app(connection: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(BODIES[body](Request(connection).headers["user"]))(connection, receive, send)

    serve = ContextMiddleware(app, identify=lambda _: CallContext(user_id="service", session_id="service"))

    async def ask(user: str) -> None:
        async def receive() -> dict[str, Any]:
            return await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: Any) -> None:
            pass

        headers = [(b"user", user.encode())]
        connection: Any = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": headers,
            "asgi": {"spec_version": "2.4"},
        }
        await asyncio.get_running_loop().create_task(serve(connection, receive, send), context=contextvars.Context())

    async def main() -> None:
        await asyncio.gather(*map(ask, USERS))

    with recorded(carry=carry) as sink:
        asyncio.run(main())
    assert len(sink.records) >= 3 * len(USERS)
    assert wrong(sink.records) == set()
    assert not held


def test_generators_that_take_turns_in_one_thread() -> None:
    with recorded() as sink:
        running = [steps(user) for user in USERS]
        for _ in range(5):
            for one in running:
                next(one, None)
        assert all(list(one) == [] for one in running)
    assert len(sink.records) == 5 * len(USERS)
    assert wrong(sink.records) == set()
    assert not held


@MODES
def test_a_step_on_a_thread_that_a_victim_has_used_since(carry: bool) -> None:
    async def body() -> AsyncGenerator[None, None]:
        with bind(user_id="alice", session_id="s-alice"):
            yield
            await model.ainvoke("alice", on(THREAD))
            yield

    async def main() -> None:
        items = body()
        await asyncio.create_task(anext(items))  # type: ignore[arg-type]
        await the_victim_uses_the_thread()
        await asyncio.create_task(anext(items))  # type: ignore[arg-type]
        await items.aclose()

    with recorded(carry=carry) as sink:
        asyncio.run(main())
    assert [row.user_id for row in sink.records if "alice" in str(row.prompt_snapshot)] == ["alice"]


@contextlib.contextmanager
def signed_in(user: str) -> Iterator[None]:
    with bind(user_id=user, session_id=f"s-{user}"):
        yield


def test_a_block_of_a_context_manager_is_what_its_code_runs_in() -> None:
    def inner() -> Generator[str | None, None, None]:
        with bind(user_id="outer"):
            yield current().user_id
            with signed_in("inner"):
                yield current().user_id
                with bind(conversation_id="c"):
                    yield current().user_id
            yield current().user_id

    with signed_in("around"):
        assert current().user_id == "around"
        assert list(inner()) == ["outer", "inner", "inner", "outer"]
        assert current().user_id == "around"
    in_threads = inner()
    assert [_in_a_thread(lambda: next(in_threads)) for _ in range(4)] == ["outer", "inner", "inner", "outer"]
    in_threads.close()
    assert not held


def test_what_its_consumer_binds_is_not_the_generators() -> None:
    items = steps("u0")
    with recorded() as sink:
        next(items)
        with bind(user_id="consumer", session_id="consumer"):
            next(items)
            assert current().user_id == "consumer"
        list(items)
    assert wrong(sink.records) == set()


def test_a_request_that_is_served_beneath_is_its_own_users() -> None:
    seen: list[str | None] = []

    async def endpoint() -> None:
        seen.append(current().user_id)

    def body() -> Iterator[None]:
        with bind(user_id="outer"):
            yield
            asyncio.run(request("inner", endpoint))
            seen.append(current().user_id)
            yield

    list(body())
    assert seen == ["inner", "outer"]


def test_a_generator_that_is_dropped_leaves_nothing_behind() -> None:
    items = steps("u0")
    with recorded():
        next(items)
        assert held
        del items
    assert not held


def _in_a_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]
