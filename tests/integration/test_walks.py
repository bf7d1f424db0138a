"""How far a reader walks: folders that a call passes, and functions that a migration enters.

Counted are the functions of `llmctx/` and `alembic/` as they are entered, not where a coroutine or a generator goes on.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx
from langgraph.graph import START, MessagesState, StateGraph
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import llmctx
from llmctx import CallContext, cli
from llmctx.calllog import CallLog
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from llmctx.migrate import scripts, upgrade
from tests.kit.support import Talker
from tests.migration.filling import fill

HOMES = {Path(llmctx.__file__).parent: "llmctx", scripts(): "alembic"}
GOES_ON = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@cache
def place_of(code: CodeType) -> tuple[str, int] | None:
    """The folder of a function of ours, and the offset at which it begins."""
    for home, name in HOMES.items():
        if code.co_filename.startswith(f"{home}/") and code.co_name != "<module>":
            folder = Path(code.co_filename).relative_to(home).parts[0] if name == "llmctx" else name
            begins = next(one.offset for one in dis.get_instructions(code) if one.opname == "RESUME")
            return folder, begins
    return None


class Walk:
    """The folders of the functions that are entered while it is `on`, by thread."""

    def __init__(self) -> None:
        self.on = False
        self.entered: dict[int, list[str]] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if not self.on or event != "call" or (place := place_of(code)) is None:
            return
        folder, begins = place
        if not code.co_flags & GOES_ON or frame.f_lasti <= begins:
            self.entered.setdefault(threading.get_ident(), []).append(folder)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow this thread, and those that are started in the block."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @property
    def changes(self) -> int:
        """How often the next function stands in another folder, `core` aside."""
        walks = [[folder for folder in one if folder != "core"] for one in self.entered.values()]
        return sum(here != there for one in walks for here, there in pairwise(one))


async def test_a_call_changes_folder_60_times_at_most(sqlite_url: str) -> None:
    """From the request to its row, in the application's thread and in the pipeline's."""
    await asyncio.to_thread(upgrade, sqlite_url)
    model, builder = Talker(), StateGraph(MessagesState)

    async def talk(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder.add_node("talk", talk)
    builder.add_edge(START, "talk")
    graph = wrap_graph(builder).compile()

    async def endpoint(request: Request) -> PlainTextResponse:
        await graph.ainvoke({"messages": [("user", "hello")]}, {"configurable": {"thread_id": "t-1"}})
        return PlainTextResponse("fine")

    def identify(connection: Any) -> CallContext:
        return CallContext(user_id="u-1", session_id="s-1")

    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(ContextMiddleware, identify=identify)])
    walk = Walk()
    with walk.followed():
        async with (
            CallLog(sqlite_url) as call_log,
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client,
        ):
            await client.get("/")  # what is made once
            await call_log.aflush()
            walk.on = True
            await client.get("/")
            sys.setprofile(None)  # waiting for the row is no part of it
            await call_log.aflush()
            walk.on = False
            assert call_log.stats().written == 2
    assert len(walk.entered) >= 2
    assert walk.changes <= 60


async def test_adopting_a_table_enters_966_functions_at_most(empty_database: str) -> None:
    """`llmctx migrate --yes` on a table that is there: half of what it took at first."""
    await fill(empty_database, "texts", 100)
    walk = Walk()
    arguments = ["--database-url", empty_database, "migrate", "--yes"]
    codes: list[int] = []

    def migrate() -> None:
        walk.on = True
        codes.append(cli.run(arguments))
        walk.on = False

    with walk.followed():
        thread = threading.Thread(target=migrate)
        thread.start()
    thread.join()
    assert codes == [0]
    assert 100 < sum(map(len, walk.entered.values())) <= 966
