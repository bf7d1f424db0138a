"""A column is declared once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_line_in_the_record_is_a_column_everywhere(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One of each kind: in the table, the journal, the cleaning, filters, `show`, `export` and `erase`."""
    url = request.getfixturevalue("empty_database" if kind == "postgresql" else "sqlite_url")
    command = [sys.executable, "-m", "tests.kit.more_columns", url, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
