"""What a secret looks like, and what only stands where one might."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact.secret_values import is_no_placeholder, is_password, is_random, is_secret


@pytest.mark.parametrize("value", [b"f3Kq9Zp2Lm7Xw1Vb", b"9f86d081884c7d659a2feaa0c55ad015"])
def test_what_a_machine_made(value: bytes) -> None:
    assert is_random(value)
    assert is_secret(value, True, b"")


@pytest.mark.parametrize(
    "value",
    [b"settings.api_key", b"API_KEY", b"apiKeyProvider", b"2026-11-29T17:26:01Z", b"your-key-here", b"${SECRET}"],
)
def test_names_times_and_placeholders_are_no_secrets(value: bytes) -> None:
    assert not is_random(value)
    assert not is_secret(value, True, b"")


@pytest.mark.parametrize(
    "value",
    [
        b"hunter2", b"Tr0ub4dor&3", b"s3cret!",
        b"Test1234", b"Password1!", b"admin123", b"Correct7657!",
        b"maple-otter-cobalt-ridge", b"ember-pluto-ridge-otter-maple",
    ],
)  # fmt: skip
def test_passwords(value: bytes) -> None:
    assert is_password(value, False, b"")


@pytest.mark.parametrize(
    "value",
    [
        b"required", b"changeme", b"<password>", b"********", b"hashed", b"required12", b"wrong!", b"invalid.",
        b"see-the-team-wiki", b"app-secrets-prod-store", b"blue-green-deployments",
    ],
)  # fmt: skip
def test_words_about_passwords_are_none(value: bytes) -> None:
    assert not is_password(value, False, b"")


def test_a_path_and_a_reference_are_placeholders() -> None:
    assert not is_no_placeholder(b"op://vault/item/field")
    assert not is_no_placeholder(b"./secrets/key")
