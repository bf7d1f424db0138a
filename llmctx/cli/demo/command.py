"""`llmctx demo`: see llmctx at work in one minute, without a key and without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctx.cli.options import Json
from llmctx.core.errors import LlmctxError


def demo(
    json: Json = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the database, for `llmctx calls`.")] = False,
    ui: Annotated[bool, typer.Option("--ui", help="Show the calls in the dashboard afterwards, until Ctrl-C.")] = False,
    users: Annotated[int | None, typer.Option("--users", metavar="N", help="Users at once; 20.")] = None,
    speed: Annotated[float, typer.Option("--speed", metavar="F", help="Speed-up over a real model.")] = 10.0,
) -> None:
    """Run a small application with 20 users, before and after llmctx."""
    try:
        from llmctx.cli.demo import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("llmctx"):
            raise
        raise LlmctxError(f'The demo needs {missing.name}: pip install "llmctx[demo]"') from missing
    raise typer.Exit(run(json_output=json, keep=keep, ui=ui, users=users, speed=speed))
