"""Secrets that are told by the name before them, however far from it they stand."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact import Redactor

redact = Redactor().redact


@pytest.mark.parametrize(
    "text",
    [
        "password={}", '"api_key": "{}"', "--token {}", "client_secret: {}", "password:\n{}", "<password>{}</password>",
        'AWS_SECRET_ACCESS_KEY="{}"', "db_password = '{}'",
    ],
)  # fmt: skip
def test_the_value_goes_and_the_name_stays(text: str) -> None:
    shown = redact(text.format("Zk9pQ2mL7xW1vB4t"))
    assert "Zk9pQ2mL7xW1vB4t" not in shown
    assert any(name in shown.lower() for name in ("password", "key", "token", "secret"))


@pytest.mark.parametrize(
    "text",
    ["password=os.environ['PW']", "token = get_token()", "the password is required", "max_tokens: 4096", "key: value"],
)
def test_code_and_prose_about_secrets_stay(text: str) -> None:
    assert redact(text) == text
