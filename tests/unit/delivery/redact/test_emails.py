"""E-mail addresses in every spelling, and what only has an "@" in it."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact import Redactor

redact = Redactor().redact


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.com", "ann.o+tag@mail.example.co.uk", "ann@bücher.example", "ann@xn--bcher-kva.example",
        '"ann o"@example.com', "ann@[192.168.0.1]", "ann (at) example (dot) com", "ann at example dot com",
        "ann[@]example.com", "ann (@) example.com",
        "李雷@例子.中国",
    ],
)  # fmt: skip
def test_an_address_goes_and_the_words_around_it_stay(address: str) -> None:
    shown = redact(f"write to {address} today")
    assert "[redacted:email]" in shown
    assert address not in shown
    assert shown.startswith("write to ")
    assert shown.endswith(" today")


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png",
        "git@github.com:a/b.git",
        "@decorator",
        "user@host",
        "npm i react@18.2.0",
        "a @ b",
        "look at it",
        "look at the dot com boom",
        "he works at every dot on the map",
        "getty@tty1.service",
        "https://deploy@git.example.com:8443/a.git",
    ],
)
def test_no_address(text: str) -> None:
    assert redact(text) == text
