"""Scopes and identities: what is bound where, for how long, and what becomes of odd ids."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from llmctx import CallContext, amend, bind, current, hand_over, take_over
from llmctx.core.diagnostics import diagnostics
from llmctx.identity import handover
from llmctx.identity.scope import EMPTY, current_scope
from llmctx.middleware import ContextMiddleware


def test_nothing_is_known_outside_of_any_scope() -> None:
    """Where nobody has bound anything, the identity is empty, never a default."""
    assert current() == EMPTY
    assert not current()


def test_an_inner_scope_inherits_what_it_does_not_name() -> None:
    """bind() inside bind() overlays: named ids win, the others are inherited, and both end with their block."""
    with bind(session_id="s", user_id="u"):
        with bind(agent_key="triage") as inner:
            assert (inner.session_id, inner.user_id, inner.agent_key) == ("s", "u", "triage")
        assert current().agent_key is None
    assert current() == EMPTY


def test_a_scope_ends_on_an_exception_too() -> None:
    """However the block is left, nothing stays behind."""
    with pytest.raises(RuntimeError), bind(user_id="u"):
        raise RuntimeError
    assert current_scope() is None


def test_a_name_that_is_no_id_is_refused_at_once() -> None:
    """A typing error in an id's name must not become a row without it."""
    with pytest.raises(TypeError), bind(usre_id="u"):
        pass


def test_ids_in_a_closed_scope_are_not_inherited() -> None:
    """What a finished request left in a worker's context must not become strong again by binding inside of it."""
    with bind(user_id="a", session_id="s"):
        context = contextvars.copy_context()

    def later() -> CallContext:
        with bind(agent_key="worker") as identity:
            return identity

    assert context.run(later).user_id is None


def test_amend_is_seen_by_everybody_in_the_scope() -> None:
    """A dependency that runs in another thread, on a copy of the context, is heard."""
    with bind(session_id="s"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(amend, user_id="u"))
        thread.start()
        thread.join()
        assert current() == CallContext(session_id="s", user_id="u")


def test_amending_one_user_into_another_is_counted() -> None:
    """It is done, for the newest authentication counts, but never in silence."""
    before = diagnostics.counts["amended_into_another_user"]
    with bind(user_id="a"):
        amend(user_id="b")
        assert current().user_id == "b"
    assert diagnostics.counts["amended_into_another_user"] == before + 1


def test_amend_outside_of_a_scope_disturbs_nobody() -> None:
    """Without a middleware there is nothing to amend: counted, not raised."""
    before = diagnostics.counts["amend_without_scope"]
    assert amend(user_id="u") == EMPTY
    assert diagnostics.counts["amend_without_scope"] == before + 1


async def test_a_scope_left_in_another_context_raises_nothing() -> None:
    """A generator that holds a scope across a yield, and is closed by somebody else's task, harms nobody."""

    async def careless() -> object:
        with bind(user_id="u"):
            yield 1

    generator = careless()
    await asyncio.create_task(anext(generator))  # type: ignore[arg-type]
    await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
    assert current() == EMPTY


# -- scopes that are entered and left in different contexts, or not in order ------------------------------------------


def _in_a_thread(run: Callable[[], object]) -> None:
    """Run in a new thread, in a copy of this context."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()


def _held(user_id: str) -> Any:
    return bind(user_id=user_id)


def _taken_over(user_id: str) -> Any:
    handover.configure("k" * 32, "raise")
    with bind(user_id=user_id):
        token = hand_over()
    return take_over(token)


@pytest.fixture(params=[_held, _taken_over])
def block(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    before = handover.configuration()
    yield request.param
    handover.configure(*before)


@pytest.mark.parametrize("around", [None, "ann"])
def test_a_scope_left_in_another_thread_is_not_left_behind_here(
    block: Callable[[str], Any], around: str | None
) -> None:
    """A bridge between sync and async leaves it wherever a thread is free; a pool's thread lives on."""
    with bind(user_id=around) if around else contextlib.nullcontext():
        held = block("bob")
        held.__enter__()
        assert current().user_id == "bob"
        _in_a_thread(lambda: held.__exit__(None, None, None))
        assert current().user_id == around
        with bind(session_id="s"):
            assert current().user_id == around
        assert current().user_id == around


def test_a_task_started_inside_of_a_scope_keeps_it_when_that_is_left_elsewhere() -> None:
    """It is what the scope has begun, and no leftover."""
    held = bind(user_id="bob")
    held.__enter__()
    inside = contextvars.copy_context()
    _in_a_thread(lambda: held.__exit__(None, None, None))
    assert current() == EMPTY
    assert inside.run(current).user_id == "bob"


def test_scopes_that_are_not_left_in_order_leave_none_behind(block: Callable[[str], Any]) -> None:
    """Two generators that take turns: the end of the outer block does not end the inner one."""
    with bind(user_id="ann"):
        first, second, third = block("1"), block("2"), block("3")
        for held in (first, second, third):
            held.__enter__()
        first.__exit__(None, None, None)
        assert current().user_id == "3"
        third.__exit__(None, None, None)
        assert current().user_id == "2"
        second.__exit__(None, None, None)
        assert current().user_id == "ann"
    assert current() == EMPTY


async def test_a_scope_on_an_exit_stack_that_another_task_closes() -> None:
    """As a lifespan does, or a test's fixture."""

    async def enter() -> contextlib.AsyncExitStack:
        stack = contextlib.AsyncExitStack()
        stack.enter_context(bind(user_id="u"))
        return stack

    stack = await enter()
    assert current().user_id == "u"
    await asyncio.create_task(stack.aclose())
    assert current() == EMPTY


async def test_scopes_in_a_portal_leave_none_behind() -> None:
    """anyio's bridge enters and leaves in different threads, and in different tasks."""

    def work() -> list[str | None]:
        found = []
        held = bind(user_id="u")
        anyio.from_thread.run_sync(held.__enter__)
        found.append(anyio.from_thread.run_sync(current).user_id)
        found.append(current().user_id)
        anyio.from_thread.run_sync(held.__exit__, None, None, None)
        with bind(user_id="v"):
            found.append(anyio.from_thread.run_sync(current).user_id)
        return found

    assert await anyio.to_thread.run_sync(work) == [None, None, "v"]
    assert current() == EMPTY


def test_a_dependency_with_yield_restores_what_was_there() -> None:
    """FastAPI enters a synchronous one in one thread and leaves it in another."""
    seen: list[str | None] = []

    def named() -> Iterator[None]:
        with bind(user_id="dependency"):
            seen.append(current().user_id)
            yield
        seen.append(current().user_id)

    app = FastAPI(middleware=[Middleware(ContextMiddleware, identify=lambda connection: CallContext(user_id="ann"))])

    @app.get("/", dependencies=[Depends(named)])
    def endpoint() -> None:
        seen.append(current().user_id)

    with TestClient(app) as http:
        for _ in range(3):
            assert http.get("/").status_code == 200
    assert seen == ["dependency", "ann", "ann"] * 3
    assert current() == EMPTY
