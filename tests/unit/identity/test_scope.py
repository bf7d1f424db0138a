"""Scopes and identities: what is bound where, for how long, and what becomes of odd ids."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctx import CallContext, amend, bind, carry, current
from llmctx.core.diagnostics import diagnostics
from llmctx.identity.scope import EMPTY, ID_LIMIT, clean_id, current_scope


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


def test_carry_takes_the_scope_into_an_executor_and_leaves_nothing_there() -> None:
    """The pooled thread works for the scope during the job, and for nobody after it."""
    with ThreadPoolExecutor(1) as pool:
        with bind(session_id="s", user_id="u"):
            carried = pool.submit(carry(current))
        assert carried.result() == CallContext(session_id="s", user_id="u")
        assert pool.submit(current).result() == EMPTY


async def test_carry_takes_the_scope_into_a_coroutine() -> None:
    """A coroutine function stays one."""

    async def who() -> CallContext:
        await asyncio.sleep(0)
        return current()

    with bind(user_id="u"):
        carried = carry(who)
    assert (await carried()).user_id == "u"
    assert asyncio.iscoroutinefunction(carried)


async def test_a_scope_left_in_another_context_raises_nothing() -> None:
    """A generator that holds a scope across a yield, and is closed by somebody else's task, harms nobody."""

    async def careless() -> object:
        with bind(user_id="u"):
            yield 1

    generator = careless()
    await asyncio.create_task(anext(generator))  # type: ignore[arg-type]
    await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
    assert current() == EMPTY


@pytest.mark.parametrize(
    ("given_id", "stored"),
    [(42, "42"), (uuid.UUID(int=7), str(uuid.UUID(int=7))), ("", None), ("王小明", "王小明"), ("a b", "a b")],
)
def test_ids_become_text(given_id: object, stored: str | None) -> None:
    """Numbers and UUIDs are what applications have; an empty text is no id."""
    assert CallContext(user_id=given_id).user_id == stored  # type: ignore[arg-type]


def test_a_long_id_is_kept_whole_up_to_the_limit() -> None:
    """250 characters are an id like any other."""
    assert CallContext(user_id="x" * ID_LIMIT).user_id == "x" * ID_LIMIT


@pytest.mark.parametrize("bad", ["a\x00b", "a\nb", "\x1b[31mred", "x" * 10_000, "\ud800"])
def test_an_odd_id_is_cleaned_and_counted(bad: str) -> None:
    """Control characters and ten thousand characters are stored in a form that is safe, and say so in the log."""
    before = diagnostics.counts["cleaned_id"]
    stored = CallContext(user_id=bad).user_id
    assert stored is not None
    assert len(stored) <= ID_LIMIT
    assert stored.isprintable()
    assert diagnostics.counts["cleaned_id"] == before + 1


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_ids_never_become_one(one: str, other: str) -> None:
    """Cleaning may not merge two users; and a cleaned id is stable."""
    assert (clean_id(one) == clean_id(other)) == (one == other)
