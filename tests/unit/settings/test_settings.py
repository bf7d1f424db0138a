"""Settings: one source, values that fail at start and name their key, no password in sight."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from llmctx.core.errors import ConfigError
from llmctx.core.urls import shown_url
from llmctx.settings import Settings, load


def test_defaults_are_a_sqlite_file_in_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets nothing gets a file, and the documented bounds."""
    monkeypatch.delenv("LLMCTX_JOURNAL_DIR")
    settings = load()
    assert settings == Settings()
    assert settings.database_url == "sqlite+aiosqlite:///llmctx.db"
    assert settings.table == "biz_agent_llm_call_logs"
    assert (settings.batch_rows, settings.snapshot_bytes, settings.memory_bytes) == (500, 32768, 64 * 2**20)
    assert not settings.is_postgresql


def test_environment_and_arguments_are_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over the environment; None is no argument."""
    monkeypatch.setenv("LLMCTX_LINGER_MS", "7")
    monkeypatch.setenv("LLMCTX_CAPTURE", "explicit")
    monkeypatch.setenv("LLMCTX_UNKNOWN_TO_US", "x")
    assert load().linger_ms == 7
    settings = load(linger_ms=9, capture=None)
    assert (settings.linger_ms, settings.capture) == (9, "explicit")


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:6543/d", "postgresql+asyncpg://u:p@h:6543/d"),
        ("postgresql+asyncpg://u:p%40x@h/d", "postgresql+asyncpg://u:p%40x@h/d"),
        ("postgresql://u@h/d?sslmode=require&channel_binding=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        (
            "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgresql+asyncpg://u@h/d?dsn=postgresql%3A%2F%2F%2F%3Fsslrootcert%3D%252Fca.pem&ssl=verify-full",
        ),
        ("postgresql://u@/d?host=/run/pg", "postgresql+asyncpg://u@/d?host=%2Frun%2Fpg"),
        (" sqlite:///x.db\n", "sqlite+aiosqlite:///x.db"),
        ("sqlite:////abs/x.db", "sqlite+aiosqlite:////abs/x.db"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite:///x.db"),
    ],
)
def test_urls_as_people_have_them_are_understood(written: str, used: str) -> None:
    """Each common spelling becomes the URL of an async driver."""
    assert load(database_url=written).database_url == used


@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        "garbage",
        "mysql://user:hunter2@host/db",
        "postgresql+psycopg2://user:hunter2@host/db",
        "postgresql://user:hunter2@host",
        "postgresql://user:hunter2@host:port/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://relative.db",
        "https://example.com",
    ],
)
def test_other_urls_are_refused_and_the_message_says_what_to_write(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that cannot be used names its key and a right one, and never repeats the password."""
    monkeypatch.setenv("LLMCTX_DATABASE_URL", url)
    with pytest.raises(ConfigError) as caught:
        load()
    assert "LLMCTX_DATABASE_URL" in str(caught.value)
    assert "postgresql+asyncpg://user:password@host:5432/dbname" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("BATCH_ROWS", "501"),
        ("BATCH_ROWS", "many"),
        ("LINGER_MS", ""),
        ("CAPTURE", "some"),
        ("CONTENT", "half"),
        ("LATE_S", "nan"),
        ("CALL_LIMIT_S", "inf"),
        ("SHUTDOWN_TIMEOUT_S", "-1"),
        ("TABLE", "logs; drop table users"),
        ("TABLE", "x" * 41),
        ("DB_SCHEMA", "no-dashes"),
        ("DB_SCHEMA", "agents"),  # the default database is SQLite, which has none
    ],
)
def test_a_bad_value_names_its_key(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, the variable's name in it, no traceback of pydantic's."""
    monkeypatch.setenv(f"LLMCTX_{key}", value)
    with pytest.raises(ConfigError, match=f"^LLMCTX_{key}") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("key", ["LLMCTX_REDACT", "LLMCTX_HANDOVER_KEY"])
@pytest.mark.parametrize("written", ["{0},,{1}", "{0},", ",{0}", "{0}, ,{1}"])
def test_a_list_has_no_empty_values(key: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a slip of the pen, or a variable that was not set; what was meant there is not guessed."""
    values = ("email", "card") if key == "LLMCTX_REDACT" else ("k" * 32, "o" * 32)
    monkeypatch.setenv(key, ",".join(values))
    load()
    monkeypatch.setenv(key, written.format(*values))
    with pytest.raises(ConfigError, match=f"{key} .*one of the comma-separated values is empty"):
        load()


def test_a_mistyped_argument_gets_a_suggestion() -> None:
    """`load(batch_row=1)` says which name was meant."""
    with pytest.raises(ConfigError, match="Did you mean batch_rows"):
        load(batch_row=1)


def test_an_empty_variable_is_none_where_none_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LLMCTX_DB_SCHEMA=` in a deployment file means that none was set."""
    optional = [name for name, field in Settings.model_fields.items() if field.default is None]
    for name in (*optional, "redact_patterns"):
        monkeypatch.setenv(f"LLMCTX_{name.upper()}", "")
    settings = load()
    assert {getattr(settings, name) for name in optional} == {None}
    assert settings.redact_patterns == {}


def test_the_password_never_shows() -> None:
    """Neither in repr nor in str nor in `shown_url`, wherever in the URL it stands."""
    settings = load(database_url="postgresql://user:hunter2@host/db?password=hunter2")
    for text in (repr(settings), str(settings), f"{settings}", shown_url(settings.database_url)):
        assert "hunter2" not in text
        assert "user" in text
    assert shown_url("hunter2") == "<not a database URL>"


def test_settings_are_a_value() -> None:
    """Equal by content, and frozen."""
    assert load(linger_ms=9) == load(linger_ms=9) != load()
    with pytest.raises(ValidationError):
        load().linger_ms = 3  # type: ignore[misc]


def test_a_table_of_another_name_has_versions_of_its_own() -> None:
    """Two tables in one database do not share their migrations' state; names stay within PostgreSQL's 63 bytes."""
    assert load().version_table == "llmctx_alembic_version"
    longest = load(table="t" * 40).version_table
    assert longest != load().version_table
    assert len(longest) <= 63


def test_importing_settings_leaves_the_heavy_parts_alone() -> None:
    """pydantic-settings and SQLAlchemy are loaded by whoever calls `load`, not by whoever imports the class."""
    program = "import sys, llmctx.settings; print({'pydantic_settings', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
