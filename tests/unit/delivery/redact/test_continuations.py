"""Secrets that are written in several pieces."""

from __future__ import annotations

import time

import pytest

from llmctx.delivery.redact import Redactor

redact = Redactor().redact
FIRST, SECOND = "sk-proj-m8Qx2vT9kL4pZ7wR1c5Y", "Zk9pQ2mL7xW1vB4tR5yU8i"


@pytest.mark.parametrize(
    "text",
    [
        'key = "{}" + "{}"', 'key = "{}" + \\\n    "{}"', 'key = ("{}"\n       "{}")', "const key = '{}' +\n  '{}';",
        "$key = '{}' . '{}';", 'Key = "{}" & "{}"', "API_KEY={}\n{}", "it is\r\n{}\r\n{}\r\nthanks", '"{}\n{}"',
    ],
)  # fmt: skip
def test_every_piece_goes(text: str) -> None:
    shown = redact(text.format(FIRST, SECOND))
    assert FIRST not in shown
    assert SECOND not in shown


@pytest.mark.parametrize(
    "behind", ["\nthanks", "\nMODEL=gpt-4o", '", "gpt-4o-2024-08-06"', '" + suffix', "\n\nAb1Cd2Ef3"]
)
def test_what_is_no_piece_stays(behind: str) -> None:
    assert redact(f'key: "{FIRST}{behind}') == f'key: "[redacted:api_key]{behind}'


def test_pieces_without_end_take_no_time_without_end() -> None:
    def cost(count: int) -> float:
        began = time.thread_time()
        redact(f'key = "{FIRST}"' + f' + "{SECOND}"' * count)
        return time.thread_time() - began

    cost(10)
    assert min(cost(4000) for _ in range(3)) < 10 * min(cost(1000) for _ in range(3))
