"""The dashboard served by uvicorn, and Debian's Chromium to look at it. `make install-browser` installs it.

Where no browser can be had, these tests are left out, and the report says so in one line.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, Playwright, sync_playwright

from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.absent import BROWSER
from tests.kit.dashboard import PREFIX, application, fill

collect_ignore_glob = [] if BROWSER else ["test_*.py"]


@contextmanager
def serving(url: str) -> Iterator[str]:
    """Serve the dashboard over a database, and yield its address."""
    config = uvicorn.Config(application(url), host="127.0.0.1", port=0, log_level="warning")
    bound = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}{PREFIX}"
    server.should_exit = True
    thread.join(60)


def launched(playwright: Playwright) -> Iterator[Browser]:
    """Yield a browser; each page that it opens has a context of its own.

    Its driver leaves an event loop running in this thread: nothing else may be made meanwhile that wants its own.
    """
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    opened = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard over hostile rows, without its prefix."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('served') / 'calls.db'}"
    migrate.upgrade(load(database_url=url))
    fill(url)
    with serving(url) as address:
        yield address.removesuffix(PREFIX)


@pytest.fixture(scope="module")
def browser(served: str) -> Iterator[Browser]:
    """One browser for the tests of a file, made after the server."""
    with sync_playwright() as playwright:
        yield from launched(playwright)
