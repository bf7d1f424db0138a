"""Fixtures of the tests in this folder."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctx.capture import recorder
from llmctx.identity.propagation import threads as carrying
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor import Finding, examine
from llmctx.settings import load
from tests.kit.shop import CALL_LOG, GRAPH, MAIN, MIDDLEWARE, Check, numbers


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Writes an application, examines it, and gives what was found to be wrong with it."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}"
    migrate.upgrade(load(database_url=url))
    before = set(sys.modules)

    def run(
        before: str = "",
        after: str = "",
        *,
        graphs: str = GRAPH,
        call_log: str = CALL_LOG,
        middleware: str = MIDDLEWARE,
        files: dict[str, str] | None = None,
        everything: bool = False,
    ) -> list[Finding]:
        shop = f"shop{next(numbers)}"
        parts = {"BEFORE": before, "AFTER": after, "CALL_LOG": call_log, "MIDDLEWARE": middleware}
        main = textwrap.dedent(MAIN)
        for name, text in parts.items():
            main = main.replace(name, textwrap.dedent(text).strip(), 1)
        root = tmp_path / f"root_of_{shop}"
        for name, text in {"__init__": "", "main": main, "graphs": graphs, **(files or {})}.items():
            file = root / shop / f"{name}.py"
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(textwrap.dedent(text).replace("SHOP", shop), encoding="utf-8")
        monkeypatch.chdir(root)
        monkeypatch.syspath_prepend(root)
        findings = examine(load(database_url=url), app=f"{shop}.main:app")
        assert recorder.active == []
        assert not carrying.is_installed()
        return findings if everything else [finding for finding in findings if not finding.ok]

    yield run
    for name in set(sys.modules) - before:
        if name.startswith("shop"):
            del sys.modules[name]
