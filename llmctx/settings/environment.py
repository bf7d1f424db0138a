"""Read the settings once, from `LLMCTX_*` or arguments; errors name the key and never repeat the value."""

from __future__ import annotations

import contextlib
import difflib
import os
from typing import Any, Final

from pydantic import ValidationError

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.settings.database_url import normal_url
from llmctx.settings.settings import Settings

PREFIX: Final = "LLMCTX_"
_FOR_TESTS: Final = ("LLMCTX_TEST_", "LLMCTX_RECORDED_")


def unknown_variables() -> list[str]:
    """Return a sentence for each `LLMCTX_*` variable of the environment that is no setting, with the nearest one."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    sentences = []
    for key in sorted(os.environ):
        if key.upper().startswith(PREFIX) and key.upper() not in known and not key.upper().startswith(_FOR_TESTS):
            near = difflib.get_close_matches(key.upper(), sorted(known), 1)
            sentences.append(f"{key} is not a setting{f'; {near[0]} is' if near else ''}")
    return sentences


def load(**overrides: Any) -> Settings:
    """Return the settings from `LLMCTX_*`, with `overrides` over them; an override that is None does not count.

    Raises `ConfigError`, naming the key, for any value that cannot be used.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if "database_url" in overrides:
        overrides["database_url"] = _url_text(overrides["database_url"])
    for key in overrides:
        if key not in Settings.model_fields:
            near = difflib.get_close_matches(key, Settings.model_fields, 1)
            hint = f" Did you mean {near[0]}?" if near else f" Choose from {', '.join(Settings.model_fields)}."
            raise ConfigError(f"{key!r} is not a setting.{hint}")

    if unknown := unknown_variables():
        diagnostics.count("unknown_setting", "in the environment: %s", ". ".join(unknown))

    # late: it takes long to import
    from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

    class FromEnvironment(BaseSettings, Settings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX,
            env_ignore_empty=True,
            frozen=True,
            extra="forbid",
            hide_input_in_errors=True,
            allow_inf_nan=False,
        )

    # what is empty is judged by the settings, but for what would be read as JSON before
    empty = {name: "" for name in Settings.model_fields if os.environ.get(f"{PREFIX}{name.upper()}") == ""}
    empty.pop("redact_patterns", None)
    try:
        return Settings.model_construct(**dict(FromEnvironment(**{**empty, **overrides})))
    except ValidationError as problem:
        raise _named(problem) from None
    except SettingsError:  # the one setting that is not a plain value
        raise ConfigError(f"{PREFIX}REDACT_PATTERNS (redact_patterns=): must be a JSON object of texts.") from None


def settings_of(database: Any = None, **overrides: Any) -> Settings:
    """Return the settings that `database` stands for: a URL, a SQLAlchemy engine, `Settings`, a `CallLog`, or None for
    `LLMCTX_*`.

    Raises `ConfigError` for anything else, and for settings that cannot be used.
    """
    known = getattr(database, "settings", database)
    if not isinstance(known, Settings):
        return load(database_url=database, **overrides)
    return load(**{**dict(known), **overrides}) if overrides else known


def _url_text(database: Any) -> str:
    """Return the URL in `database`: text, SQLAlchemy's `URL`, or an engine, whose own driver does not matter."""
    url = getattr(database, "url", database)
    if isinstance(url, str):
        return url
    try:
        text: str = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)
    except AttributeError:
        raise ConfigError(
            "A database is given as a URL, such as postgresql+asyncpg://user:password@host/dbname, as a SQLAlchemy "
            f"engine, Settings or CallLog, not as {type(database).__name__}."
        ) from None
    return text


def _named(problem: ValidationError) -> ConfigError:
    """Return the first error, with its key. The value is not repeated: it may be secret."""
    first = problem.errors(include_url=False, include_input=False)[0]
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, ConfigError):
        return reason
    text = str(reason) if reason is not None else first["msg"][:1].lower() + first["msg"][1:]
    key = str(first["loc"][0])
    return ConfigError(f"{PREFIX}{key.upper()} ({key}=): {text}.")


def url_in_environment() -> str | None:
    """Return the database's URL in the environment as it is now; None if there is none that can be used."""
    value = next((value for key, value in os.environ.items() if key.upper() == f"{PREFIX}DATABASE_URL"), None)
    with contextlib.suppress(ConfigError):
        return None if value is None else normal_url(value)
    return None
