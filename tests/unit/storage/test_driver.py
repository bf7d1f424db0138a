"""What asyncpg makes of a URL, before it connects."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from pathlib import Path

import asyncpg
import pytest

from llmctx.core.errors import ConfigError, DatabaseUnavailable
from llmctx.settings import load
from llmctx.storage.engine import read_connection

KNOWS_SERVICES = "service" in inspect.signature(asyncpg.connect).parameters
UNKNOWN = r"LLMCTX_DATABASE_URL has a parameter that asyncpg does not know.*'service'"
"""What is said with an asyncpg that knows no services yet."""


@pytest.mark.parametrize("text", [None, "", "[shop]\nhost=nowhere.invalid\n"], ids=["no file", "empty", "another"])
async def test_a_service_that_is_not_there_is_named(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq refuses it as well; asyncpg alone would connect to the default host."""
    file = tmp_path / "services"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    named = r"there is no service 'shp' in the service file" if KNOWS_SERVICES else UNKNOWN
    with pytest.raises(ConfigError, match=named):
        async with read_connection(load(database_url="postgresql://?service=shp")):
            pass


@pytest.mark.parametrize(
    ("url", "otherwise"), [("postgresql:///?service=shop", UNKNOWN), ("postgresql:///shop", "localhost")]
)
async def test_a_service_says_where_the_database_is(
    url: str, otherwise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in the URL or by PGSERVICE."""
    (tmp_path / "services").write_text("[shop]\nhost=nowhere.invalid\nport=6432\ndbname=shop\nuser=app\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "shop")
    monkeypatch.setenv("PGUSER", "app")
    settings = load(database_url=url)
    said = r"Name or service not known|nodename|resolution" if KNOWS_SERVICES else otherwise
    kind = ConfigError if said == UNKNOWN else DatabaseUnavailable
    with pytest.raises(kind, match=said):
        async with read_connection(settings):
            pass


async def test_certificates_in_a_home_that_may_not_be_read_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, but what it starts as another user has its HOME."""
    (tmp_path / ".postgresql").mkdir()
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (tmp_path / ".postgresql" / name).write_text("rubbish")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for mode in ("prefer", "require"):
        with pytest.raises(DatabaseUnavailable):
            async with read_connection(load(database_url=f"postgresql://app@nowhere.invalid/shop?sslmode={mode}")):
                pass


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("rubbish", "no certificate or crl found")])
async def test_a_file_of_certificates_that_cannot_be_used_is_told_from_a_server_that_is_away(
    text: str | None, said: str, tmp_path: Path
) -> None:
    """Python's own error does not say of which file it speaks."""
    file = tmp_path / "root.crt"
    if text is not None:
        file.write_text(text)
    url = f"postgresql://app@nowhere.invalid/shop?sslmode=verify-full&sslrootcert={file}"
    with pytest.raises(ConfigError, match=rf"a file of certificates or keys: .*{said}"):
        async with read_connection(load(database_url=url)):
            pass


async def test_a_dead_first_address_does_not_keep_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with an IPv6 address that leads nowhere, or with the address of a server that is gone."""
    asked = asyncio.Event()
    with socket.create_server(("127.0.0.2", 0), backlog=0) as dead:
        port = dead.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # what the kernel still accepts: the next is not answered
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(dead.getsockname())
        server = await asyncio.start_server(lambda _, writer: (asked.set(), writer.close()), "127.0.0.1", port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        try:
            with pytest.raises(DatabaseUnavailable):  # the server says nothing that PostgreSQL would
                async with read_connection(load(database_url=f"postgresql://app@shop.invalid:{port}/shop")):
                    pass
            assert asked.is_set()
        finally:
            server.close()
            for one in waiting:
                one.close()
