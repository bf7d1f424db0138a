"""ARCHITECTURE.md leads to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:llmctx|tests|alembic)/[\w./]*)`", TEXT))))
def test_every_path_of_architecture_md_exists(path: str) -> None:
    """A newcomer who follows a row of the table finds the file."""
    assert (ROOT / path).exists()


def test_every_module_of_the_picture_exists() -> None:
    """The way of a call names files below llmctx/."""
    picture = TEXT.split("```")[1]
    modules = set(re.findall(r"[a-z_]+/[\w/]*\.py|\b(?:middleware|registry_lookup)\.py", picture))
    places = (ROOT / "llmctx", ROOT / "llmctx/delivery")
    assert [one for one in modules if not any((place / one).exists() for place in places)] == []
