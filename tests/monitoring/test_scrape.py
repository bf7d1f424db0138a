"""Two workers, scraped by a real Prometheus, send spans by OTLP: what is counted is what the table has.

`make monitoring ARGS="--load-minutes 10"` goes on for longer.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmctx.cli.demo.processes import clean_environment
from tests.kit.absent import PROMETHEUS
from tests.kit.otlp import receiving
from tests.kit.rows import rows_of

ROOT = Path(__file__).parents[2]
REQUESTS = 120  # at a time


def listening_socket() -> socket.socket:
    own = socket.socket()
    own.bind(("127.0.0.1", 0))
    return own


@contextmanager
def running(*command: object, ready: Callable[[], bool], fds: Any = (), **environment: str) -> Iterator[None]:
    """Run a program until the block ends; wait until it is ready."""
    program = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env={**clean_environment(), **environment}, stderr=subprocess.DEVNULL,
        pass_fds=fds,
    )  # fmt: skip
    try:
        until(ready)
        yield
    finally:
        program.terminate()
        program.wait(60)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while True:
        try:
            if true():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(1800)
def test_what_is_counted_is_what_the_table_has(database: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Calls by model and status, tokens, cost, errors and coverage, summed over the workers; a span for each row."""
    seconds = 60 * pytestconfig.getoption("--load-minutes")
    bound, free = listening_socket(), listening_socket()
    port, own_port = bound.getsockname()[1], free.getsockname()[1]
    free.close()  # Prometheus takes no socket that is bound already
    address, prometheus = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{own_port}"
    scrapes = {
        "job_name": "app",
        "scrape_interval": "500ms",
        "metrics_path": "/metrics/",
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrapes]}))
    (tmp_path / "metrics").mkdir()

    def query(expression: str, *labels: str) -> dict[Any, float]:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}).json()["data"]["result"]
        found = {tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1]) for one in answer}
        return {key: value for key, value in found.items() if value}

    server = (sys.executable, "-m", "uvicorn", "--workers", 2, "--fd", bound.fileno(), "tests.kit.metered:app")
    settings = {"LLMCTX_DATABASE_URL": database, "LLMCTX_JOURNAL_DIR": str(tmp_path / "journal")}
    metrics = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "PYTHONPATH": str(ROOT)}
    storage = f"--storage.tsdb.path={tmp_path / 'data'}"
    listening = f"--web.listen-address=127.0.0.1:{own_port}"
    with (
        receiving() as received,
        running(
            *server, ready=lambda: httpx.get(f"{address}/metrics/").is_success, fds=[bound.fileno()],
            **settings, **metrics, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=received.address,
        ),
        running(
            PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}", storage, listening,
            ready=lambda: httpx.get(f"{prometheus}/-/ready").is_success,
        ),
    ):  # fmt: skip
        ends, sent = time.monotonic() + seconds, 0
        with ThreadPoolExecutor(8) as clients:
            while not sent or time.monotonic() < ends:
                numbers = range(sent, sent + REQUESTS)
                for answer in clients.map(lambda n: httpx.get(f"{address}/ask?number={n}", timeout=60), numbers):
                    assert answer.is_success
                sent += REQUESTS
        until(lambda: query("sum(llmctx_rows_written_total)") == {(): sent})
        rows = [row._asdict() for row in rows_of(database)]
        calls = Counter((row["model"], row["status"]) for row in rows)
        assert query("sum by (model, status) (llmctx_calls_total)", "model", "status") == calls
        assert query("sum(llmctx_call_duration_seconds_count)") == {(): sent}
        tokens = sum(row["prompt_tokens"] or 0 for row in rows)
        assert query('sum(llmctx_tokens_total{type="input"})') == {(): tokens}
        assert query("sum(llmctx_cost_usd_total)") == {(): float(sum(row["cost_usd"] or 0 for row in rows))}
        errors = Counter((row["error_code"],) for row in rows if row["status"] == "error")
        assert query("sum by (code) (llmctx_errors_total)", "code") == errors
        complete = query("sum by (complete) (llmctx_identity_total)", "complete")
        assert complete == {("both",): sent}
        assert query("sum(llmctx_open_calls)") == query("sum(llmctx_waiting_rows)") == {}
        assert query("count(llmctx_build_info)") == {(): 1}
        until(lambda: len(received.of_llmctx()) == sent)
        spans = {said["llmctx.call.id"]: span_id for span_id, said in received.of_llmctx().items()}
        assert spans == {str(row["call_id"]): row["span_id"] for row in rows}
        assert sum(scope == "llmctx" for scope, _, _ in received.spans) == sent
        print(f"{sent} calls, spans of {Counter(scope for scope, _, _ in received.spans)}, {len(rows)} rows")
    bound.close()
