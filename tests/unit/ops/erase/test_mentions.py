"""Whole ids in texts of others, inside of what JSON says."""

from __future__ import annotations

import json

import pytest

from llmctx.ops.erase.mentions import Mentions


@pytest.mark.parametrize(
    ("one", "text", "left"),
    [
        ("1", "user 1 had 21, 1.5 and 1-2 of v1; item 1.", "user [erased] had 21, 1.5 and 1-2 of v1; item [erased]."),
        ("ann", "ann, joann, ann-2, ann@x.example, ann.b", "[erased], joann, ann-2, ann@x.example, ann.b"),
        ("ann", "ann's, user:ann", "[erased]'s, user:[erased]"),
        ("ann", "org:ann (ann) <ann> ann/x id=ann", "org:ann ([erased]) <[erased]> ann/x id=[erased]"),
        ("s-1", "s-10 s-1 s-1-2 xs-1 /s-1/", "s-10 [erased] s-1-2 xs-1 /[erased]/"),
        ("a.b@c.example", "mail a.b@c.example. xa.b@c.example", "mail [erased]. xa.b@c.example"),
        ("ada", "用户ada的订单 ada", "用户[erased]的订单 [erased]"),
        ("é1", "é1 é12 xé1", "[erased] é12 xé1"),
    ],
)  # fmt: skip
def test_only_whole_ids_go(one: str, text: str, left: str) -> None:
    """Never a piece of another's."""
    assert Mentions([one]).strip_ids(text) == left
    assert json.loads(Mentions([one]).strip_ids(json.dumps([text]))) == [left]


@pytest.mark.parametrize(
    ("one", "text", "left"),
    [
        ("42", '{"user_id":42,"tokens":42,"n":[42]}', '{"user_id":"[erased]","tokens":42,"n":[42]}'),
        ("ada", '{"args": "{\\"user_id\\": \\"ada\\"}"}', '{"args": "{\\"user_id\\": \\"[erased]\\"}"}'),
        ("42", '{"args":"{\\"user_id\\":42}"}', '{"args":"{\\"user_id\\":\\"[erased]\\"}"}'),
        ('a"b', '["a\\"b said", "xa\\"b"]', '["[erased] said", "xa\\"b"]'),
        ("Zoë", '["Zo\\u00eb", "Zoë"]', '["[erased]", "[erased]"]'),
        ("ada", '{"ada": {"ada2": 1}}', '{"[erased]": {"ada2": 1}}'),
        ("ada", '{"cut": "ada', '{"cut": "[erased]'),
        ("ada", '["\\ud800 ada"]', '["\\ud800 [erased]"]'),
        ("n", '["line\\nbreak", "n"]', '["line\\nbreak", "[erased]"]'),
    ],
)
def test_json_stays_json(one: str, text: str, left: str) -> None:
    """Also JSON inside of JSON; a text without the id stays to the letter."""
    assert Mentions([one]).strip_ids(text) == left
    assert Mentions(["nobody"]).strip_ids(text) is text
