"""Directories of journals: those of a destination, and those of others on this host.

A container may have no home, or one that cannot be written; then the system's temporary directory is used, in which
only a directory of our own is safe.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def directories(journal_dir: str | None, key: str) -> tuple[Path, ...]:
    """Return the directories for the journals of the destination with `key`, best first.

    `journal_dir` is the setting: the one directory of all destinations, or None for this user's.
    """
    if journal_dir is not None:
        with contextlib.suppress(RuntimeError, KeyError):  # `~`, and this user has no home
            return (Path(journal_dir).expanduser() / key,)
        return ()
    found = []
    state = os.environ.get("XDG_STATE_HOME", "")
    with contextlib.suppress(RuntimeError, KeyError):  # this user has no home
        found.append((Path(state) if Path(state).is_absolute() else Path.home() / ".local/state") / "llmctx" / key)
    with contextlib.suppress(OSError):  # no directory is there that could be written
        found.append(Path(tempfile.gettempdir()) / f"llmctx-{_user()}-{key}")
    return tuple(found)


def roots(journal_dir: str | None, key: str) -> tuple[Path, ...]:
    """Return the directories of journals that lie on this host, of whatever destination; first those of `key`."""
    own = directories(journal_dir, key)
    found = dict.fromkeys(own)
    for one in own:
        in_temp = one.name.startswith(f"llmctx-{_user()}-") and journal_dir is None
        with contextlib.suppress(OSError):
            for other in sorted(one.parent.glob(f"llmctx-{_user()}-*" if in_temp else "*")):
                if (other / "quarantine").is_dir():  # each of ours has one
                    found[other] = None
    return tuple(found)


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0  # Windows has no numbers of users
