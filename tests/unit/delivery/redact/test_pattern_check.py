"""Patterns of one's own are judged by their structure."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact.pattern_check import fault_of


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|b|ab)*c",
        r"(.*)(.*)x",
        r"(\w+\s?)*:",
        r"\d*\d*\d*x",
        r"(a|a)*b",
        r"(?:abx|a[bc]x)*d",
        r"(a|a){40}b",
        "a?" * 40 + "a" * 40,
        r"(\w+)\1",
    ],
)
def test_a_pattern_that_may_take_for_ever_is_told(pattern: str) -> None:
    assert fault_of(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"AC-\d{6}",
        r"\b[A-Z]{2}\d{2,10}\b",
        r"patient \d+",
        r"(?:ID|No)[ :]*\d{5,9}",
        r"(?:[A-Z]|\d)+",
        r"\+?\d{1,3}[ -]?\d{1,4}[ -]?\d{1,4}",
        r"(.)\1{3}",
    ],
)
def test_a_pattern_that_is_linear_is_none(pattern: str) -> None:
    assert fault_of(pattern) is None
