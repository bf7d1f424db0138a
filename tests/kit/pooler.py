"""A pooler in transaction mode, as pgbouncer is one: each transaction goes to another server connection.

So what belongs to a connection is lost between two transactions, named prepared statements above all. It stands where
no pgbouncer is installed, is a unix socket in a directory of its own, and expects a server that asks for no password.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from tests.kit.databases import by_way_of

_PROTOCOL: Final = 196_608  # 3.0
_SSL, _GSS = 80_877_103, 80_877_104
_KNOWN: Final = {"user", "database", "application_name", "client_encoding", "datestyle", "timezone", "options"}
"""What a client may ask for when it connects; pgbouncer refuses all else, for the next server would not know it."""
_ANSWERED: Final = (b"Q", b"S")  # a statement, a Sync: the server says in the end that it is ready
_BYE: Final = b"X"
_READY: Final = b"Z"
_IDLE: Final = b"I"
_NOBODYS_KEY: Final = b"K" + struct.pack("!iii", 12, 2**31 - 1, 0)  # what clients are told instead of a server's pid
_Message = tuple[bytes, bytes]
"""Its kind, and all of it."""
_Said = asyncio.Queue[_Message | None]


class _Server:
    """A connection to PostgreSQL, and what it said when it was opened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = b""


class Pooler:
    """Open `servers` connections, for any number of clients. `url` leads through it."""

    def __init__(self, url: str, servers: int) -> None:
        self._target = make_url(url)
        self._folder = Path(tempfile.mkdtemp(prefix="pooler-", dir="/tmp"))
        self._count = servers
        self._free: asyncio.Queue[_Server] = asyncio.Queue()  # first in, first out: so each transaction goes to another
        self._servers: list[_Server] = []
        self._listener: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._greeting = b""

    @property
    def url(self) -> str:
        return by_way_of(self._target, host=str(self._folder), port="6432")

    async def open(self) -> None:
        for _ in range(self._count):
            server = await self._connect()
            self._greeting = server.greeting
            self._free.put_nowait(server)
        self._listener = await asyncio.start_unix_server(self._join, str(self._folder / ".s.PGSQL.6432"))

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
        for server in self._servers:
            server.writer.transport.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _connect(self) -> _Server:
        host = self._target.query.get("host") or self._target.host or "localhost"
        port = self._target.query.get("port") or self._target.port or 5432
        assert isinstance(host, str)
        if host.startswith("/"):
            server = _Server(*await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}"))
        else:
            server = _Server(*await asyncio.open_connection(host, int(str(port))))
        self._servers.append(server)
        asked = {"user": self._target.username or "", "database": self._target.database or ""}
        words = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in asked.items()) + b"\0"
        server.writer.write(struct.pack("!ii", len(words) + 8, _PROTOCOL) + words)
        while True:
            kind, message = await _message(server.reader)
            assert kind != b"E", message
            assert kind != b"R" or message[5:9] == b"\0\0\0\0", "the server asks for a password"
            server.greeting += _NOBODYS_KEY if kind == b"K" else message
            if kind == _READY:
                return server

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with contextlib.suppress(ConnectionError, EOFError, asyncio.CancelledError):
                if await self._greeted(reader, writer):
                    await self._serve(reader, writer)
        finally:
            self._clients.discard(task)
            writer.transport.abort()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            words = (await reader.readexactly(length - 8)).split(b"\0")
            if code not in (_SSL, _GSS):
                break
            writer.write(b"N")
        unknown = [name.decode() for name in words[:-2:2] if name.decode().lower() not in _KNOWN]
        if unknown:
            fields = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0".encode()
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            await writer.drain()
            return False
        writer.write(self._greeting)
        return code == _PROTOCOL  # a request to cancel something is none

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said: _Said = asyncio.Queue()
        listening = asyncio.create_task(_listen(reader, said))
        try:
            while (first := await said.get()) is not None:
                async with self._lent() as server:
                    await _transaction(first, server, said, writer)
        finally:
            listening.cancel()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[_Server]:
        """A server for one transaction. One that is left in the middle of it is replaced."""
        server = await self._free.get()
        try:
            yield server
        except BaseException:
            server.writer.transport.abort()
            self._free.put_nowait(await self._connect())
            raise
        self._free.put_nowait(server)


async def _message(reader: asyncio.StreamReader) -> _Message:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def _listen(reader: asyncio.StreamReader, said: _Said) -> None:
    """Put what a client says into `said`, and None when it leaves."""
    with contextlib.suppress(ConnectionError, EOFError):
        while (message := await _message(reader))[0] != _BYE:
            said.put_nowait(message)
    said.put_nowait(None)


async def _transaction(first: _Message, server: _Server, said: _Said, writer: asyncio.StreamWriter) -> None:
    """Carry messages both ways until the server has answered everything, and no transaction is open."""
    unanswered = 0
    message: _Message | None = first
    answering = asyncio.create_task(_message(server.reader))
    try:
        while True:
            while message is not None:
                unanswered += message[0] in _ANSWERED
                server.writer.write(message[1])
                message = None if said.empty() else said.get_nowait()
            listening = asyncio.create_task(said.get())
            await asyncio.wait({listening, answering}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                message = listening.result()
                if message is None:
                    raise EOFError  # in the middle of a transaction
                continue
            listening.cancel()
            kind, answer = answering.result()
            writer.write(answer)
            if kind == _READY:
                unanswered -= 1
                if not unanswered and answer[5:6] == _IDLE:
                    return
            answering = asyncio.create_task(_message(server.reader))
    finally:
        answering.cancel()
