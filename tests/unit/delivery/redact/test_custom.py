"""The team's own patterns and functions, and what they may not do."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmctx.core.errors import ConfigError
from llmctx.delivery.redact import RedactionFailed, Redactor


@pytest.mark.parametrize("extra", [True, False])
def test_own_patterns_are_replaced_by_their_name(extra: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere in a long text, across parts, and only once; with google-re2 and without."""
    if not extra:
        monkeypatch.setitem(sys.modules, "re2", None)
    own = Redactor(patterns={"employee": r"EMP-\d{6}"})
    text = "x" * 4090 + " EMP-123456 " + "y" * 9000 + " EMP-654321"
    shown = own.redact(text)
    assert shown.count("[redacted:employee]") == 2
    assert own.redact(shown) == shown
    assert own.redact_parts(["EMP-12", "3456"]) == ["[redacted:employee]", ""]
    greedy = Redactor(patterns={"all": r"\w+"})
    assert greedy.redact("bob@example.com hi") == greedy.redact(greedy.redact("bob@example.com hi"))


ENDLESS = [r"(a+)+$", r"(?:x*y*)*z", r"([a-zA-Z]+)*@", r"(\w+\s?)*$", r".*.*.*=.*", r"(a|aa)+$"]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_may_take_for_ever_are_refused(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their looks, or because they prove slow; the error names the extra with which they are not."""
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ConfigError, match=r"mine.*llmctx\[patterns\]"):
        Redactor(patterns={"mine": pattern})


@pytest.mark.parametrize("pattern", ENDLESS)
def test_with_the_extra_no_pattern_takes_for_ever(pattern: str) -> None:
    """google-re2 is linear by design."""
    Redactor(patterns={"mine": pattern}).redact("a" * 100_000)


def test_what_cannot_be_used_is_refused_at_once() -> None:
    """And named."""
    with pytest.raises(ConfigError, match="'fone'"):
        Redactor(["fone"])
    with pytest.raises(ConfigError, match="'broken'"):
        Redactor(patterns={"broken": "("})
    with pytest.raises(ConfigError, match="'Not A Name'"):
        Redactor(patterns={"Not A Name": "x"})
    with pytest.raises(ConfigError, match="cannot be called"):
        Redactor(functions=["x"])  # type: ignore[list-item]


def test_own_functions_see_every_text() -> None:
    """After the kinds and patterns; also across parts and in structures."""
    seen: list[str] = []

    def own(text: str) -> str:
        seen.append(text)
        return text.replace("Project X", "[gone]")

    mine = Redactor(functions=[own])
    assert mine.redact("bob@example.com on Project X") == "[redacted:email] on [gone]"
    assert seen == ["[redacted:email] on Project X"]
    assert mine.redact_parts(["Pro", "ject X!"]) == ["[gone]!", ""]
    assert mine.redact_parts(["Project X", " and more"]) == ["[gone]", " and more"]
    assert mine.redact_tree({"a": ["Project X"]}) == {"a": ["[gone]"]}


@pytest.mark.parametrize("own", [lambda text: 1 / 0, lambda text: None, lambda text: exec("raise SystemExit")])
def test_a_function_that_fails_withholds_that_text(own: Callable[[str], Any]) -> None:
    """It raises, or returns no text."""
    with pytest.raises(RedactionFailed):
        Redactor(functions=[own]).redact("text")


def test_a_function_that_hangs_is_not_called_again() -> None:
    """It costs one deadline; then its texts are withheld at once."""
    calls = []
    over = threading.Event()

    def own(text: str) -> str:
        calls.append(text)
        over.wait(60)
        return text

    mine = Redactor(functions=[own], deadline_s=0.05)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(RedactionFailed):
            mine.redact("text")
    assert time.monotonic() - began < 30
    assert len(calls) == 1
    over.set()
