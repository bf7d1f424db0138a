"""`langgraph dev`, driven by its own clients: rows while it runs, after a reload, and after Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.platforms.server import Server, command_of, judge, wait_for
from tests.platforms.users import APPLICATION, Calls, drive, use_an_assistant


@pytest.mark.timeout(400)
def test_with_a_custom_app_and_authentication(serve: Callable[..., Server], database: str, tmp_path: Path) -> None:
    """20 users at once, who say that they are somebody else; graphs wrapped, unwrapped, and made for each run."""
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    server = _dev(serve, folder)
    calls: Calls = Counter()
    asyncio.run(drive(server, calls, 20, "first"))
    asyncio.run(use_an_assistant(server, calls))
    judge(database, calls, patience_s=30)

    process = server.get("/quick?question=quick", **{"x-user": "u1", "x-session": "s1"})["process"]
    calls["quick", "u1"] += 1
    os.utime(folder / "agent.py")
    wait_for(lambda: (server.get("/process") or {"process": process})["process"] != process, "the server reloads")
    asyncio.run(drive(server, calls, 2, "reloaded"))
    judge(database, calls, patience_s=30)

    asyncio.run(drive(server, calls, 2, "last"))
    server.interrupt()
    judge(database, calls)
    assert "BlockingError" not in server.log.read_text()


@pytest.mark.timeout(400)
def test_without_a_custom_app(serve: Callable[..., Server], database: str, tmp_path: Path) -> None:
    """The call log is started where the graphs are defined."""
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    with (folder / "agent.py").open("a") as agent:
        agent.write("\n\nfrom llmctx.calllog import CallLog  # noqa: E402\n\nCallLog().start()\n")
    (folder / "langgraph.json").write_text((folder / "langgraph.json").read_text().replace('"http"', '"unused"'))
    server = _dev(serve, folder)
    calls: Calls = Counter()
    asyncio.run(drive(server, calls, 3, "first"))
    judge(database, calls, patience_s=30)
    asyncio.run(drive(server, calls, 2, "last"))
    server.interrupt()
    judge(database, calls)


def _dev(serve: Callable[..., Server], folder: Path) -> Server:
    command = [command_of("langgraph"), "dev", "--no-browser", "--port", "{port}", "--n-jobs-per-worker", "10"]
    return serve(command, folder=folder, health="/ok", LANGGRAPH_NO_VERSION_CHECK="true", LANGSMITH_TRACING="false")
