"""Personal data is told from numbers that only look like it."""

from __future__ import annotations

import random
import uuid

import pytest

from llmctx.delivery.redact import Redactor
from tests.kit.redaction import PERSONAL, assert_replaced, rng

redactor = Redactor()


@pytest.mark.parametrize(
    ("kind", "text", "secret"), PERSONAL, ids=[f"{kind}:{text[:24]!r}" for kind, text, _ in PERSONAL]
)
def test_what_must_not_be_kept_is_replaced_by_its_kind(kind: str, text: str, secret: str) -> None:
    """In whatever surroundings it stands."""
    assert_replaced(kind, text, secret)


@pytest.mark.parametrize(
    ("head", "number"),
    [("National insurance numbers", "AB 12 34 56 C"), ("IBANs of the suppliers", "de89370400440532013000")],
)
def test_a_long_list_has_its_head_far_above(head: str, number: str) -> None:
    """What the numbers are is said once, at the beginning of a text of many pages."""
    page = "The weather is fine today, and nothing else is new.\n" * 300
    shown = redactor.redact(f"{head}:\n{page}{number}\n{page}{number}\n")
    assert shown.count("[redacted:") == 2
    assert number not in shown


def test_random_numbers_are_hardly_ever_taken_for_cards() -> None:
    """Order numbers of sixteen digits: a tenth has a right check digit, and few of those a card's beginning."""
    numbers = [f"8{rng.randrange(10**15):015}" for _ in range(300)] + [
        f"1{rng.randrange(10**15):015}" for _ in range(300)
    ]
    text = "\n".join(numbers)
    assert redactor.redact(text) == text


def test_no_uuid_and_no_hash_holds_a_number_of_a_person() -> None:
    """Whatever digits stand between its hyphens: "129a4031-3629-4409-…" is no telephone number of Japan."""
    redact, numbers = Redactor(), random.Random(7)
    for _ in range(4000):
        one = uuid.UUID(int=numbers.getrandbits(128), version=4)
        dialled = f"{str(one)[:24]}00{numbers.randrange(10**10):010}"
        for text in (f"[{one}] a", dialled, f"id={one}", f"urn:uuid:{one}.", str(one).upper(), f"sha {one.hex}"):
            assert redact(text) == text
