"""What fails in guarded code is counted and goes no further; what the application has sent passes."""

from __future__ import annotations

import signal

import pytest

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, is_from_outside

PROBLEMS = [ValueError("v"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), MemoryError()]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_a_failure_is_counted_and_answered_by_the_fallback(problem: BaseException) -> None:
    """Whatever its class, where our own code raises it; also if the fallback fails."""
    diagnostics.reset()

    def work(number: int) -> int:
        raise problem

    assert guard("guard_test", "%s failed")(work)(1) is None
    assert guard("guard_test", "%s failed", otherwise=lambda number: -number)(work)(1) == -1
    assert guard("guard_test", "%s failed", otherwise=lambda number: 1 // 0)(work)(1) is None
    assert (diagnostics.counts["guard_test"], diagnostics.unlogged) == (3, 1)


def test_what_a_signal_handler_raises_is_the_applications() -> None:
    """A time limit, say: it strikes in our code, and is no failure of it."""

    class Late(Exception):
        pass

    def limit(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGUSR1, limit)
    try:
        with pytest.raises(Late) as caught:
            guard("guard_test", "%s failed")(lambda: signal.raise_signal(signal.SIGUSR1))()
        assert is_from_outside(caught.value)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not is_from_outside(ValueError("never raised"))
