"""The load: all patients at once, over real HTTP and websockets, each with its own order of ways."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from llmctx.cli.demo.scenarios import Way, question, visit_id, ways_of
from llmctx.cli.demo.tokens import token_for

PATIENCE_S: Final = 60.0
CLOSED: Final = (httpx.ReadError, httpx.RemoteProtocolError)


class DriveFailed(Exception):
    """The clinic answered with an error of its own."""


class User:
    """A patient."""

    def __init__(self, patient: str, client: httpx.AsyncClient, provider: str, secret: str) -> None:
        self.patient = patient
        self.client = client
        self.provider = provider
        self.token = token_for(patient, secret)

    async def go(self, way: Way) -> None:
        """Take one way."""
        visit = visit_id(self.patient, way)
        headers = {"authorization": f"Bearer {self.token}", "x-visit": visit}
        said = {"question": question(self.patient, way), "desk": way.desk}
        match way.act:
            case "resume":
                await self._post(way.path, headers, said)
                await self._post("/graph/resume", headers, {"question": "She asks whether to come in."})
            case "work":
                await self._post("/graph", headers, said)
                await self._post(way.path, headers, said)
            case "stream":
                await self._read(way.path, headers, said)
            case "hang_up":
                reading = await self._until_seen(visit, way, self._read(way.path, headers, said))
                reading.cancel()
                await asyncio.wait({reading})
            case "stop":
                waiting = await self._until_seen(visit, way, self._post(way.path, headers, said))
                await self._post("/stop", headers, {})
                await waiting
            case "talk":
                await self._talk(way.path, headers, said["question"])
            case _:
                await self._post(way.path, headers, said)

    async def _post(self, path: str, headers: dict[str, str], body: dict[str, str]) -> None:
        """Post and accept a 500: one way is about a failing provider, and its call must be a row as well."""
        try:
            answer = await self.client.post(path, headers=headers, json=body)
        except CLOSED:
            # The server closed the connection after an error, just as it was used again: every client tries once more.
            answer = await self.client.post(path, headers=headers, json=body)
        if 400 <= answer.status_code < 500:
            raise DriveFailed(f"{path} answered {answer.status_code}")

    async def _read(self, path: str, headers: dict[str, str], body: dict[str, str]) -> None:
        with contextlib.suppress(*CLOSED):  # the provider failed, and the stream breaks off
            async with self.client.stream("POST", path, headers=headers, json=body) as answer:
                async for _ in answer.aiter_raw():
                    pass

    async def _until_seen(self, visit: str, way: Way, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start `doing`, and wait until its call has arrived at the provider.

        Sooner, and it would be a matter of luck whether there is a call to speak of.
        """
        task = asyncio.create_task(doing)
        try:
            await self.client.get(f"{self.provider}/seen", params={"visit": visit, "task": way.tasks[0]})
        except BaseException:
            task.cancel()
            raise
        return task

    async def _talk(self, path: str, headers: dict[str, str], question: str) -> None:
        url = str(self.client.base_url).replace("http://", "ws://", 1).rstrip("/") + path
        async with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE_S) as socket:
            await socket.send(question)
            with contextlib.suppress(ConnectionClosed):  # as above
                await socket.recv()


async def drive(
    clinic: str, provider: str, users: int, secret: str, *, seed: int = 7, step: Callable[[], None]
) -> None:
    """Send `users` patients through their ways, and wait until the clinic has nothing left to do."""
    # httpx may close a connection that has just been given to a request, when it was idle for longer than this.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=None)
    async with httpx.AsyncClient(base_url=clinic, timeout=PATIENCE_S, limits=limits, trust_env=False) as client:

        async def visit(number: int) -> None:
            user = User(f"p-{number:02}", client, provider, secret)
            ways = ways_of(number, users)
            random.Random(f"{seed} {number}").shuffle(ways)
            for way in ways:
                try:
                    await user.go(way)
                except (httpx.HTTPError, OSError) as problem:
                    raise DriveFailed(f"{way.path}: {type(problem).__name__} {problem}".strip()) from problem
                step()

        async with asyncio.TaskGroup() as crowd:
            for number in range(1, users + 1):
                crowd.create_task(visit(number))
        (await client.get("/idle")).raise_for_status()
