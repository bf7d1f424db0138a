"""Texts with secrets and personal data in them, and where they are."""

from __future__ import annotations

import json
import random
import uuid

from llmctx.delivery.redact import KINDS, Redactor
from llmctx.delivery.redact.pii import Personal

rng = random.Random(7)


ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def made_up(length: int, signs: str = ALNUM) -> str:
    """What looks like the random part of a key."""
    return "".join(rng.choices(signs, k=length - 1)) + "7"


KEYS = {
    "openai": "sk-" + made_up(48),
    "openai, lower case": "sk-abcdefghijklmnopqrstuvwx",
    "openai, project": "sk-proj-" + made_up(60, ALNUM + "-_"),
    "openai, session": "sess-" + made_up(40),
    "anthropic": "sk-ant-api03-" + made_up(90, ALNUM + "-_"),
    "openrouter": "sk-or-v1-" + made_up(64, "0123456789abcdef"),
    "google": "AIza" + made_up(35, ALNUM + "-_"),
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "aws, temporary": "ASIAIOSFODNN7EXAMPLE",
    "groq": "gsk_" + made_up(52),
    "hugging face": "hf_" + made_up(34),
    "replicate": "r8_" + made_up(37),
    "xai": "xai-" + made_up(80),
    "perplexity": "pplx-" + made_up(48),
    "fireworks": "fw_" + made_up(24),
    "langsmith": "lsv2_pt_" + made_up(32, "0123456789abcdef") + "_" + made_up(10, "0123456789abcdef"),
    "langfuse": f"sk-lf-{uuid.UUID(int=rng.getrandbits(128))}",
    "langfuse, public": f"pk-lf-{uuid.UUID(int=rng.getrandbits(128))}",
    "github": "ghp_" + made_up(36),
    "github, oauth": "gho_" + made_up(36),
    "github, fine-grained": "github_pat_" + made_up(22) + "_" + made_up(59),
    "gitlab": "glpat-" + made_up(20, ALNUM + "-_"),
    "slack": "xoxb-123456789012-123456789012-" + made_up(24),
    "stripe": "sk_live_" + made_up(24),
    "stripe, restricted": "rk_live_" + made_up(24),
    "sendgrid": f"SG.{made_up(22)}.{made_up(43)}",
    "twilio": "SK" + made_up(32, "0123456789abcdef"),
    "npm": "npm_" + made_up(36),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + made_up(60),
    "alibaba": "LTAI" + made_up(20),
}


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\n"
    + "\n".join(made_up(64) for _ in range(24))
    + "\nabc=\n-----END RSA PRIVATE KEY-----"
)


FOUND = [
    *(("api_key", key, key) for key in KEYS.values()),
    ("api_key", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"),
    ("api_key", '"api-key": "0123456789abcdef0123456789abcdef"', "0123456789abcdef0123456789abcdef"),
    ("api_key", "https://host/v1?api_key=abcd1234efgh5678&x=1", "abcd1234efgh5678"),
    ("api_key", "GET https://host/v1/models?key=0a1b2c3d4e5f6g7h failed", "0a1b2c3d4e5f6g7h"),
    ("api_key", "x-api-key: 0a1b2c3d4e5f6g7h", "0a1b2c3d4e5f6g7h"),
    ("api_key", "MISTRAL_API_KEY=a1B2c3D4e5F6g7H8a1B2c3D4e5F6g7H8", "a1B2c3D4e5F6g7H8a1B2c3D4e5F6g7H8"),
    ("api_key", 'client_secret: "Zx81-abc-def-999"', "Zx81-abc-def-999"),
    ("api_key", "AccountKey=abcDEF123456789+/abcDEF==;EndpointSuffix=x", "abcDEF123456789+/abcDEF=="),
    ("api_key", 'openai.OpenAI(api_key="k3y-not-of-a-known-maker")', "k3y-not-of-a-known-maker"),
    ("api_key", '{\\"api_key\\": \\"abcd1234efgh5678\\"}', "abcd1234efgh5678"),
    ("token", JWT, JWT),
    ("token", f"cookie={JWT};", JWT),
    ("token", "Authorization: Bearer abcdef1234567890", "abcdef1234567890"),
    ("token", '{"Authorization": "Basic dXNlcjpwYXNzd29yZDE="}', "dXNlcjpwYXNzd29yZDE="),
    ("token", "curl -H 'authorization: bearer opaque-token-12345'", "opaque-token-12345"),
    ("token", "?access_token=abcdef1234567890&next=/", "abcdef1234567890"),
    ("password", "postgresql+asyncpg://app:s3cr3t!@db.example.com:5432/app", "s3cr3t!"),
    ("password", "redis://:hunter2@cache:6379/0", "hunter2"),
    ("password", "password=hunter22", "hunter22"),
    ("password", '{"password": "correcthorse"}', "correcthorse"),
    ("password", "我的密码是abc12345，请记住", "abc12345"),
    ("private_key", PEM, made_up(1)),
    ("private_key", json.dumps(PEM), "PRIVATE KEY"),
    ("private_key", "\n".join(f"> {line}" for line in PEM.splitlines()), PEM.splitlines()[9]),
    ("private_key", "\n".join(f'    "{line}\\n"' for line in PEM.splitlines()), PEM.splitlines()[9]),
    ("email", "write to bob@example.com.", "bob@example.com"),
    ("email", "first.last+tag@post.example.co.uk", "first.last+tag@post.example.co.uk"),
    ("email", "line\\nbob@example.com", "bob@example.com"),
    ("email", "邮箱是bob@example.com，谢谢", "bob@example.com"),
    ("card", "4111111111111111", "4111111111111111"),
    ("card", "4242 4242 4242 4242", "4242 4242 4242 4242"),
    ("card", "5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("card", "3782 822463 10005", "3782 822463 10005"),
    ("card", "6212345678901265 12/29", "6212345678901265"),
    ("card", "4222222222222", "4222222222222"),
    ("card", "4111\u00a01111\u00a01111\u00a01111", "4111\u00a01111\u00a01111\u00a01111"),
    ("phone", "13812345678", "13812345678"),
    ("phone", "手机13812345678，", "13812345678"),
    ("phone", "+86 138-1234-5678", "138-1234-5678"),
    ("phone", "+8613812345678", "13812345678"),
    ("phone", "(+86)13812345678", "13812345678"),
    ("phone", "0086-138 1234 5678", "138 1234 5678"),
    ("phone", "8613812345678", "13812345678"),
    ("phone", "138\u20131234\u20135678", "138\u20131234\u20135678"),
    ("phone", "电话\\n13812345678", "13812345678"),
    ("phone", "\\u4e1113812345678\\u6587", "13812345678"),
    ("phone", '{"mobile":"13812345678"}', "13812345678"),
    ("resident_id", "身份证11010519491231002X。", "11010519491231002X"),
    ("resident_id", "110105 19491231 002x", "110105 19491231 002x"),
    ("resident_id", "130503670401001", "130503670401001"),
    ("iban", "DE89370400440532013000", "DE89370400440532013000"),
    ("iban", "DE89 3704 0044 0532 0130 00", "3704 0044"),
    ("iban", "GB82 WEST 1234 5698 7654 32 BIC WESTGB22", "GB82 WEST"),
    ("iban", "NL91 ABNA 0417 1643 00", "0417 1643"),
    ("ip", '"remote_addr": "203.0.113.77"', "203.0.113.77"),
    ("iban", "MT84MALT011000012345MTLCAST001S", "MALT011000012345"),
    ("iban", "RO49 AAAA 1B31 0075 9384 0000", "AAAA 1B31"),
    ("email", "https://h/?to=ann.o%2Bx%40example.com%26a%3Db", "ann.o%2Bx%40example.com"),
    ("email", "https://h/?u=https%3A%2F%2Fi%2F%3Fto%3Dann%2540example.com", "ann%2540example.com"),
    ("api_key", "https://h/?u=https%3A%2F%2Fi%2F%3Fkey%3Dsk-proj-abcdEFGH1234567890abcd", "sk-proj-abcdEFGH1234567890"),
    ("api_key", "%7B%22api_key%22%3A%22f00ba4f00ba4f00ba4%22%7D", "f00ba4f00ba4f00ba4"),
    ("password", "https://h/?u=q%3fpassword%3dcorrect7horse%26x%3d1", "correct7horse"),
    ("phone", "https://h/?tel=%2B8613812345678%26x", "13812345678"),
    ("resident_id", "https://h/?id%3D11010519491231002X%26x", "11010519491231002X"),
]

PERSONAL = [found for found in FOUND if found[0] in Personal.KINDS]
SECRETS = [found for found in FOUND if found[0] not in Personal.KINDS]


def assert_replaced(kind: str, text: str, secret: str) -> None:
    """Alone, in a sentence, in JSON, in code, behind a newline, and only if its kind is asked for."""
    redactor = Redactor()
    for around in ("{}", "see {} here", "值：{}。", "x = '{}'\n", "a\t{}\r\nb", "({})", '["{}"]'):
        before = around.format(text)
        shown = redactor.redact(before)
        assert f"[redacted:{kind}]" in shown, before
        assert secret not in shown or len(secret) < 4
        assert redactor.redact(shown) == shown
    assert f"[redacted:{kind}]" not in Redactor(KINDS - {kind}).redact(text)
    assert f"[redacted:{kind}]" in Redactor([kind]).redact(text)
