"""URLs are read as people write them, and never shown with what is secret."""

from __future__ import annotations

import pytest

from llmctx.core.urls import shown_url, split_url


@pytest.mark.parametrize(
    ("text", "user", "password", "hosts"),
    [
        ("postgresql://app@db/shop", "app", None, (("db", ""),)),
        ("postgresql://app:p@w@db:5432/shop", "app", "p@w", (("db", "5432"),)),
        ("postgresql://app:a:b@one:1,two:2/shop", "app", "a:b", (("one", "1"), ("two", "2"))),
        ("postgresql:///shop?host=/run", None, None, (("", ""),)),
        ("redis://:secret@[::1]:6379/0", "", "secret", (("[::1]", "6379"),)),
    ],
)
def test_the_parts_of_a_url(text: str, user: str | None, password: str | None, hosts: object) -> None:
    parts = split_url(text)
    assert parts is not None
    assert (parts.user, parts.password, parts.hosts) == (user, password, hosts)


@pytest.mark.parametrize("text", ["", "shop", "://db", "postgresql//app@db", "postgresql://a\nb@db", "p://h:1:2/x"])
def test_what_is_no_url(text: str) -> None:
    assert split_url(text) is None
    assert shown_url(text) == "<not a database URL>"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:hunter2@db/shop",
        "postgresql://app:hun@ter2/hunter2@db/shop",
        "postgresql://db/shop?password=hunter2",
        "postgresql://app:x?hunter2@db/shop",
        "postgresql://app:x@db/shop;password=hunter2",
        "postgresql://app@db;password=hunter2/shop",
        "postgresql://app@db/shop&password=hunter2",
        "redis://hunter2@cache",
        "redis://:hunter2@cache",
    ],
)
def test_no_password_is_shown(text: str) -> None:
    assert "hunter2" not in shown_url(text)


def test_what_is_no_secret_is_shown() -> None:
    url = "postgresql+asyncpg://app:***@one:5432,two/shop?application_name=web"
    assert shown_url(url.replace("***", "hunter2")) == url
