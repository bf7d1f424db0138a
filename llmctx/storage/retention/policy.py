"""The rules of retention: for how many days rows, errors and texts are kept. `retention.py` carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from llmctx.core.errors import ConfigError
from llmctx.core.text import counted
from llmctx.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """For how many days what is kept; None is for ever."""

    rows: int | None = None
    snapshots: int | None = None
    errors: int | None = None
    """At least as long as rows; None is as long."""
    ahead: int = 2
    """Months for which partitions are made beforehand, after the present one."""
    detach: bool = False
    """Expired partitions become tables of their own instead of being dropped."""
    exact: bool = False
    """Also of a month that has not expired as a whole, the days that have."""

    def __post_init__(self) -> None:
        if self.errors is not None and self.rows is None:
            raise ConfigError("Errors cannot expire while rows do not: set how long rows are kept as well.")
        if self.errors is not None and self.rows is not None and self.errors < self.rows:
            raise ConfigError(
                f"Errors ({counted(self.errors, 'day')}) cannot be kept for less than rows "
                f"({counted(self.rows, 'day')})."
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> Policy:
        return cls(
            rows=settings.retain_days, snapshots=settings.retain_snapshot_days, errors=settings.retain_error_days
        )
