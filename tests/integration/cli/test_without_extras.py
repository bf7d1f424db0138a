"""Every command works, or says what to install, where no extra of llmctx but `cli` is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
WITHOUT = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

class Finder:
    absent = "nats nkeys zstandard redis prometheus_client opentelemetry".split()
    absent += "pyarrow jinja2 uvicorn re2 genai_prices".split()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in cls.absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from llmctx import cli

said = {}
for line in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = cli.run(line.split())
    said[line] = [code, out.getvalue()]
print(json.dumps(said))
"""
WORKS = (
    "migrate --yes", "journal", "journal --json", "journal replay", "journal replay --yes", "erase --user ann",
    "erase --user ann --yes", "export --user ann", "calls", "stats", "coverage", "sessions", "users", "doctor",
    "rollup", "recompute --all", "migrate check",
)  # fmt: skip
NEEDS = ("ship", "migrate --transport", "journal", "doctor")
"""With a broker set."""


def _said(url: str, lines: tuple[str, ...], **more: str) -> dict[str, tuple[int, str]]:
    environment = {"PATH": "/usr/bin:/bin", "LLMCTX_DATABASE_URL": url, "COLUMNS": "200", **more}
    run = [sys.executable, "-c", WITHOUT, *lines]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=True)
    return {line: (code, text) for line, (code, text) in json.loads(done.stdout).items()}


def test_without_a_broker(tmp_path: Path) -> None:
    said = _said(f"sqlite+aiosqlite:///{tmp_path}/calls.db", WORKS, LLMCTX_JOURNAL_DIR=str(tmp_path / "journal"))
    assert {line: text for line, (_, text) in said.items() if "should not happen" in text or "No module" in text} == {}
    assert {line: code for line, (code, _) in said.items() if code and line != "doctor"} == {}


def test_with_a_broker_whose_packages_are_missing(tmp_path: Path) -> None:
    """What needs them says so, and what does not need them works."""
    said = _said(
        f"sqlite+aiosqlite:///{tmp_path}/calls.db", NEEDS,
        LLMCTX_JOURNAL_DIR=str(tmp_path / "journal"), LLMCTX_TRANSPORT="nats://127.0.0.1:1",
    )  # fmt: skip
    assert [line for line, (_, text) in said.items() if 'pip install "llmctx[nats]"' not in text] == []
    assert [line for line, (_, text) in said.items() if "should not happen" in text] == []
