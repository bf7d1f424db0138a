"""`langgraph dev`, driven by its own clients: rows while it runs, after a reload, and after Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

from tests.platforms.server import Server, command_of, judge, wait_for

APPLICATION = Path(__file__).parent / "langgraph_dev"
GRAPHS = ("wrapped", "plain", "factory")
VICTIM = {"identity": "victim", "is_authenticated": True}
NAMES = {
    "user_id": "victim",
    "llmctx_user_id": "victim",
    "langgraph_auth_user": VICTIM,
    "langgraph_auth_user_id": "victim",
}
IN_METADATA = {"llmctx_user_id": "victim", "llmctx": {"user_id": "victim"}, "user_id": "victim"}

Calls = Counter[tuple[str, str]]


class Client:
    """One user of the server."""

    def __init__(self, server: Server, user: str, calls: Calls) -> None:
        self.user, self.calls = user, calls
        self.client = get_client(url=server.url, headers={"x-user": user})

    def _input(self, *words: str) -> dict[str, Any]:
        prompt = " ".join((self.user, *words))
        self.calls[prompt, self.user] += 1
        return {"messages": [{"role": "user", "content": prompt}]}

    async def use(self, graph: str, when: str) -> None:
        """Run `graph` in each of the ways that the client has, and say in each place that one is the victim."""
        runs = self.client.runs
        thread = (await self.client.threads.create(metadata=IN_METADATA))["thread_id"]
        config: Any = {"configurable": NAMES, "metadata": IN_METADATA}
        await runs.wait(thread, graph, input=self._input(thread, "wait", when), config=config)
        async for _ in runs.stream(
            thread, graph, input=self._input(thread, "stream", when), stream_mode=["messages-tuple"], context=NAMES
        ):
            pass
        run = await runs.create(thread, graph, input=self._input(thread, "background", when), metadata=IN_METADATA)
        await runs.join(thread, run["run_id"])
        await runs.wait(None, graph, input=self._input("stateless", graph, when))


async def _drive(server: Server, calls: Calls, users: int, when: str) -> None:
    clients = [Client(server, f"u{number}", calls) for number in range(users)]
    await asyncio.gather(*(client.use(graph, when) for client in clients for graph in GRAPHS))


async def _by_an_assistant(server: Server, calls: Calls) -> None:
    """Use an assistant that somebody has configured to name the victim."""
    client = Client(server, "u0", calls)
    assistant = await client.client.assistants.create(
        "plain", config={"configurable": {"user_id": "victim"}}, metadata=IN_METADATA
    )
    await client.client.runs.wait(None, assistant["assistant_id"], input=client._input("assistant"))


@pytest.mark.timeout(400)
def test_with_a_custom_app_and_authentication(serve: Callable[..., Server], database: str, tmp_path: Path) -> None:
    """20 users at once, who say that they are somebody else; graphs wrapped, unwrapped, and made for each run."""
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    server = _dev(serve, folder)
    calls: Calls = Counter()
    asyncio.run(_drive(server, calls, 20, "first"))
    asyncio.run(_by_an_assistant(server, calls))
    judge(database, calls, patience_s=30)

    process = server.get("/quick?question=quick", **{"x-user": "u1", "x-session": "s1"})["process"]
    calls["quick", "u1"] += 1
    os.utime(folder / "agent.py")
    wait_for(lambda: (server.get("/process") or {"process": process})["process"] != process, "the server reloads")
    asyncio.run(_drive(server, calls, 2, "reloaded"))
    judge(database, calls, patience_s=30)

    asyncio.run(_drive(server, calls, 2, "last"))
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
    asyncio.run(_drive(server, calls, 3, "first"))
    judge(database, calls, patience_s=30)
    asyncio.run(_drive(server, calls, 2, "last"))
    server.interrupt()
    judge(database, calls)


def _dev(serve: Callable[..., Server], folder: Path) -> Server:
    command = [command_of("langgraph"), "dev", "--no-browser", "--port", "{port}", "--n-jobs-per-worker", "10"]
    return serve(command, folder=folder, health="/ok", LANGGRAPH_NO_VERSION_CHECK="true", LANGSMITH_TRACING="false")
