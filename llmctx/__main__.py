"""`llmctx`, and `python -m llmctx`. The command line is an extra: without it, one line says how to get it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from llmctx.cli import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        sys.exit('The command line needs two more packages: pip install "llmctx[cli]"')
    except KeyboardInterrupt:  # before anything was begun
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
