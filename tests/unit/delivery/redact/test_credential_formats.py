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
        "CREATE USER app IDENTIFIED BY '{}'", "wandb login {}0123", "Κωδικός πρόσβασης: {}", "ПАРОЛЬ: {}",
    ],
)  # fmt: skip
def test_the_secret_goes(text: str) -> None:
    shown = redact(text.format("Zk9pQ2mL7xW1vB4t"))
    assert "Zk9pQ2mL7xW1vB4t" not in shown
    assert "[redacted:" in shown


@pytest.mark.parametrize(
    "text", ["Authorization: Bearer <token>", "curl -u $USER:$PASS http://host", "http://host:8080/path", "ls -p /tmp"]
)
def test_what_only_shows_how_it_is_done_stays(text: str) -> None:
    assert redact(text) == text
