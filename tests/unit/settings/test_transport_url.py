"""`LLMCTX_TRANSPORT` is understood as people write it, and its secrets are never shown."""

from __future__ import annotations

import pytest

from llmctx.core.errors import ConfigError
from llmctx.settings import load
from llmctx.settings.transport_url import parse_transport


def test_several_servers_are_named_in_one_url_or_in_several() -> None:
    """Both ways of the NATS clients; the port may be left out."""
    one = parse_transport("nats://app:s3cret@h1:4222,h2,[::1]:4333?prefix=eu")
    assert one.servers == ("nats://h1:4222", "nats://h2:4222", "nats://[::1]:4333")
    assert (one.user, one.password, one.prefix) == ("app", "s3cret", "eu")
    two = parse_transport("nats://h1:4222, nats://app:p%40ss@h2:4222")
    assert (two.servers, two.user, two.password) == (("nats://h1:4222", "nats://h2:4222"), "app", "p@ss")


def test_a_user_alone_is_a_token() -> None:
    """NATS has tokens in the user's place."""
    assert parse_transport("nats://t0ken@h").token == "t0ken"


def test_files_and_numbers_are_parameters() -> None:
    """Credentials and certificates are named by their files."""
    found = parse_transport("tls://h?creds=/c%20d.creds&ca=/ca.pem&cert=/c.pem&key=/k.pem&streams=4&replicas=3")
    assert (found.creds, found.ca, found.cert, found.key) == ("/c d.creds", "/ca.pem", "/c.pem", "/k.pem")
    assert (found.streams, found.replicas, found.is_tls) == (4, 3, True)
    assert not parse_transport("nats://h").is_tls


@pytest.mark.parametrize(
    "text",
    [
        "http://hunter2@h", "nats://hunter2:hunter2@", "nats://hunter2:hunter2@h/path", "nats://h?hunter2=hunter2",
        "nats://h?streams=hunter2", "nats://h?streams=0",
        "nats://hunter2@h:99999", "nats://hunter2@h:0", "nats://h?prefix=Hunter2.", "nats://h?key=hunter2", "hunter2",
        "nats://h1,tls://hunter2@h2", "nats://hunter2:p/hunter2@h", "nats://h?max_age=1",
    ],
)  # fmt: skip
def test_what_cannot_be_used_fails_at_start_and_shows_no_value(text: str) -> None:
    """The error names the key, and may be logged."""
    with pytest.raises(ConfigError, match=r"LLMCTX_TRANSPORT \(transport=\)") as error:
        load(transport=text)
    assert "hunter2" not in str(error.value).lower()


def test_no_secret_is_shown() -> None:
    """Neither by the settings nor by what was made of them; the journals' directory does not follow a password."""
    settings = load(transport="tls://app:hunter2@h1,h2?prefix=eu&creds=/hunter2")
    assert settings.transport_url is not None
    for shown in (repr(settings), repr(settings.transport_url), settings.transport_url.shown):
        assert "hunter2" not in shown
        assert "tls://h1:4222,h2:4222?prefix=eu" in shown
    assert settings.journal_key == load(transport="tls://other:hunter3@h2,h1?prefix=eu").journal_key
    assert settings.journal_key not in (load(transport="tls://h1,h2").journal_key, load().journal_key)
    assert load(transport="").transport is None
