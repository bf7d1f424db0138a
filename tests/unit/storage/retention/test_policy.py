"""Rules of retention that contradict each other are refused; settings become rules."""

from __future__ import annotations

import pytest

from llmctx.core.errors import ConfigError
from llmctx.settings import load
from llmctx.storage.retention.policy import Policy


def test_what_makes_no_sense_is_refused() -> None:
    """Errors cannot go before the others."""
    with pytest.raises(ConfigError):
        Policy(errors=3)
    with pytest.raises(ConfigError):
        Policy(rows=30, errors=3)


def test_settings_become_rules() -> None:
    """Each `retain_…_days` is one."""
    settings = load(retain_days=90, retain_snapshot_days=30, retain_error_days=120)
    assert Policy.from_settings(settings) == Policy(rows=90, snapshots=30, errors=120)
    assert Policy.from_settings(load()) == Policy()
