"""The memory registry: who has used a thread, and when it refuses to say."""

from __future__ import annotations

import threading
from random import Random

import pytest

from llmctx import CallContext
from llmctx.identity.registry import Entry, MemoryRegistry
from llmctx.identity.scope import Scope

A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")


def told(*uses: CallContext) -> Entry | None:
    registry = MemoryRegistry()
    for identity in uses:
        registry.put(Scope(identity, "bind"), thread_id="t")
    return registry.get(thread_id="t")


def test_a_thread_names_its_user() -> None:
    """One user, one thread: that is whose calls they are."""
    entry = told(A, A)
    assert entry is not None
    assert (entry.identity, entry.shared) == (A, False)


def test_an_unknown_thread_says_nothing() -> None:
    """No entry is None, not somebody."""
    assert MemoryRegistry().get(thread_id="t") is None


@pytest.mark.parametrize(
    "uses",
    [
        (A, B),
        (A, B, A),
        (A, CallContext()),
        (CallContext(), A),
        (CallContext(session_id="x"), CallContext(session_id="y")),
        (A, CallContext(session_id="x")),
    ],
)
def test_a_thread_that_several_have_used_testifies_to_none(uses: tuple[CallContext, ...]) -> None:
    """There is no last writer who wins, and somebody anonymous is somebody."""
    entry = told(*uses)
    assert entry is not None
    assert (entry.shared, entry.identity) == (True, CallContext())


def test_an_anonymous_visitor_who_logs_in_is_one_person() -> None:
    """The same session before and after the login is no reason for silence."""
    entry = told(CallContext(session_id="s-a"), A)
    assert entry is not None
    assert entry.identity == A


def test_one_user_with_two_sessions_is_known_without_the_session() -> None:
    """The user is certain; which of the sessions it was is not."""
    entry = told(A, CallContext(user_id="a", session_id="other"))
    assert entry is not None
    assert (entry.identity.user_id, entry.identity.session_id, entry.shared) == ("a", None, False)


def test_many_sessions_of_one_user_do_not_unshare_a_thread() -> None:
    """Nobody can push another user's use out of the memory by using the thread often."""
    entry = told(A, *(CallContext(user_id="b", session_id=f"s-{n}") for n in range(50)))
    assert entry is not None
    assert entry.shared


def test_an_identity_that_becomes_known_late_is_known_here_too() -> None:
    """Entries hold the scope, so amending it amends them."""
    registry = MemoryRegistry()
    scope = Scope(CallContext(session_id="s-a"), "request")
    registry.put(scope, thread_id="t", task="n:1")
    scope.identity = A
    for key in ({"thread_id": "t"}, {"task": "n:1"}):
        entry = registry.get(**key)
        assert entry is not None
        assert entry.identity == A


def test_a_task_inside_a_task_belongs_to_it() -> None:
    """A nested checkpoint namespace is found under the task around it."""
    registry = MemoryRegistry()
    registry.put(Scope(A, "node"), task="outer:1")
    entry = registry.get(task="outer:1|inner:2")
    assert entry is not None
    assert entry.identity == A
    assert registry.get(task="outer:11") is None


def test_entries_are_bounded_and_expire() -> None:
    """Memory has a bound, and so has the time for which somebody's use of a thread counts."""
    registry = MemoryRegistry(entries=10)
    for number in range(100):
        registry.put(Scope(A, "bind"), thread_id=f"t-{number}", task=f"n:{number}")
    assert len(registry) <= 20
    registry = MemoryRegistry(ttl_s=0.001)
    registry.put(Scope(A, "bind"), thread_id="t")
    waiting = threading.Event()
    while registry.get(thread_id="t") is not None:
        waiting.wait(0.001)


def test_a_user_can_be_forgotten() -> None:
    """forget() drops a thread, or all that names a user."""
    registry = MemoryRegistry()
    registry.put(Scope(A, "bind"), thread_id="t", task="n:1")
    registry.put(Scope(B, "bind"), thread_id="t2")
    assert registry.forget(user_id="a") == 2
    assert registry.get(thread_id="t") is None
    assert registry.forget(thread_id="t2") == 1


def test_many_threads_may_register_at_once() -> None:
    """Two users who register one thread from many OS threads always make it shared."""
    registry = MemoryRegistry()

    def use(identity: CallContext) -> None:
        for number in range(500):
            registry.put(Scope(identity, "node"), thread_id=f"t-{number}")

    threads = [threading.Thread(target=use, args=(identity,)) for identity in (A, B, A, B)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = [registry.get(thread_id=f"t-{number}") for number in range(500)]
    assert all(entry is not None and entry.shared for entry in entries)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_forgotten_a_name_is_right_or_not_given(seed: int) -> None:
    """By age, by size and on demand. The oracle remembers all; the registry has room for little, for a short time."""
    random = Random(seed)
    ttl_s = random.choice([0.0001, 0.001, 60.0])
    registry = MemoryRegistry(entries=random.choice([1, 2, 5, 1000]), ttl_s=ttl_s)
    used: dict[str, set[str | None]] = {}
    ran: dict[str, set[str | None]] = {}
    for _ in range(1500):
        name = f"t-{random.randrange(12)}"
        match random.random():
            case draw if draw < 0.5:
                user = random.choices([None, "a", "b", *(f"u-{n}" for n in range(20))], [2, 20, 20, *[1] * 20])[0]
                scope = Scope(CallContext(user_id=user, session_id=random.choice(["s", "s2", None])), "request")
                registry.put(scope, thread_id=name, task=None if user is None else f"{name}:1")
                used.setdefault(name, set()).add(user)
                if user is not None:
                    ran.setdefault(name, set()).add(user)
                if random.random() < 0.9:
                    scope.close()
            case draw if draw < 0.97:
                entry = registry.get(thread_id=name)
                if entry is not None and entry.identity.user_id is not None:
                    assert used[name] - {None} == {entry.identity.user_id}
                entry = registry.get(task=f"{name}:1|inner:2")
                if entry is not None and entry.identity.user_id is not None:
                    assert entry.identity.user_id in ran[name]
            case draw if draw < 0.98:
                registry.forget(thread_id=name)
            case _:
                registry.forget(user_id=random.choice(["a", "b"]))
    assert len(registry) <= 2 * 1000


def test_a_user_who_comes_back_is_known_again() -> None:
    """That he had the thread before, and that it was forgotten, is no reason for silence."""
    registry = MemoryRegistry(entries=3)
    for number in range(1000):
        registry.put(Scope(A, "bind"), thread_id=f"t-{number}")
    for number in range(1000):
        registry.put(Scope(A, "bind"), thread_id=f"t-{number}")
        entry = registry.get(thread_id=f"t-{number}")
        assert entry is not None
        assert entry.identity == A


def test_a_thread_stays_one_of_several_users_for_as_long_as_one_of_them_uses_it() -> None:
    """By age as well as by size."""
    registry = MemoryRegistry(entries=3, ttl_s=0.05)
    waiting = threading.Event()
    for who in (A, B):
        registry.put(Scope(who, "bind"), thread_id="t")
    for number in range(20):
        waiting.wait(0.01)
        registry.put(Scope(B, "bind"), thread_id="t")
        registry.put(Scope(B, "bind"), thread_id=f"t-{number}")
        entry = registry.get(thread_id="t")
        assert entry is None or entry.identity.user_id is None


def test_a_task_that_two_users_run_is_of_neither() -> None:
    """Both replay one checkpoint. Anonymous at first and known later is one user, within a request."""
    registry = MemoryRegistry()
    request = Scope(CallContext(session_id="s-a"), "request")
    registry.put(request, task="n:1")
    registry.put(Scope(A, "node", request), task="n:1")
    entry = registry.get(task="n:1")
    assert entry is not None
    assert entry.identity == A
    registry.put(Scope(B, "node"), task="n:1")
    registry.put(Scope(B, "node"), task="n:1")
    assert registry.get(task="n:1|m:2") == Entry(CallContext(), True, *[registry.get(task="n:1").last] * 2)  # type: ignore[union-attr]
