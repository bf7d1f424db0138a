"""The "before": the callback handler that most teams write first, and a good one of its kind.

A middleware puts the ids of the request into a ContextVar, an async callback handler reads them when a call starts,
and one session and one INSERT per call write the row when it ends. The application hands the handler on in
`config["callbacks"]`, also to its workers. Ids are read at the start rather than at the end, errors get a row, and the
engine pools no connections, so that it works from any event loop.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from sqlalchemy import DateTime, NullPool
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

TABLE: Final = "textbook_llm_call_logs"

session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
user_id: ContextVar[str | None] = ContextVar("user_id", default=None)


class Base(DeclarativeBase):
    pass


class CallRow(Base):
    __tablename__ = TABLE

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str | None] = mapped_column(index=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    model: Mapped[str | None]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    latency_ms: Mapped[int | None]
    success: Mapped[bool]
    error_message: Mapped[str | None]
    prompt_snapshot: Mapped[str | None]
    response_snapshot: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class NaiveRecorder:
    """The engine, the middleware and the handler, as an application would wire them up."""

    def __init__(self, database_url: str) -> None:
        self._engine = create_async_engine(database_url, poolclass=NullPool)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self.handler = CallLogger(self._sessions)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        try:
            yield
        finally:
            await self._engine.dispose()

    async def remember(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Set the ids of the request while it runs; for `@app.middleware("http")`."""
        if not request.user.is_authenticated:
            return await call_next(request)
        user = user_id.set(request.user.identity)
        session = session_id.set(request.headers.get("x-visit"))
        try:
            return await call_next(request)
        finally:
            session_id.reset(session)
            user_id.reset(user)


class CallLogger(AsyncCallbackHandler):
    """One row per call, written when it ends."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._running: dict[UUID, tuple[CallRow, float]] = {}

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        row = CallRow(
            session_id=session_id.get(),
            user_id=user_id.get(),
            model=kwargs.get("invocation_params", {}).get("model"),
            prompt_snapshot="\n".join(str(message.text) for message in messages[0]),
            created_at=datetime.now(UTC),
        )
        self._running[run_id] = row, time.monotonic()

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        row, started = self._running.pop(run_id)
        generation: Any = response.generations[0][0]
        usage = generation.message.usage_metadata or {}
        row.prompt_tokens = usage.get("input_tokens")
        row.completion_tokens = usage.get("output_tokens")
        row.response_snapshot = generation.text
        await self._write(row, started, success=True)

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        row, started = self._running.pop(run_id)
        row.error_message = str(error)
        await self._write(row, started, success=False)

    async def _write(self, row: CallRow, started: float, *, success: bool) -> None:
        row.success = success
        row.latency_ms = int((time.monotonic() - started) * 1000)
        async with self._sessions() as session:
            session.add(row)
            await session.commit()
