"""Structures: the name of a value tells what it is, wherever that name stands."""

from __future__ import annotations

from typing import Any

import pytest

from llmctx.delivery.redact import Redactor

redactor = Redactor()

NAMED: list[tuple[Any, str]] = [
    ({"ssn": "123456789"}, "resident_id"),
    ({"ssn": 123456789}, "resident_id"),
    ({"passport_number": "E12345678"}, "resident_id"),
    ({"taxId": "12-3456789"}, "resident_id"),
    ({"account_number": "6611369635"}, "resident_id"),
    ({"phone": "6468979338"}, "phone"),
    ({"mobileNumber": 6468979338}, "phone"),
    ({"passphrase": "correct-horse-9x"}, "password"),
    ({"密码": "Berlin2024!"}, "password"),
    ({"contraseña": "Berlin2024!"}, "password"),
    ({"pin": "1234"}, "password"),
    ({"auth": {"user": "a", "pass": "Summer99x"}}, "password"),
    ([{"name": "password", "value": "Xk9!zz"}], "password"),
    ({"env": [{"key": "DB_PASS", "value": "hunter2"}]}, "password"),
    ({"password": ["hunter2x!"]}, "password"),
    ({"password": {"value": "hunter2x!"}}, "password"),
    ({"cmd": ["mysql", "-pXk9!zz77", "shop"]}, "password"),
    ({"cmd": ["curl", "-u", "bob:Xk9!zz77", "http://h"]}, "password"),
    ({"secrets": {"stripe": "RcNSeRYaekXRRuwty6HjujTeJz"}}, "api_key"),
    ({"tokens": ["RcNSeRYaekXRRuwty6HjujTeJz12"]}, "token"),
]


@pytest.mark.parametrize(("value", "kind"), NAMED)
def test_the_name_of_a_value_tells_what_it_is(value: Any, kind: str) -> None:
    """In dicts, lists and pairs of a name and a value."""
    shown = redactor.redact_tree(value)
    assert f"[redacted:{kind}]" in str(shown)
    assert redactor.redact_tree(shown) == shown


def test_values_with_other_names_stay() -> None:
    """Also where the name looks like one that tells."""
    names = "token_count=12800 key=user:1234 account_id=123456789012 phone_required=true pinned=1234 tax=19.5"
    names += " order_number=1234567890 contact=sales author=Bob2026x spin=1234 license=Apache-2.0 keyboard=us"
    value: dict[str, Any] = dict(name.split("=", 1) for name in names.split())
    value |= {"max_tokens": 4096, "passed": "12 of 13", "secrets": {"enabled": True, "count": 3}}
    assert redactor.redact_tree(value) is value
