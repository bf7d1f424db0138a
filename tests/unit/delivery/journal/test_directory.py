"""The journal's directory belongs to one user, and is no way to anything else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctx.core.errors import JournalUnavailable
from llmctx.delivery.journal import Journal
from tests.kit.journals import record, taken


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Directories 0700, files 0600, whatever the umask and whatever was there."""
    root = tmp_path / "journal"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    before = os.umask(0)
    try:
        one = Journal(root)
        one.append([record()])
        one.dead_letters.append(record(), "22021", "no")
    finally:
        os.umask(before)
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    one.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither for the directory nor inside of it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(JournalUnavailable):
        Journal(tmp_path / "link")
    one = Journal(tmp_path / "journal")
    (one.directory / "1-feed-link").symlink_to(elsewhere)
    trap = one.directory / "1-feed-trap"
    trap.mkdir()
    (trap / "lock").symlink_to(elsewhere / "made")
    assert taken(one) == ([], [])
    assert list(elsewhere.iterdir()) == []
    one.close()


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("x"), lambda path: path.parent.joinpath("d").mkdir()])
def test_a_directory_that_cannot_be_used_says_so(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    """With the name of the directory and what to set."""
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(JournalUnavailable, match="LLMCTX_JOURNAL_DIR"):
        Journal(path)
    with pytest.raises(JournalUnavailable, match="LLMCTX_JOURNAL_DIR"):
        Journal(path / "below")
    with pytest.raises(JournalUnavailable, match="LLMCTX_JOURNAL_DIR"):
        Journal("/proc/llmctx")
