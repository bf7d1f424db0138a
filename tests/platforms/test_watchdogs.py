"""Beside pytest-socket, which forbids the sockets that a test opens: also those of event loops, of ours as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_socket
from blockbuster import blockbuster_ctx

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of Python 3.12, about what others copy

model = Talker()


@pytest.fixture
def _sockets() -> Iterator[None]:
    yield
    pytest_socket.enable_socket()
    pytest_socket._remove_restrictions()


def _calls(count: int) -> None:
    with bind(session_id="s", user_id="u"):
        for number in range(count):
            model.invoke(f"number {number}")


@pytest.mark.usefixtures("_sockets")
@pytest.mark.parametrize("forbidden", ["from the start", "once it runs", "to other hosts"])
def test_rows_are_written_where_sockets_are_forbidden(forbidden: str, tmp_path: Path) -> None:
    """The application's calls are as ever, and each has its row in the end: at once where the loop could be made
    before, else when sockets are allowed again, or in the next process, from the journal.
    """
    database = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    migrate.upgrade(load(database_url=database))

    def forbid() -> None:
        if forbidden == "to other hosts":
            pytest_socket.socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)
        else:
            pytest_socket.disable_socket()

    call_log = CallLog(database, linger_ms=5, journal_dir=str(tmp_path / "journal"))
    if forbidden == "once it runs":
        call_log.start()
        forbid()
    else:
        forbid()
        call_log.start()
    try:
        _calls(20)
        if forbidden != "from the start":
            assert call_log.flush(30) == 0
    finally:
        call_log.close(timeout=5)
        pytest_socket.enable_socket()
        pytest_socket._remove_restrictions()
    with CallLog(database, linger_ms=5, journal_dir=str(tmp_path / "journal")) as after:
        _calls(1)
        assert after.flush(30) == 0
        wait_until(lambda: len(rows_of(database)) == 21, "the rows of the journal")
    rows = rows_of(database)
    assert {(row.session_id, row.user_id) for row in rows} == {("s", "u")}


@pytest.mark.usefixtures("_sockets")
def test_both_watchdogs_at_once(tmp_path: Path) -> None:
    """Neither finds anything of ours, in the application's loop or in the pipeline's."""
    database = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    migrate.upgrade(load(database_url=database))

    async def main() -> None:
        with blockbuster_ctx():
            async with CallLog(database, linger_ms=5, journal_dir=str(tmp_path / "journal")) as call_log:
                pytest_socket.disable_socket()
                with bind(session_id="s", user_id="u"):
                    await asyncio.gather(*(model.ainvoke(f"number {number}") for number in range(50)))
                assert await call_log.aflush(30) == 0
                assert call_log.stats().written == 50

    asyncio.run(main())
