"""Every program of docs/handing-over.md is run: real RQ and Celery workers, on a real Redis, and two services."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.cli.demo.processes import clean_environment
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity import handover
from tests.kit.support import wait_until

JOBS = Path(__file__).parents[2] / "docs/snippets/jobs"
NAMES = {file.name: file.read_text(encoding="utf-8") for file in sorted(JOBS.glob("*.py"))}
KEY = "a key for tests and for nothing else"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> Iterator[dict[str, str]]:
    """The environment of whoever reads the page: its files in a folder, a key, a migrated database."""
    for name, code in NAMES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = {"LLMCTX_HANDOVER_KEY": KEY, "LLMCTX_DATABASE_URL": sqlite_url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    handover.configure(KEY, "raise")
    subprocess.run([sys.executable, "-m", "llmctx", "migrate"], check=True, env={**clean_environment(), **environment})
    yield {**environment, "PYTHONPATH": str(tmp_path)}
    handover.configure(None, "raise")
    for name in NAMES:
        sys.modules.pop(name.removesuffix(".py"), None)


def rows(url: str) -> list[Any]:
    engine = create_engine(url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        found = list(connection.execute(text("SELECT user_id, session_id, status FROM biz_agent_llm_call_logs")))
    engine.dispose()
    return found


def test_rq(there: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    """A job in RQ's forked process is its request's."""
    importlib.import_module("rq_caller").ask(redis_url, "How is my blood pressure?")
    subprocess.run(
        [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", redis_url],
        check=True, env={**clean_environment(), **there}, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert rows(there["LLMCTX_DATABASE_URL"]) == [("u-1", "s-1", "ok")]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celery(
    there: dict[str, str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """A task in Celery's pool of processes, or of threads, is its request's, and is written when the worker ends."""
    broker = redis_url.replace("unix://", "redis+socket://")  # as Celery spells it
    monkeypatch.setenv("BROKER_URL", broker)
    worker = subprocess.Popen(
        [*(sys.executable, "-m", "celery", "-A", "celery_jobs", "worker", "--pool", pool), "-c", "1", "-l", "error"],
        env={**clean_environment(), **there, "BROKER_URL": broker, "C_FORCE_ROOT": "1"}, cwd=tmp_path,
    )  # fmt: skip
    try:
        importlib.import_module("celery_caller").ask("How is my blood pressure?")
        wait_until(lambda: bool(rows(there["LLMCTX_DATABASE_URL"])), "the task's row", 60)
    finally:
        worker.terminate()
        worker.wait(30)
    assert rows(there["LLMCTX_DATABASE_URL"]) == [("u-1", "s-1", "ok")]


@pytest.mark.parametrize("forged", [False, True])
async def test_another_service(there: dict[str, str], forged: bool) -> None:
    """A call in the inner service is the outer request's; a forged token names nobody."""
    services = importlib.import_module("services")
    sink = MemorySink()
    transport = httpx.ASGITransport(app=services.inner)
    async with (
        CallLog(sink=sink) as call_log,
        httpx.AsyncClient(transport=transport, base_url="http://inner") as client,
    ):
        if forged:
            headers = {"x-llmctx": "eyJ1IjoidS0xIn0.forged"}
            answer = await client.post("/summaries", params={"text": "hello"}, headers=headers)
        else:
            with bind(session_id="s-1", user_id="u-1"):
                answer = await services.ask(client, "hello")
        assert answer.status_code == 200
        assert await call_log.aflush(60) == 0
    (row,) = sink.records
    expected = (None, None, "identify_failed") if forged else ("u-1", "s-1", None)
    assert (row.user_id, row.session_id, row.identity_reason) == expected
