"""A graph on `langgraph dev` that is a node of a wrapped graph in another process."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.graph import wrap_graph
from tests.kit.rows import query
from tests.platforms.server import Server, command_of, wait_for
from tests.platforms.users import APPLICATION


@pytest.mark.timeout(400)
@pytest.mark.parametrize("key", ["", "a secret of both processes"])
def test_a_remote_graph_is_a_node_of_a_wrapped_one(
    key: str, serve: Callable[..., Server], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invoked and streamed: calls here are the local user's, calls there the user's who has logged in there."""
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    environment = {"LLMCTX_HANDOVER_KEY": key} if key else {}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = [command_of("langgraph"), "dev", "--no-browser", "--no-reload", "--port", "{port}"]
    server = serve(
        command,
        folder=folder,
        health="/ok",
        LANGGRAPH_NO_VERSION_CHECK="true",
        LANGSMITH_TRACING="false",
        **environment,
    )
    monkeypatch.syspath_prepend(str(folder))
    from agent import model  # type: ignore[import-not-found]  # of the application

    async def local(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke("local")]}

    def graph_of(user: str) -> Any:
        builder = StateGraph(MessagesState)
        builder.add_node("local", local)
        builder.add_node("remote", RemoteGraph("wrapped", url=server.url, headers={"x-user": user}))
        builder.add_edge(START, "local")
        builder.add_edge("local", "remote")
        return wrap_graph(builder).compile()

    async def use() -> None:
        async with CallLog(database, journal_dir=str(tmp_path / "client")):
            for user in ("u1", "u2"):
                graph = graph_of(user)
                with bind(user_id=user, session_id=f"s-{user}"):
                    await graph.ainvoke({"messages": [("user", f"invoke {user}")]})
                    async for _ in graph.astream(
                        {"messages": [("user", f"stream {user}")]}, {"configurable": {"thread_id": str(uuid4())}}
                    ):
                        pass

    refused = dict(diagnostics.counts)
    asyncio.run(use())

    def rows() -> list[Any]:
        found = asyncio.run(query(database, "SELECT * FROM biz_agent_llm_call_logs"))
        return found if len(found) == 8 else []

    found = wait_for(rows, "8 rows")
    assert sorted(row.user_id for row in found) == ["u1"] * 4 + ["u2"] * 4
    assert diagnostics.counts == refused
