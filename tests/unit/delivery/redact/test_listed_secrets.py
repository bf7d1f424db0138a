"""Secrets whose name stands once, above many: in lists, and in the columns of tables."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact import Redactor

redact = Redactor().redact
FIRST, SECOND = "m8Qx2vT9kL4pZ7wR1c", "Zk9pQ2mL7xW1vB4tR5yU8i"


@pytest.mark.parametrize(
    "text",
    [
        'api_keys = ["{}", "{}"]',
        "'access-tokens': ['{}',\n  '{}',\n]",
        'keys := []string{{"a"}}\napiKeys := []string{{"{}", "{}"}}',
        "api_keys:\n  - {}\n  - {}\n",
        "**Tokens**:\n1. `{}`\n2. `{}`",
        'secrets:\r\n- "{}"\r\n- "{}"\r\n',
        "API_KEYS={},{}",
        'TOKENS: "{}, {}"',
        "| name | api key |\n|---|---|\n| a | {} |\n| b | `{}` |",
        " id | token \n----+---\n 1 | {}\n 2 | {}\n(2 rows)",
        "+---+------+\n| u | pass |\n+---+------+\n| a | {} |\n| b | {} |\n+---+------+",
        "| 用户 | 登录密码 |\r\n|:-:|--:|\r\n| a | {} |\r\n| b | **{}** |",
    ],
)
def test_each_member_goes(text: str) -> None:
    shown = redact(text.format(FIRST, SECOND))
    assert FIRST not in shown
    assert SECOND not in shown


def test_a_column_is_read_to_its_end_however_long_the_text() -> None:
    rows = "".join(f"| user{number} | Winter{number}! |\n" for number in range(2000))
    shown = redact(f"{'Prose about a table. ' * 400}\n\n| name | password |\n|---|---|\n{rows}\nWinter77! is no cell")
    assert shown.count("[redacted:password]") == 2000
    assert "Winter77! is no cell" in shown


@pytest.mark.parametrize(
    "text",
    [
        "| Key | Value |\n|---|---|\n| theme1 | dark22 |",
        "| Setting | Password |\n|---|---|\n| hash | argon2-id |\n| length | 12 |\n| rotated | 2026-01-12 |",
        "| id | primary key |\n|---|---|\n| 12345678 | aB3dE5fG7hI9jK1lM3nO |",
        'tokens = ["the", "cat2", "[CLS]"]',
        "tokens:\n- see step-2\n- abc123\n",
        "password_rules: ['min_8', 'max_64']",
    ],
)
def test_other_lists_and_tables_stay(text: str) -> None:
    assert redact(text) == text
