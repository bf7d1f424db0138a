"""A way to PostgreSQL that misbehaves on demand: slow, a black hole, cut, refused, or cut just before a reply.

It stands in front of a server on TCP or on a unix socket, and is itself a unix socket in a directory of its own, or a
TCP port. For tests, and for the harness that breaks everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from tests.kit.databases import by_way_of

COMMITS: Final = (b"COMMIT", b"c\x00\x00\x00\x04", b"S\x00\x00\x00\x04")  # the word, the end of a COPY, a Sync
_READY: Final = b"Z\x00\x00\x00\x05I"  # the server has done what it was asked, and no transaction is open
_IN_TRANSACTION: Final = b"Z\x00\x00\x00\x05T"  # so nothing has been committed yet


class Proxy:
    """Closed at first. `url` leads through it once it is open."""

    def __init__(self, url: str, *, tcp: bool = False) -> None:
        target = make_url(url)
        host = target.query.get("host") or target.host or "localhost"
        assert isinstance(host, str)
        self._target: tuple[str, int] = (host, target.port or 5432)
        self._folder = None if tcp else Path(tempfile.mkdtemp(prefix="proxy-", dir="/tmp"))
        self._given = target
        self._port = 0
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        """Cleared: a black hole. What was sent meanwhile is delivered afterwards."""
        self.flowing.set()
        self.swallowing = False
        """A black hole from which nothing comes back: connections that have lost something never say a word again."""
        self.delay_s = 0.0
        self.cut_reply_to: tuple[bytes, ...] = ()
        """The next time the client says one of these, the server hears it, and the client never hears the answer."""
        self.cuts = 0
        self.accepted = 0

    @property
    def url(self) -> str:
        if self._folder is None:
            return self._given.set(host="127.0.0.1", port=self._port, query={}).render_as_string(hide_password=False)
        return by_way_of(self._given, host=str(self._folder))

    async def open(self) -> None:
        if self._folder is None:
            self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._join, str(self._folder / ".s.PGSQL.5432"))

    async def close(self) -> None:
        """Cut all connections, refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._folder is not None:
            (self._folder / ".s.PGSQL.5432").unlink(missing_ok=True)
        for pump in self._pumps:
            pump.cancel()
        self.abort()
        if self._pumps:
            await asyncio.wait(self._pumps)

    def abort(self) -> None:
        """Cut all connections, and take new ones."""
        for stream in list(self._streams):
            stream.transport.abort()
        self._streams.clear()

    async def remove(self) -> None:
        await self.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _join(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        self.accepted += 1
        host, port = self._target
        try:
            if host.startswith("/"):
                theirs, to_them = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                theirs, to_them = await asyncio.open_connection(host, port)
        except OSError:
            out.transport.abort()
            return
        self._streams |= {out, to_them}
        doomed = asyncio.Event()
        for pump in (self._ask(reader, to_them, doomed), self._answer(theirs, out, doomed)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _ask(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        deaf = False
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                await self._hold()
                if self.swallowing or deaf:
                    deaf = True
                    continue
                if any(said in data for said in self.cut_reply_to):
                    self.cut_reply_to = ()
                    doomed.set()
                sink.write(data)
                await sink.drain()
        self._end(sink)

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        kept, deaf = b"", False
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                await self._hold()
                if self.swallowing or deaf:
                    deaf = True
                    continue
                if doomed.is_set():
                    kept += data
                    if kept.endswith(_READY):
                        self.cuts += 1
                        break
                    if not kept.endswith(_IN_TRANSACTION):
                        continue
                    doomed.clear()  # it was no commit: the next one, then
                    self.cut_reply_to = COMMITS
                    data, kept = kept, b""
                sink.write(data)
                await sink.drain()
        self._end(sink)

    async def _hold(self) -> None:
        await self.flowing.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)

    def _end(self, sink: asyncio.StreamWriter) -> None:
        self._streams.discard(sink)
        sink.transport.abort()
