"""Every block of README.md is run: as it stands there, against a provider on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from llmctx.cli.demo.processes import ChildProcess, clean_environment
from llmctx.delivery.memory_sink import MemorySink
from llmctx.settings import Settings, load

# one loop for all: LangChain's OpenAI client keeps its connections for whoever comes next
pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The base URL of the demo's provider."""
    child = ChildProcess("provider", "llmctx.cli.demo.provider", "--speed", "1000", log=None, env=clean_environment())
    try:
        yield f"http://127.0.0.1:{child.says(30)['port']}/readme/v1"
    finally:
        child.end()


@pytest.fixture
def environment(database: str, provider: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the reader has set: a migrated database, and a key for OpenAI."""
    for name, value in (
        ("LLMCTX_DATABASE_URL", database),
        ("OPENAI_API_KEY", "not-a-key"),
        ("OPENAI_BASE_URL", provider),
        ("NO_PROXY", "127.0.0.1"),
    ):
        monkeypatch.setenv(name, value)
    return database


@pytest.fixture
def application(environment: str, tmp_path: Path) -> ModuleType:
    """The first Python block, imported as the reader's module."""
    file = tmp_path / "readme_app.py"
    file.write_text(blocks("python")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("readme_app", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme_app"] = module
    spec.loader.exec_module(module)
    return module


async def ask(application: ModuleType) -> dict[str, Any]:
    """One question over HTTP, the application started as a server would start it."""
    app = application.app
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        reply = await http.post(
            "/chat", params={"question": "May I go for a walk?"}, headers={"authorization": "Bearer patient-07:visit-2"}
        )
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer


def llmctx(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "llmctx", *arguments], capture_output=True, text=True, timeout=60)


async def test_the_application_of_the_readme_fills_the_row(application: ModuleType) -> None:
    """Three lines, one request, one row with its session and user; and the commands below them show it."""
    assert (await ask(application))["answer"]
    assert application.call_log.stats().balanced
    listed = llmctx("calls", "--json")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("patient-07") == 1
    assert listed.stdout.count("visit-2") == 1


async def test_every_shell_block_is_what_a_reader_can_type(application: ModuleType) -> None:
    """Targets of make exist, the extra exists, and each llmctx command ends with 0."""
    await ask(application)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line)
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        elif words[:2] == ["pip", "install"]:
            assert words[2] in {f"llmctx[{extra}]" for extra in extras}
        elif words[0] == "export":
            name, _, value = words[1].partition("=")
            assert load(**{name.removeprefix("LLMCTX_").lower(): value}).is_postgresql
        else:
            assert words[0] == "llmctx", line
            done = llmctx(*words[1:])
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


async def test_the_other_python_blocks_run(application: ModuleType) -> None:
    """As they stand, in the reader's module."""
    sink = MemorySink()
    application.call_log._sink = sink
    async with application.call_log:
        for block in blocks("python")[1:]:
            exec(compile(block, "README.md", "exec"), vars(application))
        await application.call_log.aflush(60)
    assert [(record.model, record.prompt_tokens) for record in sink.records] == [("whisper-1", 310)]


async def test_what_an_application_already_has_works_as_it_is_printed(application: ModuleType) -> None:
    """Its own lifespan, a dependency, ids in the body, compiled graphs, a job: each call is one row with both ids."""
    section = README.split("## Your application already has", 1)[1].split("\n## ", 1)[0]
    for block in blocks("python", section):
        exec(compile(block, "README.md", "exec"), vars(application))
    sink = MemorySink()
    application.call_log._sink = sink
    app = application.app
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        signed = {"authorization": "Bearer ann:v-1"}
        body = {"question": "Why?", "user_id": "bob", "thread_id": "t-2"}
        for reply in (
            await http.post("/signed-in", params={"question": "How?"}, headers=signed),
            await http.post("/ask", json=body),
        ):
            assert reply.status_code == 200, reply.text
        await asyncio.to_thread(application.summarise, "eve", "v-3", "How long?")
        await application.agents["triage"].ainvoke(
            {"messages": []}, {"metadata": {"user_id": "fay", "session_id": "v-4"}}
        )
        await application.call_log.aflush(60)
    assert [(record.user_id, record.session_id) for record in sink.records] == [
        ("ann", "v-1"),
        ("bob", "t-2"),
        ("eve", "v-3"),
        ("fay", "v-4"),
    ]


async def test_every_setting_that_the_readme_names_exists() -> None:
    """LLMCTX_* in the text are settings."""
    named = set(re.findall(r"LLMCTX_([A-Z_]+)", README)) - {"TEST_DATABASE_URL"}
    assert {name.lower() for name in named} <= set(Settings.model_fields)
