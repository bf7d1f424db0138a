"""Texts that were taken apart or cut are searched as one."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from llmctx.delivery.redact import EDGE, Redactor
from tests.kit.redaction import FOUND, KEYS, PEM

redactor = Redactor()


SPLIT = [(kind, text, secret) for kind, text, secret in FOUND if len(secret) > 4 and kind != "private_key"]


@pytest.mark.parametrize(("kind", "text", "secret"), SPLIT, ids=[f"{kind}:{text[:24]!r}" for kind, text, _ in SPLIT])
def test_a_secret_in_several_parts_is_found(kind: str, text: str, secret: str) -> None:
    """Split anywhere, or into single characters; its placeholder stands where it begins."""
    whole = f"see {text} here"
    for at in range(1, len(whole)):
        parts = redactor.redact_parts([whole[:at], whole[at:]])
        assert f"[redacted:{kind}]" in "".join(parts), at
        assert secret not in "".join(parts)
    letters = redactor.redact_parts(list(whole))
    assert len(letters) == len(whole)
    assert "".join(letters) == redactor.redact(whole)


def test_a_part_is_searched_by_itself_too() -> None:
    """A key that begins a part is not hidden by the letter at the end of the part before."""
    assert redactor.redact_parts(["the key", KEYS["openai"], "and more"]) == [
        "the key",
        "[redacted:api_key]",
        "and more",
    ]


@pytest.mark.parametrize(("kind", "text", "secret"), SPLIT, ids=[f"{kind}:{text[:24]!r}" for kind, text, _ in SPLIT])
def test_a_cut_leaves_no_half_of_a_secret(kind: str, text: str, secret: str) -> None:
    """Wherever the cut goes through, less than four characters of it are left on either side."""
    whole = f"before it {text} behind it"
    begin = whole.index(secret)
    for at in range(begin + 1, begin + len(secret)):
        head, tail = redactor.redact_cut(whole[:at], whole[at:])
        left = re.sub(r"\[redacted:\w+\]", "", f"{head}|{tail}")
        assert not any(secret[i : i + 4] in left for i in range(len(secret) - 3)), (head, tail)
        assert head.startswith("before")
        assert tail.endswith("it")


def test_a_cut_takes_no_more_than_a_word() -> None:
    """Text without words loses `EDGE` characters at most."""
    assert redactor.redact_cut("one two thr", "ee four") == ("one two ", " four")
    head, tail = redactor.redact_cut("x" * 5000, "y" * 5000)
    assert len(head) == len(tail) == 5000 - EDGE
    assert redactor.redact_cut("你好", "世界") == ("你好", "世界")


def test_the_end_of_a_private_key_is_recognised() -> None:
    """Its beginning was cut off."""
    head, tail = redactor.redact_cut("ok", PEM[900:] + "\nthanks")
    assert "thanks" in tail
    assert not re.search("[A-Za-z0-9]{20}", tail)
    head, tail = redactor.redact_cut(PEM[:900], "ok")
    assert head == "[redacted:private_key]"


class Cut(NamedTuple):
    head: str
    tail: str
    length: int


def test_structures_are_redacted_as_a_whole() -> None:
    """Messages with blocks, tool arguments whose keys tell, numbers that are one, keys, and texts that were cut."""
    key = KEYS["openai"]
    shown = redactor.redact_tree(
        [
            {"role": "user", "content": [{"type": "text", "text": key[:9]}, {"type": "text", "text": key[9:] + " ok"}]},
            {
                "role": "assistant",
                "tool_calls": [{"name": "login", "args": {"password": "hunter", "phone": 13812345678}}],
            },
            {"role": "tool", "content": Cut(f"{key} and {key[:10]}", f"{key[10:]} end", 999), "bob@example.com": 1.5},
            ["plain", None, True, 7],
        ]
    )
    assert shown == [
        {"role": "user", "content": [{"type": "text", "text": "[redacted:api_key]"}, {"type": "text", "text": " ok"}]},
        {
            "role": "assistant",
            "tool_calls": [{"name": "login", "args": {"password": "[redacted:password]", "phone": "[redacted:phone]"}}],
        },
        {"role": "tool", "content": Cut("[redacted:api_key] and ", " end", 999), "[redacted:email]": 1.5},
        ["plain", None, True, 7],
    ]


def test_a_structure_without_secrets_is_returned_as_it_is() -> None:
    """The same object: nothing is copied."""
    value = [{"role": "user", "content": "hello", "args": {"password": {"type": "string"}, "n": 12}}]
    assert redactor.redact_tree(value) is value
    cut = {"content": [Cut("some wor", "ds more", 99), {"text": "a"}, {"text": "b"}], "role": "user"}
    assert redactor.redact_tree(cut) == {**cut, "content": [Cut("some ", " more", 99), {"text": "a"}, {"text": "b"}]}
