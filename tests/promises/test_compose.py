"""examples/compose: its programs run as real processes, and its files say what they should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmctx import cli
from llmctx.calllog import CallLog
from llmctx.cli.demo.processes import clean_environment
from llmctx.settings import Settings, load
from tests.kit.support import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples/compose"
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
OURS = {name: one for name, one in COMPOSE["services"].items() if one.get("image") == "llmctx-example"}


@contextmanager
def uvicorn(environment: dict[str, str]) -> Iterator[str]:
    """The base URL of the application with the command of the Dockerfile, on a free port of loopback."""
    command = json.loads(instructions()["CMD"][-1])
    assert command[-2:] == ["--workers", "2"]
    command = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", "0"]
    command += ["--timeout-worker-healthcheck", "600"]  # it kills workers that are slow to start
    server = subprocess.Popen(command, cwd=EXAMPLE, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+:\d+", line)))
        for line in server.stderr:  # until the first of its workers is ready
            if "startup complete" in line:
                break
        yield address
    finally:
        server.terminate()
        server.communicate()


def coverage(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    capsys.readouterr()
    assert cli.run(["coverage", "--json"]) == 0
    report: dict[str, int] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.timeout(900)
def test_every_call_of_the_service_and_of_its_worker_has_both_ids(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two uvicorn workers, then RQ's worker, on real PostgreSQL and Redis: rows = calls, none without an id."""
    settings = {
        "LLMCTX_DATABASE_URL": database,
        "LLMCTX_HANDOVER_KEY": "a key for tests and for nothing else",
        "LLMCTX_REGISTRY_URL": redis_url,
        "LLMCTX_JOURNAL_DIR": str(tmp_path),
        "LLMCTX_CONNECT_TIMEOUT_S": "100",  # on a machine that is busy with other things
        "LLMCTX_SHUTDOWN_TIMEOUT_S": "100",
        "JOBS_URL": redis_url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    environment = {**clean_environment(), **settings}
    with uvicorn(environment) as address:
        for user in ("ann:v-1", "bob:v-2"):
            headers = {"authorization": f"Bearer {user}"}
            reply = httpx.post(f"{address}/chat?question=Hello", headers=headers, timeout=300, trust_env=False)
            assert reply.status_code == 200, reply.text
        monkeypatch.setenv("LLMCTX_DATABASE_URL", database)
        wait_until(lambda: coverage(capsys)["rows"] == 2, "the rows of the requests", 300)
        metrics = httpx.get(f"{address}/metrics/", timeout=300, trust_env=False).text
        assert "llmctx_calls_total{" in metrics
    command = OURS["worker"]["command"]
    assert command[:4] == ["python", "-m", "rq.cli", "worker"]
    worker = [sys.executable, *command[1:4], "--burst", "--url", redis_url]
    subprocess.run(worker, check=True, cwd=EXAMPLE, env=environment, timeout=300)

    with CallLog(database, journal_dir=tmp_path):  # what the others could not write in time is in the journal
        wait_until(lambda: coverage(capsys)["rows"] == 4, "all rows", 100)
    assert coverage(capsys)["with_both"] == 4
    for command in re.findall(r"llmctx ([^;]+);", OURS["cron"]["command"][-1]):
        assert cli.run(command.split()) == 0, command


def test_the_containers_may_do_next_to_nothing() -> None:
    """Nobody, a read-only root, no capabilities, no new privileges; settings are such."""
    assert set(OURS) == {"app", "worker", "migrate", "cron"}
    for one in OURS.values():
        assert one["user"] == "65534:65534"
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in one["security_opt"]
        names = {name.removeprefix("LLMCTX_").lower(): value for name, value in one["environment"].items()}
        names = {name: value for name, value in names.items() if name not in {"jobs_url", "prometheus_multiproc_dir"}}
        assert set(names) <= set(Settings.model_fields)
        load(**{name: re.sub(r"\$\{\w+:\?[^}]+\}", "s" * 32, value) for name, value in names.items()})
    assert {name for name, one in COMPOSE["services"].items() if "profiles" in one} == {"prometheus", "grafana"}
    for name, one in COMPOSE["services"].items():
        assert one["image"] == "llmctx-example" or re.search(r":[\w.]*\d", one["image"]), f"{name} has no version"
        assert set(one.get("depends_on", ())) <= set(COMPOSE["services"])
        for volume in one.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (EXAMPLE / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume


def instructions() -> dict[str, list[str]]:
    """The instructions of the Dockerfile, by name, in their order."""
    text = re.sub(r"\\\n", " ", (EXAMPLE / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def test_the_dockerfile() -> None:
    """A fixed base, nobody at the end, commands without a shell, files that are there, no cache left behind."""
    lines = instructions()
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert set(lines) <= known
    assert re.fullmatch(r"python:3\.\d+-slim", lines["FROM"][-1])
    assert lines["USER"][-1] == "65534:65534"
    assert json.loads(lines["HEALTHCHECK"][-1].partition("CMD ")[2])
    for copied in lines["COPY"]:
        *files, _ = copied.split()
        assert all((EXAMPLE / file).is_file() for file in files)
    assert all("--no-cache-dir" in line for line in lines["RUN"] if "pip install" in line)
    journal = next(one for one in lines["ENV"] if "LLMCTX_JOURNAL_DIR" in one)
    assert journal.partition("=")[2] in lines["VOLUME"]
