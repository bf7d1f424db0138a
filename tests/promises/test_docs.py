"""The programs of the docs are run as they are printed: the tutorial to its 100 %, and each file of docs/snippets."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from starlette.testclient import TestClient

from llmctx import bind, cli, hand_over, migrate
from llmctx.calllog import CallLog
from llmctx.cli.demo.processes import clean_environment
from llmctx.core.record import DEFAULT_TABLE as TABLE
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity import handover
from llmctx.settings import load
from llmctx.testing import captured_calls
from tests.promises.test_readme import blocks

SNIPPETS = Path(__file__).parents[2] / "docs/snippets"
HOW_TO = SNIPPETS / "how_to"
SQL = SNIPPETS / "sql"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, sqlite_url: str, tmp_path: Path) -> Iterator[Any]:
    """Imports a snippet as the reader's module, in a folder of its own beside a migrated SQLite file."""
    monkeypatch.setenv("LLMCTX_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("LLMCTX_HANDOVER_KEY", "a key for tests and for nothing else")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    migrate.upgrade(load())
    imported = []

    def load_module(file: Path, name: str | None = None) -> Any:
        name = name or file.stem
        (tmp_path / f"{name}.py").write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        imported.append(name)
        return importlib.import_module(name)

    yield load_module
    handover.configure(None, "raise")
    for name in imported:
        sys.modules.pop(name, None)


async def ask(app: Any, path: str, *users: str, method: str = "POST") -> None:
    """Ask a question for each user, the application started as a server would start it."""
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        for user in users:
            headers = {"authorization": f"Bearer {user}", "x-user": user}
            reply = await http.request(method, path, params={"question": "Hello"}, headers=headers)
            assert reply.status_code == 200, reply.text
            assert "water" in reply.text


def settled(printed: str) -> str:
    """What `llmctx coverage` prints, at one time of one day, however wide the terminal is."""
    return " ".join(re.sub(r"\d\d-\d\d \d\d:\d\d", "11-30 09:15", printed).split())


@pytest.mark.parametrize(("step", "with_both"), [(2, 0), (3, 50), (4, 100)])
def test_the_tutorial(step: int, with_both: int, module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step covers as much as it says, and `llmctx coverage` prints what stands there."""
    app = module(SNIPPETS / f"tutorial/step{step}.py", "app").app
    asyncio.run(ask(app, "/chat", "ann:v-1", "bob:v-2"))
    assert cli.run(["coverage", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["with_both"]) == (4, 4 * with_both // 100)
    assert cli.run(["coverage"]) == 0
    printed = settled(capsys.readouterr().out)
    assert printed == settled((SNIPPETS / f"tutorial/coverage{step}.txt").read_text())


@pytest.mark.usefixtures("module")
def test_the_tutorial_without_touching_the_worker() -> None:
    """Step 3 with carry=True reaches 100 %, as the page says."""
    step: dict[str, Any] = {"__name__": "app"}
    code = (SNIPPETS / "tutorial/step3.py").read_text().replace("CallLog()", "CallLog(carry=True)")
    exec(compile(code, "app.py", "exec"), step)
    asyncio.run(ask(step["app"], "/chat", "ann:v-1", "bob:v-2"))
    assert cli.run(["coverage", "--fail-under", "100"]) == 0


async def test_a_stream_is_its_requests(module: Any) -> None:
    """The body is read after the endpoint has returned."""
    streaming = module(HOW_TO / "streaming.py")
    streaming.call_log._sink = sink = MemorySink()
    await ask(streaming.app, "/stream", "ann", method="GET")
    assert [(row.user_id, row.session_id, row.streamed) for row in sink.records] == [("ann", "v-1", True)]


def test_the_test_of_the_docs_passes_and_fails_where_it_must(tmp_path: Path) -> None:
    """With the plugin as pytest loads it, in a process of its own; the second test has no user."""
    for name in ("streaming.py", "test_chat.py"):
        (tmp_path / name).write_text((HOW_TO / name).read_text())
    unattributed = (
        "\n\ndef test_nobody():\n    with TestClient(app) as client:\n        client.get('/stream?question=Hello')\n"
    )
    with (tmp_path / "test_chat.py").open("a") as file:
        file.write(unattributed)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--llmctx-strict", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean_environment())
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_chat.py::test_nobody" in done.stdout


def test_ids_come_from_where_the_application_has_them(module: Any) -> None:
    """A dependency, a body, a websocket whose client changes its session, and a job of a scheduler."""
    web = module(HOW_TO / "web.py", "own_web")
    with captured_calls() as calls, TestClient(web.app) as client:
        question = {"text": "How?", "session_id": "v-1"}
        assert client.post("/chat", json=question, headers={"authorization": "Bearer ann"}).json()
        with client.websocket_connect("/live?token=bob") as socket:
            for session in ("v-2", "v-3"):
                socket.send_json({"text": "How?", "session_id": session})
                socket.receive_text()
        asyncio.run(web.digest())
        calls.assert_all_attributed()
        whose = [(call.user_id, str(call.session_id)[:6]) for call in calls.records]
    assert whose == [("ann", "v-1"), ("bob", "v-2"), ("bob", "v-3"), ("job:digest", "digest")]


async def test_an_mcp_server_believes_the_token_of_its_caller(module: Any) -> None:
    """And a tool that is called without one has no user."""
    letters = module(HOW_TO / "mcp_server.py", "own_mcp_server")
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "draft_letter"}}
    call["params"] |= {"arguments": {"text": "all is well"}}  # type: ignore[operator]
    accept = {"accept": "application/json, text/event-stream"}
    transport = httpx.ASGITransport(letters.app)
    async with captured_calls() as calls, letters.app.router.lifespan_context(letters.app):
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
            with bind(user_id="ann", session_id="v-1"):
                token = hand_over(ttl_s=60)
            for headers in (accept | {"x-llmctx": token}, accept):
                assert "Dear Ann" in (await http.post("/mcp", json=call, headers=headers)).text
        assert {(call.user_id, call.session_id) for call in calls.records} == {("ann", "v-1"), (None, None)}


def test_small_programs(module: Any) -> None:
    """A call by hand, a function that redacts, an invocation of a function, scopes."""
    with CallLog(sink=(sink := MemorySink())) as call_log:
        assert module(HOW_TO / "record.py").job(call_log)
    (row,) = sink.records
    assert (row.user_id, row.model, row.prompt_tokens) == ("ann", "whisper-1", 310)
    assert module(HOW_TO / "redact.py").without_room_numbers("Room 17") == "room [redacted:room]"
    serverless = module(HOW_TO / "serverless.py")
    try:
        answer = serverless.handler({"user": "ann", "session": "v-1", "question": "How?"}, None)
    finally:
        serverless.call_log.close()
    assert answer == {"answer": "It is fine.", "rows_not_stored": 0}
    module(HOW_TO / "scopes.py")


async def test_the_dashboard_is_mounted(module: Any) -> None:
    """And nobody sees it without a login."""
    app = module(HOW_TO / "dashboard.py").app
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        assert (await http.get("/admin/llm/usage")).status_code == 403


def test_tools_that_are_there_already(module: Any) -> None:
    """OpenTelemetry, Prometheus, an agent: as they stand, each call is one row with its ids."""
    assert module(HOW_TO / "prometheus.py").app.routes[-1].path == "/metrics"
    agents = module(HOW_TO / "agents.py", "own_agents")
    with CallLog(sink=(sink := MemorySink())):
        given = {"messages": [("user", "How?")]}
        agents.agent.invoke(given, context=agents.Context(user_id="ann", session_id="v-1"))
    assert [(row.user_id, row.session_id) for row in sink.records] == [("ann", "v-1")]


def test_the_processor_of_spans_is_added(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the provider that becomes the process's."""
    from opentelemetry import trace

    providers: list[Any] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    provider = module(HOW_TO / "otel.py", "own_otel").provider
    assert providers == [provider]
    provider.shutdown()


def test_the_first_program_is_that_of_the_readme() -> None:
    """So that tests/promises/test_readme.py runs it."""
    assert (SNIPPETS / "app.py").read_text() == blocks("python")[0]


SPEND_LOGS = """
CREATE TABLE "LiteLLM_SpendLogs" (
    request_id text PRIMARY KEY, spend double precision NOT NULL DEFAULT 0, total_tokens int NOT NULL DEFAULT 0,
    prompt_tokens int NOT NULL DEFAULT 0, completion_tokens int NOT NULL DEFAULT 0, "startTime" timestamp(3) NOT NULL,
    "endTime" timestamp(3) NOT NULL, model text NOT NULL DEFAULT '', custom_llm_provider text DEFAULT '',
    end_user text, session_id text, status text);
INSERT INTO "LiteLLM_SpendLogs" VALUES
    ('r-1', 0.25, 30, 20, 10, '2026-11-01 10:00', '2026-11-01 10:00:01.5', 'gpt-4o', 'openai', 'ann', 's-1', 'success'),
    ('r-2', 0, 0, 0, 0, '2026-11-01 10:01', '2026-11-01 10:01', '', '', '', NULL, 'failure')
"""


async def test_the_sql(database: str) -> None:
    """Every recipe runs on rows; spend logs are copied once; roles may do what the page says, and no more."""
    async with CallLog(database) as call_log:
        with bind(user_id="p-05", session_id="v-05-15"):
            for number in range(3):
                with call_log.record(model=f"m-{number}", prompt="Hello") as call:
                    call.set(response="Good day.", prompt_tokens=4, completion_tokens=2, cached_tokens=1)
        assert await call_log.aflush(30) == 0
    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    transaction = connection.transaction()
    await transaction.start()
    try:
        found = {
            file.stem: await connection.fetch(file.read_text().rstrip().rstrip(";"))
            for file in sorted(SQL.glob("*.sql"))
            if file.stem not in {"roles", "spend_logs"}
        }
        assert found["cost_by_user"][0]["calls"] == len(found["session"]) == len(found["latency"]) == 3
        assert {row["percent"] for row in found["cached"]} == {25}
        assert found["bytes"][0]["bytes_a_row"] > 0
        assert found["unattributed"] == found["errors"] == []

        await connection.execute(SPEND_LOGS)
        for copied in ("INSERT 0 2", "INSERT 0 0"):
            assert await connection.execute((SQL / "spend_logs.sql").read_text()) == copied
        (row,) = await connection.fetch(f"SELECT latency_ms, cost_usd FROM {TABLE} WHERE user_id = 'ann'")
        assert tuple(row) == (1500, Decimal("0.25"))

        await connection.execute((SQL / "roles.sql").read_text())
        insert = f"INSERT INTO {TABLE} (call_id, created_at, model) VALUES (gen_random_uuid(), now(), 'm')"
        for role, allowed, refused in (
            ("llm_writer", insert, f"SELECT count(*) FROM {TABLE}"),
            ("llm_reader", f"SELECT count(*) FROM {TABLE}", insert),
        ):
            await connection.execute(f"SET LOCAL ROLE {role}")
            await connection.execute(allowed)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(refused)
            await connection.execute("RESET ROLE")
    finally:
        await transaction.rollback()
        await connection.close()
