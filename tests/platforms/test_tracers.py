"""Beside the tracers that people have: each sees of the same work what it saw without llmctx, and llmctx sees all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.platforms.server import ROOT

WORK = Path(__file__).parent / "traced.py"
TRACERS = ("otel_threading", "openinference", "langfuse", "sentry", "ddtrace")


def run(*args: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(WORK), *args],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "DD_TRACE_ENABLED": "true",
            "LANGFUSE_HOST": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return seen


@pytest.mark.timeout(500)
def test_each_tracer_sees_what_it_saw_without_llmctx() -> None:
    """All in one process; llmctx starts first, or last."""
    alone = run("without", *TRACERS)
    assert all(alone[tracer] for tracer in TRACERS), alone
    for when in ("first", "last"):
        beside = run(when, *TRACERS)
        rows = beside.pop("rows")
        assert beside == alone
        assert rows == [["u", "s"]] * beside["calls"]
