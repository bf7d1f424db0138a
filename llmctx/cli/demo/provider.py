"""A small LLM provider on loopback: OpenAI's and Anthropic's protocol, plain, streamed, tools, errors, usage.

It is also the demo's independent record: each request is logged first, with the patient and visit that a marker in the
prompt names, whatever the recorders write. With a real
service behind it (`--upstream`) it passes requests on, and still keeps that log.

    python -m llmctx.cli.demo.provider [--speed 10] [--upstream https://api.openai.com/v1]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmctx.cli.demo import answers
from llmctx.cli.demo import provider_protocol as wire
from llmctx.cli.demo.provider_protocol import ChatRequest, Reply

FAULT: Final = re.compile(r"\[fault (openai|anthropic) (\d{3})\]")
"""In a question: makes this provider answer with this error."""
NO_HURRY: Final = "Take your time."
"""In a question: every call but the intent's takes half a minute, for clients that hang up or stop."""
NO_HURRY_S: Final = 30.0
FIRST_TOKEN: Final = 0.4
"""Share of a stream's time that passes before its first token."""


class Provider:
    """The log, the clock and the three endpoints."""

    def __init__(self, speed: float = 10.0, upstream: str | None = None) -> None:
        self.speed = speed
        self.upstream = upstream
        self.log: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._ids = itertools.count(1)
        self._seen_systems: set[str] = set()
        self._client: httpx.AsyncClient | None = None

    def app(self) -> Starlette:
        """Return the ASGI application. `{run}` in the paths separates the logs of the two runs."""
        return Starlette(
            routes=[
                Route("/{run}/v1/chat/completions", self.openai, methods=["POST"]),
                Route("/{run}/v1/messages", self.anthropic, methods=["POST"]),
                Route("/{run}/log", self.read_log),
                Route("/{run}/seen", self.seen),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        if self.upstream is None:
            yield
            return
        async with httpx.AsyncClient(timeout=120) as self._client:
            yield

    # -- the two wire forms

    async def openai(self, request: Request) -> Response:
        """POST /{run}/v1/chat/completions"""
        body = await request.json()
        asked = wire.read_openai(body)
        entry = self._note(request, asked, "openai")
        if status := self._fault(asked, "openai"):
            return self._fail(entry, status, wire.openai_error(status))
        if self.upstream is not None:
            return await self._pass_on(request, entry)
        reply = self._reply(asked)
        if asked.stream:
            return self._stream(entry, asked, wire.openai_events(reply, asked.usage_in_stream), len(reply.text))
        return await self._plain(request, entry, asked, lambda: wire.openai_body(reply))

    async def anthropic(self, request: Request) -> Response:
        """POST /{run}/v1/messages"""
        asked = wire.read_anthropic(await request.json())
        entry = self._note(request, asked, "anthropic")
        if status := self._fault(asked, "anthropic"):
            return self._fail(entry, status, wire.anthropic_error(status))
        reply = self._reply(asked)
        if asked.stream:
            return self._stream(entry, asked, wire.anthropic_events(reply), len(reply.text))
        return await self._plain(request, entry, asked, lambda: wire.anthropic_body(reply))

    # -- the log

    def _note(self, request: Request, asked: ChatRequest, api: str) -> dict[str, Any]:
        patient, visit = asked.truth or (None, None)
        entry = {
            "run": request.path_params["run"],
            "patient": patient,
            "visit": visit,
            "task": asked.task,
            "api": api,
            "model": asked.model,
            "stream": asked.stream,
            "status": 200,
            "outcome": "open",
        }
        self.log.append(entry)
        self._changed.set()
        return entry

    async def read_log(self, request: Request) -> Response:
        """GET /{run}/log: every request of that run, oldest first."""
        return JSONResponse([entry for entry in self.log if entry["run"] == request.path_params["run"]])

    async def seen(self, request: Request) -> Response:
        """GET /{run}/seen?visit=…&task=…: answer as soon as such a request has arrived, 404 after ten seconds."""
        wanted = {"run": request.path_params["run"], **request.query_params}
        try:
            async with asyncio.timeout(10):
                while not any(wanted.items() <= entry.items() for entry in self.log):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return JSONResponse({"seen": False}, 404)
        return JSONResponse({"seen": True})

    # -- how an answer is made, and how long it takes

    def _reply(self, asked: ChatRequest) -> Reply:
        tool = (asked.tool["name"], answers.arguments(asked.tool["schema"])) if asked.tool else None
        text = "" if tool else answers.answer(asked)
        system_tokens = _tokens(asked.system)
        # What every conversation begins with comes from the provider's cache from the second time on.
        cached = system_tokens if asked.system in self._seen_systems else 0
        self._seen_systems.add(asked.system)
        return Reply(
            id=f"demo{next(self._ids):06}",
            model=asked.model,
            text=text,
            tool=tool,
            prompt_tokens=system_tokens + sum(map(_tokens, asked.texts)),
            completion_tokens=_tokens(text) + (12 if tool else 0),
            cached_tokens=cached,
        )

    def _seconds(self, asked: ChatRequest) -> float:
        """0.2 to 2 s, the same each time for the same prompt, divided by the speed."""
        if NO_HURRY in asked.question and asked.task != "intent":
            return NO_HURRY_S
        prompt = "\n".join((asked.task or "", *asked.texts))
        return (0.2 + 1.8 * (zlib.crc32(prompt.encode()) % 1000) / 1000) / self.speed

    def _fault(self, asked: ChatRequest, api: str) -> int | None:
        found = FAULT.search(asked.question)
        return int(found[2]) if found and found[1] == api and asked.task != "intent" else None

    def _fail(self, entry: dict[str, Any], status: int, body: dict[str, Any]) -> Response:
        entry.update(status=status, outcome="error")
        return JSONResponse(body, status, {"retry-after": "1"} if status == 429 else None)

    async def _plain(
        self, request: Request, entry: dict[str, Any], asked: ChatRequest, body: Callable[[], dict[str, Any]]
    ) -> Response:
        if await _gone_within(request, self._seconds(asked)):
            entry["outcome"] = "gone"
            return Response(status_code=499)
        entry["outcome"] = "complete"
        return JSONResponse(body())

    def _stream(self, entry: dict[str, Any], asked: ChatRequest, events: Iterator[str], length: int) -> Response:
        seconds = self._seconds(asked)
        between = seconds * (1 - FIRST_TOKEN) / max(1, length // 5)

        async def body() -> AsyncIterator[str]:
            try:
                await asyncio.sleep(seconds * FIRST_TOKEN)
                *most, last = events
                for event in most:
                    yield event
                    await asyncio.sleep(between)
                entry["outcome"] = "complete"  # now: clients hang up as soon as they have the last one
                yield last
            finally:
                if entry["outcome"] == "open":
                    entry["outcome"] = "gone"

        return StreamingResponse(body(), media_type="text/event-stream")

    async def _pass_on(self, request: Request, entry: dict[str, Any]) -> Response:
        """Forward the request to the real service, and stream its answer."""
        assert self._client is not None
        headers = {"authorization": request.headers.get("authorization", ""), "content-type": "application/json"}
        url = f"{str(self.upstream).rstrip('/')}/chat/completions"
        ask = self._client.build_request("POST", url, content=await request.body(), headers=headers)
        try:
            answer = await self._client.send(ask, stream=True)
        except httpx.HTTPError as problem:
            error = {"message": f"{type(problem).__name__}: {problem}", "type": "upstream", "param": None, "code": None}
            return self._fail(entry, 502, {"error": error})
        entry.update(status=answer.status_code, outcome="gone")

        async def passed_on() -> AsyncIterator[bytes]:
            try:
                # aiter_bytes has undone any compression: the headers that speak of it stay behind
                async for some in answer.aiter_bytes():
                    if b"[DONE]" in some:
                        entry["outcome"] = "complete"
                    yield some
                entry["outcome"] = "complete"
            finally:
                await answer.aclose()

        return StreamingResponse(passed_on(), answer.status_code, media_type=answer.headers.get("content-type"))


async def _gone_within(request: Request, seconds: float) -> bool:
    """Wait; True as soon as the client has hung up."""
    hung_up = asyncio.ensure_future(request.receive())
    try:
        done, _ = await asyncio.wait({hung_up}, timeout=seconds)
        return bool(done)
    finally:
        hung_up.cancel()


def _tokens(text: str) -> int:
    """Estimate a tokenizer's count: four characters a token, one in Chinese."""
    chinese = sum("\u4e00" <= char <= "\u9fff" for char in text)
    return chinese + (len(text) - chinese + 3) // 4


def main() -> None:
    """Serve until the parent goes."""
    from llmctx.cli.demo.serve import serve

    parser = argparse.ArgumentParser()
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--upstream")
    args = parser.parse_args()
    serve(Provider(args.speed, args.upstream).app(), "provider")


if __name__ == "__main__":
    main()
