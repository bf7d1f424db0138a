"""Lines of CSV: NULL is not "", and nothing in them is acted upon."""

from __future__ import annotations

import csv
import io

import pytest

from llmctx.core.csv_text import csv_line


def test_null_and_an_empty_text_stay_apart() -> None:
    assert csv_line([None, "", 0, "a"]) == ',"",0,a\n'


@pytest.mark.parametrize("text", ['say "hi"', "a,b", "two\nlines", "tab\there", "it's", " blank"])
def test_what_a_reader_of_csv_gets_is_what_was_written(text: str) -> None:
    assert next(csv.reader(io.StringIO(csv_line([text, 1])))) == [text, "1"]


@pytest.mark.parametrize(
    "text", ["=1+1", "+SUM(A1)", "-cmd", "@x", "\t=1", ' "=1', "\uff1d1", "%0A=1", "|calc", "-\u0663"]
)
def test_a_formula_is_text(text: str) -> None:
    (cell,) = next(csv.reader(io.StringIO(csv_line([text]))))
    assert cell.startswith("'")


@pytest.mark.parametrize("text", ["-1", "+1.5", "-2e10"])
def test_a_number_with_a_sign_is_a_number(text: str) -> None:
    assert csv_line([text]) == f"{text}\n"


def test_a_terminal_sees_no_escapes() -> None:
    assert "\x1b" not in csv_line(["\x1b[31mred"])
