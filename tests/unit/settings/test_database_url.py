"""URLs of databases: what people write is understood, or a sentence names what is not; no password is ever shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.urls import shown_url
from llmctx.settings import load
from llmctx.settings.database_url import application_name, normal_url
from llmctx.storage.driver import read_passfile
from llmctx.storage.engine import describe_database

SECRET = "hun@ter2"
H = "postgres://app:x@h/db"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("postgres://app:p@w@host/db", {"user": "app", "password": "p@w", "host": "host", "database": "db"}),
        ("postgres://app:p#w@host:77/db", {"password": "p#w", "host": "host", "port": 77}),
        ("postgres://app:%70%40w@h/db", {"password": "p@w"}),
        ("postgres://app@server:q1@h/db", {"user": "app@server", "password": "q1", "host": "h"}),
        ("postgres://h/?dbname=d&user=u@s&password=a+b", {"user": "u@s", "password": "a+b", "database": "d"}),
        ("postgres://h1:1,h2/db", {"host": ["h1", "h2"], "port": [1, 5432]}),
        ("postgres://[::1]:1,[::2]:2/db", {"host": ["::1", "::2"], "port": [1, 2]}),
        ("postgres:///db?host=a&host=b:3", {"host": ["a", "b"], "port": [5432, 3]}),
        ("postgres:///db?host=a,b", {"host": ["a", "b"], "port": [5432, 5432]}),
        ("postgres://u@%2Frun%2Fpg/db", {"host": "/run/pg", "user": "u"}),
        ("postgres://h/db?sslmode=require&ssl=verify-full", {"ssl": "verify-full"}),
        ("postgres://h/db?ssl=true", {"ssl": "require"}),
        ("postgres://h/db?target_session_attrs=primary&passfile=/p", {"passfile": "/p"}),
        ("postgres://h/?service=s", {"service": "s"}),
        (f"{H}?application_name=my%20app&options=-c%20a%3Db", {
            "dsn": "postgresql:///?application_name=my+app&options=-c+a%3Db",
        }),
        (f"{H}?keepalives=1&keepalives_idle=3&tcp_user_timeout=9&gssencmode=disable&pgbouncer=true", {"host": "h"}),
    ],
)  # fmt: skip
def test_what_libpq_understands_reaches_asyncpg(written: str, sent: dict[str, object]) -> None:
    """Nothing else is sent, and the normal form of a normal form is itself."""
    url = normal_url(written)
    arguments = dialect().create_connect_args(make_url(url))[1]
    assert {key: arguments.get(key) for key in sent} == sent
    known = {"user", "password", "database", "host", "port", "ssl", "target_session_attrs", "passfile"}
    assert set(arguments) <= {*known, "service", "dsn"}
    assert normal_url(url) == url
    if "password" in sent:
        assert str(sent["password"]) not in shown_url(written)
        assert str(sent["password"]) not in describe_database(load(database_url=written))


def test_the_application_and_the_time_to_connect_may_stand_in_the_url() -> None:
    """As libpq has them; a setting of its own wins."""
    url = f"{H}?application_name=my%20app&connect_timeout=7"
    assert application_name(make_url(load(database_url=url).database_url)) == "my app"
    assert application_name(make_url(normal_url(H))) == "llmctx"
    assert load(database_url=url).connect_timeout_s == 7
    assert load(database_url=url, connect_timeout_s=9).connect_timeout_s == 9


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (f"{H}?foo=1&hostaddr=1.2.3.4", "foo, hostaddr"),
        (f"{H}?requirepeer=x", "requirepeer"),
        (f"{H}?sslmode=sometimes", "sslmode must be one of disable"),
        (f"{H}?target_session_attrs=master", "target_session_attrs must be one of any"),
        (f"{H}?connect_timeout=soon", "connect_timeout must be a number"),
        (f"{H}?port=x", "port"),
        ("postgres://h:70000/db", "port"),
        ("postgres://h,/db", "empty host name"),
        ("postgres:///db?host=a,b&port=1,2,3", "number of ports"),
        ("postgres://u:%ff@h/db", "not UTF-8"),
        ("postgres://u:%00@h/db", "NUL"),
        ("sqllite:///x.db", "Did you mean sqlite?"),
        ("postgresql+psycopg://u:x@h/db", "postgresql+psycopg"),
        ("sqlite:///x.db?mode=ro", "mode"),
        ("sqlite:////tmp/a%00b.db", "NUL"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "in-memory"),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", "in-memory"),
        ("sqlite:///x.db?timeout=-1", "timeout must be a number of seconds"),
        (f'"postgres://app:{SECRET}@h/db"', "quotation mark"),
        (f"{H}?pasword={SECRET}", "Did you mean password? Take it out"),
        (f"{H}?max_pool=5&charset=x", "(charset, max_pool). Take them out"),
        ("sqlite:x.db", "sqlite+aiosqlite:///path"),
        (f"host=h user=app password={SECRET} dbname=d", "not a database URL"),
        (f"postgres://app:{SECRET}/x@h/db", "%2F"),
        ("postgres://app:12/hun@ter2@h/db", "%2F"),
        ("postgres://app:12?hun@ter2@h/db", "%2F"),
        ("postgres://app:12/db?hun=@ter2@h", "%2F"),
    ],
)
def test_what_is_not_understood_is_named_and_no_secret(written: str, words: str) -> None:
    """The sentence names the parameter or what is wrong; neither it nor the URL as it is shown has the password."""
    with pytest.raises(ConfigError) as caught:
        load(database_url=written)
    for text in (str(caught.value), shown_url(written)):
        assert not any(part in text for part in ("hun", "ter2"))
    assert words in str(caught.value)
    assert "LLMCTX_DATABASE_URL" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:p@w@h:1/0?x=y", "redis://:***@h:1/0?***"),
        ("redis://hunter2@h/0", "redis://***@h/0"),
        ("redis://:p/w@h/0", "<not a database URL>"),
        ("postgres://u@h/db?sslpassword=hunter2&sslmode=require", "postgres://u@h/db?sslmode=require&***"),
        ("postgres://u:a\nb@h/db", "<not a database URL>"),
    ],
)
def test_one_function_shows_any_url(url: str, shown: str) -> None:
    """Redis' as well."""
    assert shown_url(url) == shown


def test_password_files_have_escapes(tmp_path: Path) -> None:
    """A colon and a backslash are escaped in every field; lines that are none, and files of others, do not count."""
    file = tmp_path / "pgpass"
    file.write_bytes(
        rb"""# a comment
h\:1:*:d\\b:u:p\:w\\x:y
*:5432:db:user: p
too:few
"""
        b"\xff:1:d:u:p\xff\r\n"
    )
    file.chmod(0o600)
    assert read_passfile(file) == [
        ("h:1", "*", "d\\b", "u", "p:w\\x:y"), ("*", "5432", "db", "user", " p"), ("\udcff", "1", "d", "u", "p\udcff"),
    ]  # fmt: skip
    file.chmod(0o640)
    with pytest.warns(UserWarning, match="chmod 0600"):
        assert read_passfile(file) == []
    assert read_passfile(tmp_path / "none") == read_passfile(tmp_path) == []


def test_unknown_variables_are_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, whose text the names cannot forge."""
    diagnostics.reset()
    monkeypatch.setenv("LLMCTX_DATABSE_URL", "postgres://u:hunter2@h/db")
    os.environ["LLMCTX_X\nERROR FORGED"] = ""
    try:
        load()
    finally:
        del os.environ["LLMCTX_X\nERROR FORGED"]
    (line,) = caplog.messages
    assert "LLMCTX_DATABSE_URL is not a setting; LLMCTX_DATABASE_URL is" in line
    assert "hunter2" not in line
    assert "\n" not in line
