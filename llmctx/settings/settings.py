"""`Settings`: a setting is a field here, with its default, its limits and what it is for.

`LLMCTX_NAME` in the environment and `name=` as an argument follow from its name (`environment.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmctx.core.errors import ConfigError, check_keys
from llmctx.core.record import DEFAULT_TABLE
from llmctx.core.urls import shown_url
from llmctx.settings import journal_paths
from llmctx.settings.database_url import connect_timeout, normal_url
from llmctx.settings.transport_url import TransportUrl, parse_transport

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    Database = str | URL | Engine | AsyncEngine

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_CENTURY_S: Final = 36_500 * 86_400

# Tables of the same name with suffixes are ours too (partitions, indexes, versions); PostgreSQL cuts names at 63.
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class Settings(BaseModel):
    """The settings of llmctx in this process, made by `load`. Safe to compare, copy and print."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    database_url: str = Field(default="sqlite+aiosqlite:///llmctx.db", repr=False)
    """The database of the rows. postgres://, postgresql:// and sqlite:// are accepted as well."""
    table: str = DEFAULT_TABLE
    """Name of the table. With another name it has a version of its own: set it before `llmctx migrate`."""
    db_schema: str | None = None
    """PostgreSQL's schema of the table; None is the first schema of the search path."""
    capture: Literal["all", "explicit"] = "all"
    """"all" records every model call of the process, "explicit" those with `call_log.handler` in their callbacks."""
    content: Literal["full", "redacted", "none"] = "redacted"
    """How much of prompts, responses and reasoning is kept: all, all but secrets and personal data, or nothing.

    Error messages, tags and attributes are redacted unless this is "full". Ids never are."""
    redact: str | None = None
    """Kinds to redact, comma-separated, of `llmctx.delivery.redact.KINDS`; None is all of them."""
    redact_patterns: dict[str, str] = Field(default_factory=dict, repr=False)
    """Additional patterns: name -> regular expression. In the environment a JSON object."""
    snapshot_bytes: int = Field(default=32 * _KIB, ge=64, le=16 * _MIB)
    """Limit of each snapshot in bytes; longer text is cut inside and marked."""
    memory_bytes: int = Field(default=64 * _MIB, ge=64 * _KIB, le=2**50)
    """Limit of everything that waits in memory for the database."""
    durability: Literal["memory", "journal", "fsync"] = "journal"
    """What a recorded call survives: nothing, the end of the process, or also that of the machine."""
    journal_dir: str | None = None
    """Directory of the journals; None is this user's state directory. Each database has a subdirectory of its own."""
    journal_bytes: int = Field(default=1024 * _MIB, ge=_MIB, le=2**50)
    """Limit of this process's journal in bytes."""
    batch_rows: int = Field(default=500, ge=1, le=500)
    """Limit of a batch in rows."""
    batch_bytes: int = Field(default=4 * _MIB, ge=_KIB, le=64 * _MIB)
    """Limit of a batch: encoding a larger one would block the writer's loop for too long."""
    linger_ms: int = Field(default=50, ge=0, le=60_000)
    """How long the pipeline waits for more calls. Rows that come slowly wait for one another besides, so that they are
    stored within two seconds; 0 is for those that are not to wait at all."""
    transport: str | None = Field(default=None, repr=False)
    """A message broker between this process and the database, whose rows `llmctx ship` stores: nats:// or tls://, with
    `?prefix=`, `creds=`, `ca=`, `cert=`, `key=`; None is the database itself."""
    writer: Literal["own", "ship"] = "own"
    """"ship": `llmctx ship --host` stores the rows of this process, which opens no connection as long as it does."""
    pool_size: int = Field(default=2, ge=1, le=16)
    """Connections of a process to the database, at most."""
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300)
    """How long connecting to the database may take."""
    statement_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """How long storing a batch may take."""
    shutdown_timeout_s: float = Field(default=5.0, ge=0, le=3600)
    """How long the exit of the process may wait for the database."""
    registry_entries: int = Field(default=100_000, ge=1, le=2**31)
    """Limit of the registry of threads: beyond it the oldest are forgotten."""
    registry_ttl_s: float = Field(default=86_400.0, gt=0, le=_CENTURY_S)
    """How long the registry remembers a thread that is not used."""
    registry_url: str | None = Field(default=None, repr=False)
    """A Redis in which several processes share the registry of threads: redis://, rediss:// or unix://."""
    registry_prefix: str = "llmctx:"
    """Prefix of every key in that Redis. Applications that share it but not their users need different ones."""
    late_s: float = Field(default=600.0, ge=0, le=_CENTURY_S)
    """How long a closed scope is still a source of identity."""
    session: Literal["scope", "thread"] = "scope"
    """"thread": where no session is known, LangGraph's thread_id is the session."""
    carry: bool = False
    """Let threads, executors and queues hand the scope on, in code that cannot be changed."""
    trust_config: bool = False
    """Believe what callers send: the user in a call's config, state or context counts before the authenticated one. For
    a back end whose callers are services of your own, which name the end user there."""
    handover_key: str | None = Field(default=None, repr=False)
    """Secret that signs handed-over identities: the same in every process. Several, comma-separated, newest first."""
    handover_invalid: Literal["raise", "anonymous"] = "raise"
    """What `take_over` does with a forged or expired token."""
    call_limit_s: float = Field(default=3600.0, gt=0, le=_CENTURY_S)
    """A call that has been open for longer gets the status `abandoned`."""

    dashboard_database_url: str | None = Field(default=None, repr=False)
    """The dashboard's own way to the database, such as with a role that may only read; None is `database_url`."""
    dashboard_url: str | None = None
    """Where the dashboard is reached from outside, for `call_log.url(call_id)`."""

    otel_spans: Literal["off", "on"] = "off"
    """"on": a span of OpenTelemetry for each call, unless another instrumentation of LangChain makes one."""
    otel_metrics: Literal["off", "on"] = "on"
    """"on": metrics of OpenTelemetry, where the application has a MeterProvider."""
    otel_user: Literal["hash", "id", "off"] = "hash"
    """How OpenTelemetry is told of users: by a keyed hash, by their ids, or not at all."""
    otel_key: str | None = Field(default=None, repr=False)
    """The key of that hash; None is the first `handover_key`, or else made of the host and name of the database, which
    can be guessed."""
    otel_content: Literal["off", "span", "event", "both"] = "off"
    """Whether prompts and responses, as the rows have them, go into those spans, into log events, or into both."""

    price_file: str | None = None
    """Your own prices, as JSON; they override those of genai-prices (`pip install "llmctx[prices]"`)."""
    retain: Literal["off", "on"] = "off"
    """"on": one of the running processes creates the next partitions and deletes what the next settings let expire."""
    retain_days: int | None = Field(default=None, ge=1, le=36_500)
    """How long rows are kept; None is for ever."""
    retain_snapshot_days: int | None = Field(default=None, ge=1, le=36_500)
    """How long prompts, responses and reasoning are kept in the rows."""
    retain_error_days: int | None = Field(default=None, ge=1, le=36_500)
    """How long rows of calls that did not end well are kept; None is as long as other rows."""
    rollup: Literal["off", "on"] = "off"
    """"on": one of the running processes keeps the totals that `llmctx rollup` makes up to date."""

    @model_validator(mode="before")
    @classmethod
    def _timeout_of_url(cls, values: Any) -> Any:
        """Let `connect_timeout` in the URL, which libpq knows, be the setting where that is not set.

        An empty text is none where a setting may have none: deployment files leave variables empty.
        """
        if not isinstance(values, dict):
            return values
        may_be_none = {name for name, field in cls.model_fields.items() if field.default is None}
        values = {name: value for name, value in values.items() if value != "" or name not in may_be_none}
        seconds = None if "connect_timeout_s" in values else connect_timeout(values.get("database_url"))
        return values if seconds is None else {**values, "connect_timeout_s": seconds}

    @field_validator("database_url", "dashboard_database_url", mode="after")
    @classmethod
    def _understand_url(cls, value: str | None) -> str | None:
        return None if value is None else normal_url(value)

    @field_validator("transport", mode="after")
    @classmethod
    def _understand_transport(cls, value: str | None) -> str | None:
        if value is not None:
            parse_transport(value)
        return value

    @field_validator("redact", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        if isinstance(value, (list, tuple, set, frozenset)):
            return ",".join(map(str, value))
        return value

    @field_validator("redact", "handover_key", mode="after")
    @classmethod
    def _no_gaps(cls, value: str | None) -> str | None:
        parts = _parts(value)
        if any(parts) and not all(parts):
            raise ValueError("one of the comma-separated values is empty")
        return value

    @field_validator("handover_key", mode="after")
    @classmethod
    def _long_keys(cls, value: str | None) -> str | None:
        check_keys([part for part in _parts(value) if part])
        return value

    @field_validator("journal_dir", "price_file", mode="before")
    @classmethod
    def _path_or_none(cls, value: object) -> object:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("table", "db_schema", mode="after")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not _IDENTIFIER.fullmatch(value):
            raise ValueError("must be at most 40 letters, digits and underscores, and not begin with a digit")
        return value

    @model_validator(mode="after")
    def _schema_needs_postgresql(self) -> Settings:
        if self.db_schema is not None and not self.is_postgresql:
            raise ConfigError("LLMCTX_DB_SCHEMA is set, but SQLite has no schemas. Unset it, or use PostgreSQL.")
        return self

    @property
    def version_table(self) -> str:
        """Return the name of Alembic's version table. A table of another name has a version of its own."""
        return "llmctx_alembic_version" + ("" if self.table == DEFAULT_TABLE else f"_{self.table}")

    @property
    def is_postgresql(self) -> bool:
        return self.database_url.startswith("postgresql")

    @property
    def transport_url(self) -> TransportUrl | None:
        """Return `transport`, taken apart."""
        return None if self.transport is None else parse_transport(self.transport)

    @property
    def redact_kinds(self) -> tuple[str, ...] | None:
        """Return the kinds of `redact`."""
        return None if self.redact is None else tuple(filter(None, _parts(self.redact)))

    @property
    def journal_key(self) -> str:
        """Return the name of the directory for the journals: of rows that go to the transport, or else to this
        database's table. It shows no user or password."""
        transport = self.transport_url
        return self.database_key if transport is None else transport.journal_key

    @property
    def database_key(self) -> str:
        """Return a fingerprint of this database's table."""
        return _fingerprint(self)

    @property
    def journal_directories(self) -> tuple[Path, ...]:
        """Return the directories for the journals of rows that go where these go, best first."""
        return self.journal_directories_of(self.journal_key)

    def journal_directories_of(self, key: str) -> tuple[Path, ...]:
        """Return the directories for the journals of the destination with this key, best first."""
        return journal_paths.directories(self.journal_dir, key)

    def journal_roots(self, key: str | None = None) -> tuple[Path, ...]:
        """Return the directories of journals that lie on this host, of whatever destination; first those of `key`."""
        return journal_paths.roots(self.journal_dir, key or self.journal_key)

    def __repr_args__(self) -> Any:
        yield "database_url", shown_url(self.database_url)
        if (transport := self.transport_url) is not None:
            yield "transport", transport.shown
        yield from super().__repr_args__()


def _parts(value: str | None) -> list[str]:
    """Return what stands between the commas of `value`."""
    return [part.strip() for part in (value or "").split(",")]


def _fingerprint(settings: Settings) -> str:
    """Hash what identifies the table, and nothing that is rotated, such as user and password."""
    from sqlalchemy.engine import make_url

    url = make_url(settings.database_url)
    where: tuple[object, ...] = (url.host, url.port, url.query.get("host"), url.query.get("port"), url.database)
    if not settings.is_postgresql:
        where = (url.database if str(url.database).startswith("file:") else os.path.realpath(str(url.database)),)
    name = repr((url.get_backend_name(), *where, settings.db_schema, settings.table))
    return hashlib.sha256(name.encode()).hexdigest()[:16]
