"""Users of a server of LangGraph's agent protocol, by the client that people use; all say that they are the victim."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langgraph_sdk import get_client

from tests.platforms.server import Server

APPLICATION = Path(__file__).parent / "application"
GRAPHS = ("wrapped", "plain", "factory")
VICTIM = {"identity": "victim", "is_authenticated": True}
NAMES = {
    "user_id": "victim",
    "llmctx_user_id": "victim",
    "langgraph_auth_user": VICTIM,
    "langgraph_auth_user_id": "victim",
}
FLAT = {"llmctx_user_id": "victim", "user_id": "victim"}
IN_METADATA = {**FLAT, "llmctx": {"user_id": "victim"}}

Calls = Counter[tuple[str, str]]


class Client:
    """One user of the server."""

    def __init__(self, server: Server, user: str, calls: Calls) -> None:
        self.user, self.calls = user, calls
        self.client = get_client(url=server.url, headers={"x-user": user})

    def input_of(self, *words: str) -> dict[str, Any]:
        prompt = " ".join((self.user, *words))
        self.calls[prompt, self.user] += 1
        return {"messages": [{"role": "user", "content": prompt}]}

    async def use(self, graph: str, when: str, *, is_stateless: bool) -> None:
        """Run `graph` in each of the ways that the client has, and say in each place that one is the victim."""
        runs = self.client.runs
        thread = (await self.client.threads.create(metadata=IN_METADATA))["thread_id"]
        config: Any = {"configurable": NAMES, "metadata": IN_METADATA}
        await runs.wait(thread, graph, input=self.input_of(thread, "wait", when), config=config)
        async for _ in runs.stream(
            thread, graph, input=self.input_of(thread, "stream", when), stream_mode=["messages-tuple"], context=NAMES
        ):
            pass
        run = await runs.create(thread, graph, input=self.input_of(thread, "background", when), metadata=FLAT)
        await runs.join(thread, run["run_id"])
        if is_stateless:
            await runs.wait(None, graph, input=self.input_of("stateless", graph, when))


async def drive(
    server: Server, calls: Calls, users: int, when: str, graphs: Sequence[str] = GRAPHS, *, is_stateless: bool = True
) -> None:
    """Let so many users run each of `graphs` in all ways at once; without a thread as well if the server can."""
    clients = [Client(server, f"u{number}", calls) for number in range(users)]
    await asyncio.gather(
        *(client.use(graph, when, is_stateless=is_stateless) for client in clients for graph in graphs)
    )


async def use_an_assistant(server: Server, calls: Calls) -> None:
    """Use an assistant that somebody has configured to name the victim."""
    client = Client(server, "u0", calls)
    assistant = await client.client.assistants.create(
        "plain", config={"configurable": {"user_id": "victim"}}, metadata=IN_METADATA
    )
    await client.client.runs.wait(None, assistant["assistant_id"], input=client.input_of("assistant"))
