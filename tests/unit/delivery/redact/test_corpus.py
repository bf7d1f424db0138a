"""Redaction as a whole: what it finds of thousands of texts, what it leaves, and what it costs; JSON stays JSON."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest
from stdnum import luhn

from llmctx.delivery.redact import Redactor
from llmctx.delivery.redact.normal_form import NormalForm
from llmctx.delivery.redact.text_spans import Span
from tests.redaction.innocent_texts import innocent
from tests.redaction.secret_texts import secrets

redact = Redactor().redact


def test_recall_and_precision() -> None:
    """On the corpus of `make redaction`: at least .97 of the secrets go, at least .99 of what goes is one."""
    guilty, clean = list(secrets()), list(innocent())
    missed = [one for one in guilty if one.secret in (shown := redact(one.text)) or shown == one.text]
    hit = [one for one in clean if redact(one.text) != one.text]
    found = len(guilty) - len(missed)
    assert found / len(guilty) >= 0.97, missed[:20]
    assert found / (found + len(hit)) >= 0.99, hit[:20]


def test_what_was_json_stays_json() -> None:
    """Whatever goes from it, numbers too."""
    texts = [one.text for one in [*secrets(3), *innocent(4)] if one.text[:1] in '{["']
    texts += ['{"phone": 13812345678, "n": [4111111111111111, 7]}', json.dumps({"a": '"odd name"@example.com'})]
    count = 0
    for text in texts:
        try:
            json.loads(text)
        except ValueError:
            continue
        count += 1
        json.loads(redact(text))
    assert count > 500
    assert redact(texts[-2]) == '{"phone": "[redacted:phone]", "n": ["[redacted:card]", 7]}'


def test_redacting_twice_is_redacting_once() -> None:
    """Also where the secret was wrapped into escapes."""
    for one in secrets(5):
        shown = redact(one.text)
        assert redact(shown) == shown, one.text


FORMS = [
    ("a\\u0062c", "abc"),
    ("\\x22a\\x22", '"a"'),
    ("%41%2542%252543", "ABC"),
    ("%E4%BD%A0", "你"),
    ("&#65;&amp;#66;&quot;&amp;amp;lt;", 'AB"<'),
    ("\x1b[1;31mred\x1b[0m \\u001b[2mdim\\u001b[0m", "red dim"),
    ("s\u200bk\u00ad-\ufeff1\u2060", "sk-1"),
    ("abcdefgh=\r\nijk", "abcdefghijk"),
    ("one \\\n  two", "one two"),
    ("\\u0025\\u0034\\u0031", "A"),
    ("password=\nnext", "password=\nnext"),
]


@pytest.mark.parametrize(("text", "plain"), FORMS)
def test_escapes_are_undone(text: str, plain: str) -> None:
    """And every sign of the normal form leads back to what it was written as."""
    form = NormalForm(text)
    assert form.text == plain
    spans = [form.original_span(at, at + 1) for at in range(len(plain))]
    assert all(start < end for start, end in spans)
    assert spans == sorted(spans)
    assert form.original_span(0, len(plain))[1] <= len(text)


def test_other_digits_and_dashes_are_those_of_ascii() -> None:
    """Without moving anything."""
    text = "４１１１\u00a0１１１１－𝟏𝟏𝟏𝟏\u2011١١١١ é中😀"
    form = NormalForm(text)
    assert form.raw == b"4111 1111-1111-1111 \x80\x81?"
    assert form.is_original


# -- time ----------------------------------------------------------------------------------------------------------

PROSE = (
    "The quick brown fox, in 2024, saw well-established results (see Table 3, pp. 112-119). It was the best of times; "
    "nobody could say why the river ran so slowly past the old mill, or what the children had meant. "
)
UNITS = [
    "@", "a@", "a@a.", "1", "1 ", "=", "a=", "key=", "\\u0031", "\\u", "%41", "%25", "&amp;", "&#49;", "\\x41",
    "\\", "1-", "\\\\", "\x1b", "\x1b[31m", "\u200b", "a\u200b", "１", " ", "\n", "\t", "QUJD", "0123456789abcdef",
    "://", "://a:", "(", "-", ".", "+1", "+", "sk-", "eyJ", "eyJ.", "A1", "password ", "password: ", "--token ",
    "cookie: a=b; ", "%255C%2575", "authorization: ", "-----BEGIN PRIVATE KEY-----", "<password>",
    "\"name\": \"password\", ", "mysql -p ", "login ", "9 9-", "\\u0025", "你", "密码", "+49 ", "key1: ", "/a",
    "Abcdefghijklmnop ", "4111 ",
]  # fmt: skip


def _random_texts() -> dict[str, Callable[[random.Random], str]]:
    return {
        "digits": lambda rng: "".join(rng.choices("0123456789", k=40)) + " ",
        "digits and signs": lambda rng: rng.choice("0123456789") + rng.choice(["", "", " ", "-", ".", "("]),
        "base64": lambda rng: "".join(rng.choices("ABCDEFabcdef0123456789+/", k=76)) + "\n",
        "printable": lambda rng: chr(rng.randrange(32, 127)),
        "any sign": lambda rng: chr(rng.choice([rng.randrange(32, 0xD800), rng.randrange(0x10000, 0x20000)])),
        "log": lambda rng: f"2024-01-02 10:20:30 INFO [w-{rng.randrange(99)}] id={rng.randrange(10**9)} took 12 ms\n",
    }  # fmt: skip


def test_a_long_text_hides_nothing() -> None:
    """Short texts are searched as a whole, long ones where the sieves say so: both find the same."""
    around = PROSE * 25
    some = [one for one in secrets(6) if len(one.text) < 200 and not one.text.isspace()][::12]
    for one in some:
        assert redact(f"{around}\n{one.text}\n{around}") == f"{around}\n{redact(one.text)}\n{around}", one


@pytest.mark.parametrize("between", [" ", "\n", ", "])
def test_a_list_of_thousands_hides_none(between: str) -> None:
    """Cards that stand beside each other, and telephone numbers."""
    rng = random.Random(9)
    starts = [f"4{rng.randrange(10**14):014}" for _ in range(2000)]
    numbers = [start + luhn.calc_check_digit(start) for start in starts]
    cards = [f"{number[:4]}-{number[4:8]}-{number[8:12]}-{number[12:]}" for number in numbers]
    phones = [f"+49 30 {rng.randrange(10**7):07}" for _ in range(2000)]
    for some in (cards, phones):
        shown = redact(between.join(some))
        assert not [one for one in some if one in shown]


def test_gates_are_open_wherever_a_detector_finds_something() -> None:
    """Each detector, asked directly, finds nothing that it does not find behind its gates."""
    redactor = Redactor()
    detectors = [detector for group in redactor._detectors._groups for detector in group.detectors]
    for one in [*list(secrets(7))[::5], *list(innocent(8))[::5]]:
        view = NormalForm(one.text)
        found: list[Span] = []
        redactor._detectors.find(view, found)
        for detector in detectors:
            directly: list[Span] = []
            detector.search(view, directly)
            if detector.has_required_word(view):
                assert set(directly) <= set(found), (detector.search, one.text)


def test_no_text_costs_many_times_what_prose_costs() -> None:
    """A ratio, of both texts in turns: what is hostile by its signs, not by thousands of findings, stays near prose."""
    size = 30_000
    rng = random.Random(1)
    texts = {unit: unit * (size // len(unit)) for unit in UNITS}
    texts |= {name: "".join(make(rng) for _ in range(size // len(make(rng)))) for name, make in _random_texts().items()}
    prose = PROSE * (size // len(PROSE))

    def ratio(text: str) -> float:
        return (_cost(text) / len(text)) / (_cost(prose) / len(prose))

    slow = {name for name, text in texts.items() if all(ratio(text) > 20 for _ in range(6))}
    assert not slow


def _cost(text: str) -> float:
    began = time.thread_time()
    redact(text)
    return time.thread_time() - began
