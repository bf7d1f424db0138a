"""Keys are recognized by how their vendors begin or build them."""

from __future__ import annotations

import random
import re
import string

import pytest

from llmctx.delivery.redact.text_spans import Span
from llmctx.delivery.redact.vendor_key_table import VENDOR_KEYS
from llmctx.delivery.redact.vendor_keys import VendorKeys

vendor_keys = VendorKeys(frozenset({"api_key", "token", "private_key"}))
body = "".join(random.Random(5).choices(string.ascii_letters + string.digits, k=60))


def found(text: str) -> list[str]:
    spans: list[Span] = []
    vendor_keys.find(text.encode(), spans)
    return [text[start:end] for start, end, _ in spans]


@pytest.mark.parametrize(
    "key",
    [f"sk-proj-{body[:48]}", f"ghp_{body[:36]}", f"AKIA{body[:16].upper()}", f"AIza{body[:35]}", f"xoxb-{body[:24]}",
     f"hf_{body[:34]}", f"12345678:AA{body[:33]}", f"rootly_{'0a1b2c3d' * 8}", f"xprv9s21Z{'7Ab'* 33}"],
    ids=lambda key: key[:6],
)  # fmt: skip
def test_a_key_is_found_whole_wherever_it_stands(key: str) -> None:
    assert found(f"use {key} here") == [key]
    assert found(f"OPENAI={key}\n") == [key]


def test_every_head_begins_a_word() -> None:
    """Keys are looked up by the words of a text: one with another sign in its head would never be found."""
    assert [head for head in VENDOR_KEYS if not re.fullmatch("[A-Za-z0-9_.-]+", head)] == []


@pytest.mark.parametrize(
    "text",
    [
        "sk-" + "x" * 40,
        "ghp_" + "x" * 36,
        "0123456789abcdef" * 4,
        "6f1c7d9e-2b44-4a55-9f0e-0c9d5e3f2a11",
        "nginx-7d4f8b9c6d-x2x9q",
        "sk-learn-tutorial",
    ],
)
def test_hashes_uuids_and_names_are_none(text: str) -> None:
    assert found(f"see {text} there") == []
