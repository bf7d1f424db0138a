"""Secrets in headers, command lines, connection strings and password files, where no name stands before them."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact import Redactor

redact = Redactor().redact


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}", "curl -u admin:{} http://host", "mongodb+srv://app:{}@cluster/db",
        "mysql -p{} shop",
        "sshpass -p {} ssh host", "Cookie: sessionid={}", "localhost:5432:shop:app:{}", "redis-cli -a {} ping",
        'echo -n "{}" | docker login -u app --password-stdin', "lftp -u app,{} host",
        "poetry config pypi-token.pypi {}0123",
        "app:$apr1${}$EkQv/1AwhNDqIB4VUpcfu2", "root:$6${}$5S/dUetA3ME3jZFXpaL.fRKCU5R:19000:0:99999:7:::",
        'https://cdn.example.com/x?Expires=1764547200&Signature={}0123~&Key-Pair-Id=K2ABC',
        '{{"name": "Cookie", "value": "sid={}"}}',
        '{{"kty": "EC", "crv": "P-256", "d": "{}Zk9p"}}', "Recovery codes:\n{}\nab12-cd34\n",
        "CREATE USER app IDENTIFIED BY '{}'", "wandb login {}0123",
        "curl -u admin:'{}' https://host", "net use Z: \\\\srv\\share /user:ACME\\bob {}", "creds are admin / {}",
        "curl https://host -b 'connect.sid=s%3A{}.Ab1%2F'", "the li_at cookie is {}0123", "Zugangsdaten: root / {}",
        "app_session={}0123456789abcdef", "Κωδικός πρόσβασης: {}", "ПАРОЛЬ: {}",
    ],
)  # fmt: skip
def test_the_secret_goes(text: str) -> None:
    shown = redact(text.format("Zk9pQ2mL7xW1vB4t"))
    assert "Zk9pQ2mL7xW1vB4t" not in shown
    assert "[redacted:" in shown


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer <token>", "curl -u $USER:$PASS http://host", "http://host:8080/path", "ls -p /tmp",
        "a cookie is set when needed", "error code: 123456", "the verification code is 6 digits long",
        "otp = 2026-01-12", "creds are read from env",
    ],
)  # fmt: skip
def test_what_only_shows_how_it_is_done_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Your verification code is {}. Do not share it.", "OTP: {}", "Dein Bestätigungscode: {}",
        "code de vérification : {}", "验证码：{}，请勿泄露", "認証コードは{}です", "인증번호: {}",
        "my one-time passcode is **{}**",
    ],
)  # fmt: skip
def test_a_code_of_one_use_goes(text: str) -> None:
    assert "492016" not in redact(text.format("492016"))
