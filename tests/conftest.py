"""What every test may lean on: an environment without LLMCTX_*, real databases, a real Redis and real brokers.

PostgreSQL is the one of LLMCTX_TEST_DATABASE_URL, or comes from its PyPI wheel: a process of its own serves it and
takes it away when this one ends, however it ends. Without either the tests fail; they do not skip.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.record import DEFAULT_TABLE
from llmctx.identity.registry.base import believe_again
from llmctx.identity.scope import _current
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.settings.database_url import normal_url
from llmctx.storage.rollup.tables import names_of
from llmctx.storage.texts_table import name_of
from tests.kit import absent
from tests.kit.brokers import Brokers, brokers
from tests.kit.redis_server import RedisServer

ROOT = Path(__file__).parent.parent
TEST_URL = "LLMCTX_TEST_DATABASE_URL"
OF_TESTS = (TEST_URL, "LLMCTX_RECORDED_DATA")

for _name in [name for name in os.environ if name.startswith("LLMCTX_") and name not in OF_TESTS]:
    del os.environ[_name]  # before any module could read it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of the tests' processes would compile every library anew
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, and all that it starts, ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _rooms_in_memory() -> bool:
    """Return whether files of tests can be in memory: what is promised of them survives a process, not the power."""
    try:
        memory = os.statvfs("/dev/shm")
    except OSError:
        return False
    return memory.f_bavail * memory.f_frsize > 4 << 30 and not memory.f_flag & os.ST_NOEXEC


if "TMPDIR" not in os.environ and _rooms_in_memory():  # a disk that stalls for seconds would fail tests of seconds
    os.environ["TMPDIR"] = "/dev/shm"
    tempfile.tempdir = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-shapes", action="store_true", help="the whole table of execution shapes, in both modes")
    parser.addoption("--every-line", action="store_true", help="failures at every line of llmctx, not at some of them")
    parser.addoption("--bad-days", action="store_true", help="totals after forty kills, not three")
    parser.addoption("--load-minutes", type=float, default=0, help="how long tests/monitoring goes on with its load")
    parser.addoption("--busy", action="store_true", help="shapes on a busy machine, with much garbage collection")
    parser.addoption("--eager", action="store_true", help="every event loop starts tasks eagerly (Python 3.12)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--eager"):
        plain = asyncio.BaseEventLoop.__init__

        def started_eagerly(loop: asyncio.BaseEventLoop) -> None:
            plain(loop)
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]  # from 3.12

        asyncio.BaseEventLoop.__init__ = started_eagerly  # type: ignore[method-assign]  # loops of threads as well


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that mirror the modules first: they are quick, and name the module that is broken.

    Then the longest files: no worker is to begin one of them when the others have nothing left to do.
    """
    mirrors = [ROOT / "tests" / "unit", ROOT / "tests" / "integration"]
    longest = ("test_nothing_lost.py", "test_harmless.py", "test_demo.py", "test_pages.py")

    def place(item: pytest.Item) -> int:
        mirror = next((n for n, path in enumerate(mirrors) if path in item.path.parents), None)
        return mirror if mirror is not None else 2 if item.path.name in longest else 3

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out; here, for with several workers no other conftest is read by the process that reports."""
    for line in absent.lines():
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the developer's own settings or journals reaches a test, and nothing of one test's the next."""
    for name in [name for name in os.environ if name.startswith("LLMCTX_") and name not in OF_TESTS]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMCTX_JOURNAL_DIR", str(tmp_path_factory.mktemp("journal")))
    believe_again()
    _current.set(None)  # a test may have left a scope in the context that all tests of this thread are run in


def execute(url: str, *statements: str) -> None:
    """Run `statements`, each in a transaction of its own, outside of any running loop."""

    async def run() -> None:
        engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                for statement in statements:
                    await connection.execute(text(statement))
        finally:
            await engine.dispose()

    asyncio.run(run())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL in which databases may be made; connects to one that tests leave alone."""
    if given := os.environ.get(TEST_URL):
        yield normal_url(given)
        return
    server = subprocess.Popen(
        [sys.executable, "-m", "llmctx.cli.demo.postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        said = json.loads(server.stdout.readline() or '{"problem": "it did not start"}')
        if said["problem"]:
            pytest.fail(f"no PostgreSQL to test with: {said['problem']}. Set {TEST_URL}, or run `make install`.")
        yield said["url"]
    finally:
        server.stdin.close()  # its sign to stop the server and remove the files
        server.wait(30)
        server.stdout.close()


def _fresh_database(postgres_url: str) -> Iterator[str]:
    name = f"llmctx_test_{uuid4().hex[:12]}"
    execute(postgres_url, f'CREATE DATABASE "{name}"')
    try:
        yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _migrated_database(postgres_url: str) -> Iterator[str]:
    for url in _fresh_database(postgres_url):
        migrate.upgrade(load(database_url=url))
        yield url


@pytest.fixture
def database(_migrated_database: str) -> str:
    """The URL of a PostgreSQL database with an empty call log, made by the real migrations."""
    execute(
        _migrated_database, f"TRUNCATE {DEFAULT_TABLE}", f"DROP TABLE IF EXISTS {', '.join(names_of(DEFAULT_TABLE))}"
    )
    return _migrated_database


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test's own with nothing in it, for tests that change the schema."""
    yield from _fresh_database(postgres_url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that is not there yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}"


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """The URL of a PostgreSQL that is not there."""
    return f"postgresql+asyncpg://u@/d?host={tmp_path}"


@pytest.fixture(params=["postgresql", "sqlite"])
def any_empty_database(request: pytest.FixtureRequest) -> str:
    """`empty_database`, then `sqlite_url`."""
    name = {"postgresql": "empty_database", "sqlite": "sqlite_url"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture(params=["postgresql", "sqlite"])
def any_database(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database of either kind."""
    return _migrated(request)


def _migrated(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("database")
        return url
    url = request.getfixturevalue("sqlite_url")
    migrate.upgrade(load(database_url=url))
    return url


@pytest.fixture(scope="session")
def _database_with_texts_apart(postgres_url: str) -> Iterator[str]:
    for url in _fresh_database(postgres_url):
        migrate.upgrade(load(database_url=url), texts_apart=True)
        yield url


@pytest.fixture
def texts_apart(_database_with_texts_apart: str) -> str:
    """The URL of a PostgreSQL database with an empty call log that keeps its texts in a table of their own."""
    execute(_database_with_texts_apart, f"TRUNCATE {DEFAULT_TABLE}, {name_of(DEFAULT_TABLE)}")
    return _database_with_texts_apart


@pytest.fixture(params=["postgresql", "sqlite", "texts_apart"])
def any_layout(request: pytest.FixtureRequest) -> str:
    """`any_database`, or `texts_apart`: for what reads or changes texts."""
    if request.param == "texts_apart":
        url: str = request.getfixturevalue("texts_apart")
        return url
    return _migrated(request)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests that leave it as it is; each takes a prefix of its own."""
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of `redis_server`."""
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis of this test's own, to be killed, stopped and flushed. Not started yet."""
    server = RedisServer()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def broker() -> Iterator[Brokers]:
    """A NATS server of this test's own, with JetStream and nothing in it."""
    with brokers() as one:
        yield one


@pytest.fixture
def broker_cluster() -> Iterator[Brokers]:
    """A cluster of three, of this test's own."""
    with brokers(3) as three:
        yield three
