"""The form in which secrets are searched, and the way back."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact.normal_form import NormalForm


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sk\\u002dproj", "sk-proj"),
        ("ann%40example.com", "ann@example.com"),
        ("ann&#64;example.com", "ann@example.com"),
        ("4111\u200b1111", "41111111"),
        ("pan 41=\n 11", "pan 41 11"),
        ("\x1b[31msk-proj\x1b[0m", "sk-proj"),
        ("sk\\\\u002dproj", "sk-proj"),
        ("ann%2540example.com", "ann@example.com"),
    ],
)
def test_what_is_written_in_escapes_is_searched_as_what_it_stands_for(text: str, expected: str) -> None:
    view = NormalForm(text)
    assert view.text == expected
    assert len(view.raw) == len(view.low) == len(expected)


def test_digits_of_full_width_are_digits_in_what_is_searched() -> None:
    assert NormalForm("\uff14\uff11").raw == b"41"


def test_a_text_with_nothing_to_undo_stays_as_it_is() -> None:
    text = "plain words, 1 + 1 = 2"
    assert NormalForm(text).text == text
