"""`python -m tests.packaging.changelog`: the newest version in CHANGELOG.md is the package's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llmctx import __version__


def newest(text: str) -> str | None:
    found = re.search(r"^## \[(\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    return found.group(1) if found else None


def main() -> int:
    version = newest((Path(__file__).resolve().parent.parent.parent / "CHANGELOG.md").read_text(encoding="utf-8"))
    if version != __version__:
        print(f"CHANGELOG.md starts with {version}, llmctx.__version__ is {__version__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
