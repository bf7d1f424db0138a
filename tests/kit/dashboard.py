"""A table with calls of every kind, and the dashboard over it, mounted as an application would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.routing import Mount

from llmctx.calllog import CallLog
from llmctx.dashboard import Access, Dashboard
from llmctx.dashboard.pages import PAGES
from llmctx.settings import load
from llmctx.storage.engine import engine
from tests.kit.calls import TABLE, row

PREFIX: Final = "/admin/llm"
EVERYTHING: Final = Access("ada@example.org", texts=True, export=True)
HOSTILE: Final = {
    "markup": "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "escapes": "\x1b[31mred\x1b]0;title\x07",
    "long": "x" * 10_000,
    "right to left": "\u202eabc\u202c مرحبا שלום",
    "path": "../../a/b?c=d&e#f%2F.json",
    "chinese": "用户-张三 🦙",
    "formula": "=HYPERLINK(A1)",
    "half a character": '"\\ud800"',
    "blank": "\u2028",
}
OF_ONE: Final = {"session": "s-1", "user": "ada", "call": str(row(1)["call_id"]), "trace": "a" * 32}
FOREIGN: Final = {"session": "s-2", "user": "bob", "call": str(row(2)["call_id"]), "trace": "b" * 32}


def calls() -> list[dict[str, Any]]:
    """Return rows of the last half hour: two users, one without, errors, and ids and texts that attack the page."""
    now = datetime.now(UTC)
    history = [{"role": "system", "content": "Be brief."}, {"role": "human", "content": "secret question of ada"}]
    usual = {
        "agent_key": "triage", "node": "ask", "provider": "openai", "prompt_tokens": 10, "completion_tokens": 5,
        "total_tokens": 15, "cost_usd": Decimal("0.01"), "prompt_snapshot": json.dumps(history),
        "response_snapshot": json.dumps({"role": "ai", "content": "secret answer"}),
    }  # fmt: skip
    nobody = {"user_id": None, "session_id": None, "identity_source": "none", "identity_reason": "no_scope"}
    failed = {
        "success": False, "status": "error", "error_code": "RateLimitError", "error_message": "secret 429",
        "response_snapshot": None,
    }  # fmt: skip
    rows = [
        row(1, **usual, attributes={"seed": 2**70}, trace_id=OF_ONE["trace"], span_id="1" * 16),
        row(
            2, **{**usual, "session_id": "s-2", "user_id": "bob", "agent_key": "booking", "trace_id": FOREIGN["trace"]}
        ),
        row(3, **usual, **nobody),
        row(4, **{**usual, **failed}, trace_id=OF_ONE["trace"], span_id="4" * 16),
        row(5, model="unpriced", prompt_tokens=3),
    ]
    for number, (name, text) in enumerate(HOSTILE.items(), 6):
        said = {"prompt_snapshot": json.dumps([{"role": "human", "content": text}]), "response_snapshot": text}
        ids = {"session_id": text[:2000], "user_id": f"{name}{text}"[:2000], "node": text[:200]}
        rows.append(row(number, **{**usual, **said, **ids}))
    rows.append(row(20, **dict.fromkeys(("session_id", "user_id", "status", "latency_ms", "identity_source"))))
    return [{**one, "created_at": now - timedelta(minutes=30 - number)} for number, one in enumerate(rows)]


def fill(url: str) -> None:
    """Put `calls()` into the table of the database."""

    async def insert() -> None:
        source = engine(load(database_url=url))
        async with source.begin() as connection:
            await connection.execute(TABLE.insert(), calls())
        await source.dispose()

    asyncio.run(insert())


def application(url: str, access: Access | None = EVERYTHING, **options: Any) -> Starlette:
    """Return an application with the dashboard under `PREFIX`, whose every reader has `access`."""
    dashboard = Dashboard(CallLog(url), authorize=lambda _: access, **options)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await dashboard.aclose()

    return Starlette(routes=[Mount(PREFIX, dashboard)], lifespan=lifespan)


def path(page: str, form: str = "", **query: str) -> str:
    """Return the path of a page, in a form such as `.json`."""
    return f"{PREFIX}/{page}{form}" + (f"?{urlencode(query)}" if query else "")


def every_page(ids: dict[str, str] = OF_ONE) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each page with what its query needs."""
    for page in PAGES:
        yield page, {"id": ids[page]} if page in ids else {}
