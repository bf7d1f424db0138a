"""The alert rules that are shipped: they are rules, and each fires for its cause and resolves."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llmctx.prometheus import ASSETS
from tests.kit.absent import PROMETHEUS

PROMTOOL = Path(str(PROMETHEUS)).with_name("promtool")


def promtool(*arguments: object) -> str:
    """What promtool says, in the folder of this file."""
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_rules() -> None:
    """By Prometheus's own word."""
    assert "5 rules found" in promtool("check", "rules", ASSETS / "prometheus/alerts.yml")


def test_each_alert_fires_for_its_cause_and_resolves() -> None:
    """Over series of hours, days and a week."""
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
