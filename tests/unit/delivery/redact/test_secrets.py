"""What must not be kept is found and replaced by its kind, and ordinary texts are left alone."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctx.delivery.redact import Redactor
from tests.kit.redaction import FOUND, SECRETS, assert_replaced, rng

redactor = Redactor()


@pytest.mark.parametrize(
    ("kind", "text", "secret"), SECRETS, ids=[f"{kind}:{text[:24]!r}" for kind, text, _ in SECRETS]
)
def test_what_must_not_be_kept_is_replaced_by_its_kind(kind: str, text: str, secret: str) -> None:
    """In whatever surroundings it stands."""
    assert_replaced(kind, text, secret)


ORDINARY = [
    "The quick brown fox, in 2024, saw well-established results (see Table 3, pp. 112-119).",
    "Meet at 10:30 on 2024-01-02, room 3.14; 1,234,567 people; 99.95 %.",
    "今天是2024年1月2日，订单号 20240102123456789，共 3 件，合计 1234.56 元。",
    "max_tokens=4096 total_tokens: 123456789 prompt_tokens: 12345678",
    "2024-01-02T10:20:30.123456+00:00 1704189630 1704189630123 1704189630123456 1704189630123456789",
    "0.13812345678 13812345678.25 3.14159265358979 -1.4111111111111111e10",
    "order ORD13812345678X, invoice 100000000000000000012, part 4111-1111-1111-1112",
    "150 2000 3500 1200 138 1234 5678 9012",
    str(uuid.UUID(int=rng.getrandbits(128))),
    " ".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(40)),
    " ".join(hashlib.md5(bytes([n])).hexdigest() for n in range(40)),
    " ".join(str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(200)),
    "data:image/png;base64," + base64.b64encode(rng.randbytes(6000)).decode(),
    "@app.get('/x')\ndef f(a: int) -> str:\n    return self.weights@other.T",
    "git clone git@github.com:langchain-ai/langgraph.git; npm i @scope/name@1.2.3 icon@2x.png",
    "api_key = os.environ['OPENAI_API_KEY']; client = OpenAI(api_key=settings.openai_api_key)",
    'api_key="OPENAI_API_KEY" password: str = Field(...) token = request.headers.get("x")',
    "secret: SecretStr | None = None; password=getpass.getpass(); token: Token",
    "sk-cube-grid-animation sk-folding-cube risk-assessment-methodology task-oriented-dialogue",
    "a bearer token authentication scheme; Authorization: Bearer <token>; password is required",
    "postgresql://localhost:5432/app https://example.com:8443/path?x=1#frag https://user@host/",
    "https://en.wikipedia.org/wiki/Large_language_model_(2023)?action=edit&section=12",
    "primary_key: user_1234567890 cache_key=session:1234567 idempotency-key partition_key: 2024-01-01",
    "call_abc123DEF456ghi789JKL012 chatcmpl-9abcDEF123ghiJKL456mno789 toolu_01A09q90qw90lq917835lq9 run-1",
    "gpt-4o-mini-2024-07-18 claude-sonnet-4-5-20250929 text-embedding-3-large ft:gpt-3.5:org::7p4lURel",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 AA0000000000000000 DE00370400440532013000",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "https://h/a%20b%2Fc?x=%E4%BD%A0%E5%A5%BD%3D1%26y=2%40 and 40%20more, LIKE '%40%', '%-10s %3d'",
]


@pytest.mark.parametrize("text", ORDINARY, ids=[repr(text[:30]) for text in ORDINARY])
def test_ordinary_texts_are_left_alone(text: str) -> None:
    """Prose, code, ids, hashes, timestamps, images, placeholders."""
    assert redactor.redact(text) == text
    assert redactor.redact(json.dumps(text)) == json.dumps(text)
    assert redactor.redact_tree([{"role": "user", "content": text}]) == [{"role": "user", "content": text}]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(codec=None, exclude_categories=()), max_size=12),
            st.sampled_from(
                [text for _, text, _ in FOUND] + [" ", "\\n", "@", "sk-", "=", '"', "86", "-", "[redacted:email]"]
            ),
        ),
        max_size=8,
    )
)
def test_any_text_can_be_redacted_and_once_is_enough(pieces: list[str]) -> None:
    """NUL, lone surrogates and findings side by side."""
    shown = redactor.redact("".join(pieces))
    assert redactor.redact(shown) == shown
    parts = redactor.redact_parts(pieces)
    assert len(parts) == len(pieces)
    assert redactor.redact_parts(parts) == parts
    redactor.redact_cut("".join(pieces), "".join(pieces))


HOSTILE = [
    "a", "A", "1", "4", "@", "a@", "a@a.", "a@a.aa ", "sk-", "sk-a", "eyJ.", "eyJ", "eyJaaaaa.", "-----BEGIN",
    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nAAAA\n", "key",
    "api_key=", "token:", "password is ", "secret_", "://", "://a:", "://a:b@", "1 ", "4111 ", "4111111111111112 ",
    "13812345678 ", "AA00", "DE89 ", "DE89370400440532013001 ", "\\n", "\\u4e2d", "bearer ", "Abcdefghijklmnop ",
    "你好", "密码", "[redacted:email]", "350503670401001 ", "x@" + "a" * 63 + ".", "authorization: ", " ", "\n", "-",
    "AKIA", "%40", "%3D", "%2540", "a%40a.", "api_key%3D",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_linear_whatever_the_text(unit: str) -> None:
    """Twice the text takes twice the time, and a megabyte passes."""

    def best(length: int, rounds: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        taken = []
        for _ in range(rounds):
            began = time.thread_time()
            redactor.redact(text)
            taken.append(time.thread_time() - began)
        return min(taken)

    for rounds in (2, 5, 10):  # once more, if the machine was busy
        once = best(50_000, rounds)
        if best(100_000, rounds) < 3 * once:
            break
    else:
        pytest.fail("more than linear")
    if once < 0.005:
        assert best(1_000_000, 3) < 30 * once + 0.1  # the best of three: a busy machine shows in one
