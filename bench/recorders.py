"""What is measured: nothing, a deque, llmctx, and the recorders of others, each as its documentation attaches it.

`worker.py` makes one of them in a process of its own, in the environment that it needs; nothing is imported before.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections import deque
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler


class Recorder:
    """One that does nothing."""

    environment: str | None = None
    """The environment in which it is installed (`make peers`), if that is not ours."""
    packages: tuple[str, ...] = ()
    callbacks: list[Any] | None = None
    """What goes into the config of a call; None for what hears every call by itself."""

    async def drain(self) -> None:
        """Return once everything that was recorded has left the process."""

    async def delivered(self) -> int | None:
        """Return how many complete calls have arrived since it was asked last; None where nothing is to arrive."""
        return None

    def close(self) -> None:
        """End it."""


class DequeHandler(BaseCallbackHandler):
    """Inline, and appends what it gets: the least that a recorder can do."""

    run_inline = True

    def __init__(self, most: int | None = None) -> None:
        self.events: deque[Any] = deque(maxlen=most)

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        self.events.append((told["run_id"], messages, told.get("metadata")))

    def on_llm_end(self, response: Any, **told: Any) -> None:
        self.events.append((told["run_id"], response))


class Deque(Recorder):
    def __init__(self) -> None:
        self._handler = DequeHandler()
        self.callbacks = [self._handler]

    async def drain(self) -> None:
        self._handler.events.clear()


class Llmctx(Recorder):
    """Started, as a user is told to: it hears every call, redacts, and writes into PostgreSQL."""

    packages = ("llmctx",)

    def __init__(self) -> None:
        from llmctx.calllog import CallLog
        from llmctx.settings import load

        self._url = load().database_url.replace("+asyncpg", "")
        self._table = load().table
        self._seen: int | None = None
        self._call_log = CallLog()
        self._call_log.start()

    async def drain(self) -> None:
        await self._call_log.aflush(60)

    async def delivered(self) -> int | None:
        import asyncpg

        connection = await asyncpg.connect(self._url)
        count = await connection.fetchval(f"select count(*) from {self._table} where finished_at is not null")
        await connection.close()
        before, self._seen = self._seen or 0, count
        return int(count - before)

    def close(self) -> None:
        self._call_log.close()


class Peer(Recorder):
    """Sends to `collector.py`."""

    name = ""

    @property
    def url(self) -> str:
        return f"{os.environ['BENCH_COLLECTOR']}/{self.name}"

    async def delivered(self) -> int | None:
        def ask() -> int:
            with urllib.request.urlopen(f"{os.environ['BENCH_COLLECTOR']}/__count/{self.name}", timeout=120) as answer:
                return int(json.load(answer))

        return await asyncio.to_thread(ask)


class LangSmith(Peer):
    name = "langsmith"
    packages = ("langsmith",)

    def __init__(self) -> None:
        from langchain_core.tracers import LangChainTracer
        from langsmith import Client

        self._client = Client(api_url=self.url, api_key="lsv2_none")
        self.callbacks = [LangChainTracer(client=self._client, project_name="bench")]

    async def drain(self) -> None:
        await asyncio.to_thread(self._client.flush)


class Langfuse(Peer):
    name = "langfuse"
    environment = "langfuse"
    packages = ("langfuse",)

    def __init__(self) -> None:
        from langfuse import Langfuse as Client  # type: ignore[import-not-found,unused-ignore]  # in its environment
        from langfuse.langchain import CallbackHandler  # type: ignore[import-not-found,unused-ignore]  # as above

        self._client = Client(public_key="pk-lf-none", secret_key="sk-lf-none", base_url=self.url)
        self.callbacks = [CallbackHandler()]

    async def drain(self) -> None:
        await asyncio.to_thread(self._client.flush)


class OpenTelemetry(Peer):
    """OpenLLMetry's instrumentation of LangChain."""

    name = "opentelemetry"
    environment = "opentelemetry"
    packages = ("opentelemetry-instrumentation-langchain",)

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.langchain import (  # type: ignore[import-not-found,unused-ignore]  # as above
            LangchainInstrumentor,
        )
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{self.url}/v1/traces")))
        LangchainInstrumentor().instrument(tracer_provider=self._provider)

    async def drain(self) -> None:
        await asyncio.to_thread(self._provider.force_flush)


RECORDERS: Final[dict[str, type[Recorder]]] = {
    "none": Recorder,
    "deque": Deque,
    "llmctx": Llmctx,
    "opentelemetry": OpenTelemetry,
    "langsmith": LangSmith,
    "langfuse": Langfuse,
}
