"""The table stays healthy: partitions in time, what has expired goes, and nobody has to wait for it."""

from __future__ import annotations

import json

import pytest

from llmctx import cli
from llmctx.migrate import commands as migrate
from llmctx.settings import load


def test_on_the_command_line(any_empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A rehearsal unless told otherwise."""
    migrate.upgrade(load(database_url=any_empty_database))

    def llmctx(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.run(["--database-url", any_empty_database, "retain", *arguments]), *capsys.readouterr()

    assert llmctx("--errors", "3")[0] == 2
    code, out, _ = llmctx("--rows", "30", "--ahead", "5")
    assert code == 0
    if any_empty_database.startswith("postgresql"):
        assert out.count("would: make partition") == 3
        assert len(json.loads(llmctx("--ahead", "5", "--yes", "--json")[1])["steps"]) == 3
    assert "Nothing to do" in llmctx("--ahead", "5", "--yes")[2]
