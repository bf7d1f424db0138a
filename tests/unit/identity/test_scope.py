"""Scopes and identities: what is bound where, for how long, and what becomes of odd ids."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from llmctx import CallContext, amend, bind, current
from llmctx.core.diagnostics import diagnostics
from llmctx.identity.scope import EMPTY, current_scope


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
