"""Tokens that take an identity to another process, and those that must not."""

from __future__ import annotations

import math
import string
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from llmctx import CallContext, bind, current, hand_over, take_over
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError, InvalidToken
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity import handover
from llmctx.settings import load

A = CallContext(user_id="a", session_id="s-a", thread_id="t-1", agent_key="triage")


@pytest.fixture(autouse=True)
def key() -> Iterator[None]:
    handover.configure("a-secret-of-16-bytes", "raise")
    yield
    handover.configure(None, "raise")


def token() -> str:
    with bind(A):
        return hand_over()


def test_what_is_handed_over_is_taken_over() -> None:
    """All ids arrive, and the scope ends with its block."""
    with take_over(token()) as identity:
        assert identity == current() == A
    assert not current()


def test_the_workers_own_context_is_not_inherited() -> None:
    """A job of nobody's, taken over inside of somebody's context, is nobody's."""
    nobody = hand_over()
    with bind(A), take_over(nobody):
        assert current() == CallContext()


def test_a_token_is_short_and_plain() -> None:
    """It has to fit into a header."""
    assert len(token()) < 300
    assert token().isascii()
    assert set(token()) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_forged_token_is_refused() -> None:
    """Nobody can write his own, or change one letter of one."""
    real = token()
    for forged in (real[:-1], "x" + real, real.swapcase(), "", "."):
        with pytest.raises(InvalidToken), take_over(forged):
            pass


def test_a_token_has_one_spelling() -> None:
    """Base64 that decodes to the same signature is another text: unused bits, letters that are skipped."""
    real = token()
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    same_bits = alphabet[alphabet.index(real[-1]) ^ 1]
    for other in (
        real[:-1] + same_bits,
        real + "=",
        real + "\n",
        real[:-5] + "\u0130" + real[-5:],
        real.replace(".", ". "),
    ):
        with pytest.raises(InvalidToken), take_over(other):
            pass


class Raising:
    def __bool__(self) -> bool:
        raise RuntimeError("do not touch")


@pytest.mark.parametrize("token", [5, True, [], {"a": 1}, object(), Raising()], ids=lambda token: type(token).__name__)
def test_what_is_no_text_is_no_token(token: Any) -> None:
    with pytest.raises(InvalidToken), take_over(token):
        pass


def test_an_expired_token_is_refused() -> None:
    """It says so, and what to do."""
    with bind(A):
        old = hand_over(ttl_s=-1)
    with pytest.raises(InvalidToken, match="expired"), take_over(old):
        pass


def test_an_invalid_token_may_open_an_anonymous_scope_instead() -> None:
    """For workers that must work all the same: no ids, counted, and a reason for the rows."""
    before = diagnostics.counts["invalid_handover"]
    with take_over("rubbish", on_invalid="anonymous") as identity:
        assert identity == current() == CallContext()
    assert diagnostics.counts["invalid_handover"] == before + 1
    handover.configure("a-secret-of-16-bytes", "anonymous")
    with take_over(None):
        assert not current()


@pytest.mark.parametrize("ttl_s", ["x", "60", None, True, math.nan, math.inf, 1e300, timedelta(hours=1)])
def test_a_time_that_is_no_number_of_seconds_is_refused(ttl_s: Any) -> None:
    with pytest.raises(ConfigError, match="takes seconds, such as 86400"):
        hand_over(ttl_s=ttl_s)


def test_keys_can_be_changed() -> None:
    """The newest signs; the older ones still verify until they are taken away."""
    old = token()
    handover.configure("new-secret-of-16-bytes, a-secret-of-16-bytes", "raise")
    with take_over(old):
        assert current() == A
    handover.configure("new-secret-of-16-bytes", "raise")
    with pytest.raises(InvalidToken), take_over(old):
        pass


def test_another_secret_is_another_house() -> None:
    """A token of another installation names nobody here."""
    old = token()
    handover.configure("another-secret-of-16-bytes", "raise")
    with pytest.raises(InvalidToken), take_over(old):
        pass


def test_without_a_key_it_says_what_to_set() -> None:
    """An unsigned token would be worth nothing."""
    handover.configure(None, "raise")
    with pytest.raises(ConfigError, match="LLMCTX_HANDOVER_KEY"):
        hand_over()


def test_another_process_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but the key in its environment."""
    monkeypatch.setenv("LLMCTX_HANDOVER_KEY", "a-secret-of-16-bytes")
    script = "import sys; from llmctx import take_over, current\nwith take_over(sys.argv[1]): print(current().user_id)"
    done = subprocess.run([sys.executable, "-c", script, token()], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "a", done.stderr


@pytest.mark.parametrize("place", ["hand_over", "take_over", "settings", "call log", "environment"])
def test_a_short_key_is_refused_with_the_way_to_make_one(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every door."""
    handover.configure("fifteen-bytes!!", "raise")
    with pytest.raises(ConfigError, match=r"LLMCTX_HANDOVER_KEY is too short.*token_urlsafe"):
        match place:
            case "hand_over":
                hand_over()
            case "take_over":
                with take_over("x.y"):
                    pass
            case "settings":
                load(handover_key="long-enough-for-this, short")
            case "call log":
                CallLog(sink=MemorySink(), handover_key="short")
            case _:
                handover.configure(None, "raise")
                monkeypatch.setenv("LLMCTX_HANDOVER_KEY", "short")
                hand_over()


def test_two_tokens_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one user, within a second."""
    assert token() != token()


def test_to_take_over_once_needs_a_redis() -> None:
    """Which it says, with what to do."""
    with pytest.raises(ConfigError, match="LLMCTX_REGISTRY_URL"), take_over(token(), once=True):
        pass


def test_a_worker_that_records_nothing_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes identities over, and no CallLog has been started there: its calls would have no row."""
    before, given = diagnostics.counts["no_call_log"], token()
    monkeypatch.setenv("LLMCTX_HANDOVER_KEY", "a-secret-of-16-bytes")
    handover.configure(None, "raise")
    for _ in range(2):
        with take_over(given) as identity:
            assert identity == A
    assert diagnostics.counts["no_call_log"] == before + 1
    with CallLog(sink=MemorySink()), take_over(given):
        pass
    assert diagnostics.counts["no_call_log"] == before + 1
