"""What can be set, in one frozen value: read once from `LLMCTX_*` or arguments, then passed down.

No other module reads the environment, and there is no second way to set a thing. A bad value fails here, at start,
with a `ConfigError` that names its key. The database's password never shows: print urls through `shown_url`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmctx.core.errors import ConfigError
from llmctx.core.record import DEFAULT_TABLE

if TYPE_CHECKING:
    from sqlalchemy import URL

PREFIX: Final = "LLMCTX_"
_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
_WHAT_TO_WRITE: Final = (
    "Write postgresql+asyncpg://user:password@host:5432/dbname, or sqlite+aiosqlite:///path/to/file.db"
)
_TLS: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation"})
# Tables of the same name with suffixes are ours too (partitions, indexes, versions); PostgreSQL cuts names at 63.
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class Settings(BaseModel):
    """How llmctx behaves in this process. Made by `load`; compare, copy and print it freely."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    database_url: str = Field(default="sqlite+aiosqlite:///llmctx.db", repr=False)
    """Where the rows go. postgres://, postgresql:// and sqlite:// are understood as well."""
    table: str = DEFAULT_TABLE
    db_schema: str | None = None
    """PostgreSQL's schema of the table; None is the first of the search path."""
    capture: Literal["all", "explicit"] = "all"
    """"all" records every model call of the process, "explicit" those that are given `call_log.handler`."""
    content: Literal["full", "redacted", "none"] = "redacted"
    """What is kept of prompts, responses and reasoning: all, all but secrets and personal data, or nothing.

    Error messages, tags and attributes are redacted unless this is "full". Ids never are: they are what one asks by."""
    redact: str | None = None
    """What is redacted, comma-separated, of `llmctx.delivery.redact.KINDS`; None is all of them."""
    redact_patterns: dict[str, str] = Field(default_factory=dict, repr=False)
    """The team's own: name -> regular expression. In the environment a JSON object."""
    snapshot_bytes: int = Field(default=32 * _KIB, ge=64, le=16 * _MIB)
    """Bound of each snapshot; longer text is cut inside and says so."""
    memory_bytes: int = Field(default=64 * _MIB, ge=64 * _KIB)
    """Bound of everything that waits for the database in memory."""
    durability: Literal["memory", "journal", "fsync"] = "journal"
    """What a call survives: nothing, the death of the process, or also that of the machine."""
    journal_dir: str | None = None
    """Where journals lie; None is this user's state directory. Each database's have a directory of their own in it."""
    journal_bytes: int = Field(default=1024 * _MIB, ge=_MIB)
    """Bound of this process's journal."""
    batch_rows: int = Field(default=500, ge=1, le=500)
    batch_bytes: int = Field(default=4 * _MIB, ge=_KIB, le=64 * _MIB)
    """Encoding a bigger batch would hold the writer's loop for too long."""
    linger_ms: int = Field(default=50, ge=0, le=60_000)
    """How long an unfilled batch waits for company."""
    pool_size: int = Field(default=2, ge=1, le=16)
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300)
    statement_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    shutdown_timeout_s: float = Field(default=5.0, ge=0, le=3600)
    """How long the end of the process may wait for the database."""
    registry_entries: int = Field(default=100_000, ge=1)
    registry_ttl_s: float = Field(default=86_400.0, gt=0)
    registry_url: str | None = Field(default=None, repr=False)
    """A Redis through which several processes share what they know of threads: redis://, rediss:// or unix://."""
    registry_prefix: str = "llmctx:"
    """Of every key in that Redis. Applications that share it, and not their users, need different ones."""
    late_s: float = Field(default=600.0, ge=0)
    """How long a closed scope still testifies to whom a call belongs."""
    carry: bool = False
    """Let threads, executors and queues hand the scope on, in code that cannot be changed."""
    handover_key: str | None = Field(default=None, repr=False)
    """Secret that signs handed-over identities: the same in every process. Several, comma-separated, newest first."""
    handover_invalid: Literal["raise", "anonymous"] = "raise"
    """What `take_over` does with a forged or expired token."""
    call_limit_s: float = Field(default=3600.0, gt=0)
    """A call that has been open for longer is abandoned."""

    price_file: str | None = None
    """The team's own prices, as JSON; they come before those of genai-prices (`pip install "llmctx[prices]"`)."""
    retain: Literal["off", "on"] = "off"
    """"on": one of the running processes makes next months' partitions and takes away what is older than this says."""
    retain_days: int | None = Field(default=None, ge=1)
    """How long rows are kept; None is for ever."""
    retain_snapshot_days: int | None = Field(default=None, ge=1)
    """How long prompts, responses and reasoning are kept in them."""
    retain_error_days: int | None = Field(default=None, ge=1)
    """How long rows of calls that did not end well are kept; None is as long as the others."""

    @field_validator("database_url", mode="after")
    @classmethod
    def _understand_url(cls, value: str) -> str:
        return normal_url(value)

    @field_validator("db_schema", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("redact", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        if isinstance(value, (list, tuple, set, frozenset)):
            return ",".join(map(str, value))
        return None if value == "" else value  # `LLMCTX_REDACT=` in a deployment file means that none was chosen

    @field_validator("journal_dir", "price_file", mode="before")
    @classmethod
    def _path_or_none(cls, value: object) -> object:
        return None if value is None or value == "" else os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("table", "db_schema", mode="after")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not _IDENTIFIER.fullmatch(value):
            raise ValueError("must be letters, digits and underscores, at most 40, not a digit first")
        return value

    @model_validator(mode="after")
    def _schema_needs_postgresql(self) -> Settings:
        if self.db_schema is not None and not self.is_postgresql:
            raise ConfigError("LLMCTX_DB_SCHEMA is set, but SQLite has no schemas. Unset it, or use PostgreSQL.")
        return self

    @property
    def version_table(self) -> str:
        """Where alembic notes our version. A table of another name is another table, at a version of its own."""
        return "llmctx_alembic_version" + ("" if self.table == DEFAULT_TABLE else f"_{self.table}")

    @property
    def is_postgresql(self) -> bool:
        return self.database_url.startswith("postgresql")

    @property
    def redact_kinds(self) -> tuple[str, ...] | None:
        """`redact`, taken apart."""
        return None if self.redact is None else tuple(filter(None, map(str.strip, self.redact.split(","))))

    @property
    def journal_places(self) -> tuple[Path, ...]:
        """Directories for the journals of this database's table, best first. They say nothing of user or password.

        A container may have no home, or one that cannot be written: then there is the system's temporary directory,
        in which only a directory that is ours all the way is safe.
        """
        name = _fingerprint(self)
        if self.journal_dir is not None:
            return (Path(self.journal_dir).expanduser() / name,)
        places = []
        state = os.environ.get("XDG_STATE_HOME", "")
        with contextlib.suppress(RuntimeError):  # nobody's home
            places.append(
                (Path(state) if Path(state).is_absolute() else Path.home() / ".local/state") / "llmctx" / name
            )
        return (*places, Path(tempfile.gettempdir()) / f"llmctx-{os.geteuid()}-{name}")

    def __repr_args__(self) -> Any:
        yield "database_url", shown_url(self.database_url)
        yield from super().__repr_args__()


def _fingerprint(settings: Settings) -> str:
    """Of the table and where it is, and of nothing that is rotated: users and passwords change, the rows' way not."""
    from sqlalchemy.engine import make_url

    url = make_url(settings.database_url)
    where: tuple[object, ...] = (url.host, url.port, url.query.get("host"), url.query.get("port"), url.database)
    if not settings.is_postgresql:
        where = (url.database if str(url.database).startswith("file:") else os.path.realpath(str(url.database)),)
    told = repr((url.get_backend_name(), *where, settings.db_schema, settings.table))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def load(**overrides: Any) -> Settings:
    """Settings from `LLMCTX_*`, with `overrides` over them; an override that is None was not given.

    Raises `ConfigError`, naming the key, for any value that cannot be used.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    for key in given:
        if key not in Settings.model_fields:
            near = difflib.get_close_matches(key, Settings.model_fields, 1)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(Settings.model_fields)}."
            raise ConfigError(f"There is no setting {key!r}.{hint}")

    # late: only whoever starts us pays for it
    from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

    class FromEnvironment(BaseSettings, Settings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
        )

    try:
        return Settings.model_construct(**dict(FromEnvironment(**given)))
    except ValidationError as problem:
        raise _named(problem) from None
    except SettingsError:  # the one setting that is no plain value
        raise ConfigError(f"{PREFIX}REDACT_PATTERNS (redact_patterns=): must be a JSON object of texts.") from None


def _named(problem: ValidationError) -> ConfigError:
    """The first complaint, with its key, without pydantic's frame. The value is not repeated: it may be secret."""
    first = problem.errors(include_url=False, include_input=False)[0]
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, ConfigError):
        return reason
    text = str(reason) if reason is not None else first["msg"][:1].lower() + first["msg"][1:]
    key = str(first["loc"][0])
    return ConfigError(f"{PREFIX}{key.upper()} ({key}=): {text}.")


def normal_url(value: str) -> str:
    """`value` as a URL of one of the two async drivers; `ConfigError` for anything else.

    libpq's `sslmode` becomes asyncpg's `ssl`, and `channel_binding`, which asyncpg does not know, is left out: that
    is how hosted databases print their URLs. libpq's files of certificates and keys go where asyncpg looks for them.
    """
    from sqlalchemy.engine import make_url  # late, as above
    from sqlalchemy.exc import ArgumentError

    key = f"{PREFIX}DATABASE_URL"
    if not value.strip():
        raise ConfigError(f"{key} is empty. {_WHAT_TO_WRITE}.")
    try:
        url = make_url(value.strip())
    except (ArgumentError, ValueError):
        raise ConfigError(f"{key} is not a database URL. {_WHAT_TO_WRITE}.") from None
    driver = _DRIVERS.get(url.drivername.lower())
    if driver is None:
        raise ConfigError(f"{key} names {url.drivername!r}, which llmctx cannot use. {_WHAT_TO_WRITE}.")
    url = url.set(drivername=driver)
    if driver.startswith("sqlite"):
        return _sqlite_url(url, key)
    if not url.database:
        raise ConfigError(f"{key} names no database. {_WHAT_TO_WRITE}.")
    query = dict(url.query)
    if "sslmode" in query:
        query.setdefault("ssl", query.pop("sslmode"))
    query.pop("channel_binding", None)
    if files := {name: query.pop(name) for name in list(query) if name in _TLS}:
        query["dsn"] = f"postgresql:///?{urlencode(files)}"  # asyncpg reads them there, and nowhere else
    return url.set(query=query).render_as_string(hide_password=False)


def url_in_environment() -> str | None:
    """The database's URL as it stands in the environment now; None if none does that could be used."""
    value = next((value for key, value in os.environ.items() if key.upper() == f"{PREFIX}DATABASE_URL"), None)
    with contextlib.suppress(ConfigError):
        return None if value is None else normal_url(value)
    return None


def _sqlite_url(url: URL, key: str) -> str:
    """An in-memory database is refused: it lives in one connection, and the writer has its own."""
    if url.host:
        raise ConfigError(f"{key} has a host, but SQLite is a file: mind the three slashes. {_WHAT_TO_WRITE}.")
    if url.database in (None, "", ":memory:"):
        raise ConfigError(f"{key} is an in-memory SQLite, which every connection has to itself. {_WHAT_TO_WRITE}.")
    return url.render_as_string(hide_password=False)


def shown_url(value: str) -> str:
    """`value` without its passwords, for eyes and logs; never raises."""
    from sqlalchemy.engine import make_url

    try:
        url = make_url(value)
        secret = {key: "***" for key, told in url.query.items() if "password" in f"{key} {told}".lower()}
        return url.update_query_dict(secret).render_as_string(hide_password=True)
    except Exception:  # noqa: BLE001  what cannot be read cannot be cut, so nothing of it is shown
        return "<not a database URL>"
