"""Telephone numbers as people write them in their countries, and numbers that are none."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact import Redactor
from llmctx.delivery.redact.phones import is_valid

redact = Redactor().redact


@pytest.mark.parametrize(
    "text",
    [
        "+44 20 7946 0958", "+49 (0)30 901820", "+86 138 0013 8000", "+1 415-555-2671", "(415) 555-2671",
        "phone: 4155552671", "手机 13800138000", "Tel. 030 901820", "04 91 23 45 67", "call me on 07700 900123",
        "Ring mig på 070-018 70 79", "Mit telefonnummer er 31 22 54 69", "Zadzwoń: 521 049 976", "Κινητό: 691 564 2572",
        "mi cel es 55 9111 1191", "HP: 0812-6168-5039", "SĐT: 0906330085",
    ],
)  # fmt: skip
def test_a_number_goes(text: str) -> None:
    assert "[redacted:" in redact(f"Reached via {text}.")


@pytest.mark.parametrize(
    "text",
    [
        "order 4155552671",
        "2026-11-29 17:26:01",
        "3.14159265358979",
        "192.168.10.25",
        "1764437161",
        "v1.26.0-4155",
        "HP: 1500000",
        "hp 120/150",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert redact(text) == text


def test_each_country_has_its_own_numbers() -> None:
    assert is_valid("02079460958", "GB")
    assert not is_valid("00000000000", "GB")
