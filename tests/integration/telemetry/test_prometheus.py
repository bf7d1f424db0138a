"""Metrics in prometheus-client: they say what the table says, with bounded labels, and of several workers as well."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.prometheus import metrics_app
from llmctx.telemetry.metrics import MEASURES, Labels
from tests.kit.rows import rows_of
from tests.kit.support import ProviderDown, Talker

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

NAMES = {
    "llmctx_calls_total",
    "llmctx_call_duration_seconds",
    "llmctx_call_ttft_seconds",
    "llmctx_tokens_total",
    "llmctx_cost_usd_total",
    "llmctx_calls_unpriced_total",
    "llmctx_errors_total",
    "llmctx_identity_total",
    "llmctx_identity_missing_total",
    "llmctx_open_calls",
    "llmctx_waiting_rows",
    "llmctx_published_rows",
    "llmctx_journal_bytes",
    "llmctx_journal_oldest_seconds",
    "llmctx_rows_written_total",
    "llmctx_rows_quarantined_total",
    "llmctx_rows_dropped_total",
    "llmctx_rows_adopted_total",
    "llmctx_incidents_total",
    "llmctx_write_seconds",
    "llmctx_build_info",
    "llmctx_metrics_labels_dropped_total",
}


def scraped(app: Any) -> Samples:
    """What the application answers, by name and labels."""
    text = TestClient(app).get("/metrics/").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def by(samples: Samples, name: str, *labels: str) -> dict[Any, float]:
    """The values of a metric, summed over all labels but these."""
    found: Counter[Any] = Counter()
    for (sample, own), value in samples.items():
        if sample == name and value:
            found[tuple(dict(own)[label] for label in labels)] += value  # type: ignore[assignment]  # floats as well
    return dict(found)


def served(call_log: CallLog) -> Starlette:
    app = Starlette()
    app.mount("/metrics", metrics_app(call_log))
    return app


def test_the_names_are_these() -> None:
    """Dashboards and alerts of teams go by them."""
    assert {measure.name for measure in MEASURES} == NAMES
    labels = {label for measure in MEASURES for label in measure.labels}
    assert not labels & {"user", "user_id", "session", "session_id", "thread", "trace", "call", "node", "message"}


def test_metrics_say_what_the_table_says(database: str) -> None:
    """Calls, tokens, cost, coverage; and the ledger, at the time of the scrape."""
    call_log = CallLog(database)
    app = served(call_log)
    with call_log:
        with bind(user_id="ann", session_id="s-1", agent_key="desk"):
            for _ in range(3):
                Talker().invoke("hello")
            list(Talker().stream("hello"))
            with pytest.raises(ProviderDown):
                Talker().invoke("[fail]")
            with call_log.record(model="whisper", provider="openai", prompt_tokens=7, cost_usd=0.25):
                pass
        Talker().invoke("of nobody")
        assert call_log.flush(30) == 0
        now = scraped(app)
    rows = [row._asdict() for row in rows_of(database)]
    assert len(rows) == 7
    per_call = Counter((row["provider"] or "", row["model"], row["agent_key"] or "", row["status"]) for row in rows)
    assert by(now, "llmctx_calls_total", "provider", "model", "agent", "status") == per_call
    assert by(now, "llmctx_call_duration_seconds_count") == {(): 7}
    assert by(now, "llmctx_call_ttft_seconds_count") == {(): 1}
    tokens = sum(row["prompt_tokens"] or 0 for row in rows)
    assert by(now, "llmctx_tokens_total", "type").get(("input",), 0) == tokens
    assert by(now, "llmctx_cost_usd_total", "agent") == {("desk",): 0.25}
    assert sum(by(now, "llmctx_calls_unpriced_total").values()) == sum(row["cost_usd"] is None for row in rows)
    assert by(now, "llmctx_errors_total", "code") == {("ProviderDown",): 1}
    assert by(now, "llmctx_identity_total", "source", "complete") == {("context", "both"): 6, ("none", "none"): 1}
    assert by(now, "llmctx_identity_missing_total", "reason") == {("no_scope",): 1}
    assert by(now, "llmctx_rows_written_total") == {(): 7}
    assert by(now, "llmctx_open_calls") == by(now, "llmctx_waiting_rows") == {}
    assert by(now, "llmctx_journal_bytes")[()] > 0
    assert by(now, "llmctx_write_seconds_count")[()] >= 1
    assert by(now, "llmctx_build_info", "durability", "content") == {("journal", "redacted"): 1}
    assert not {value for _, labels in now for _, value in labels} & {"ann", "s-1"}


def test_labels_are_bounded() -> None:
    """A hundred models and agents; the rest is `other`, and counted."""
    call_log = CallLog(sink=MemorySink())
    app = served(call_log)
    with call_log:
        for number in range(120):
            with bind(agent_key=f"a{number}"), call_log.record(model=f"m{number}"):
                pass
        call_log.flush()
        now = scraped(app)
    for label in ("model", "agent"):
        found = by(now, "llmctx_calls_total", label)
        assert len(found) == 101
        assert found[("other",)] == 20
    assert by(now, "llmctx_metrics_labels_dropped_total")[()] >= 40


def test_labels_are_bounded_for_all_workers_of_a_server(tmp_path: Path) -> None:
    """Those that come after others as well: a worker that is started anew every thousand requests has seen no model."""
    shared = tmp_path / "labels"
    seen = {Labels(shared).bound("model", f"m{number}\n") for number in range(120)}
    assert len(seen) == 101
    assert Labels(shared).bound("model", "m0\n") == "m0\n"
    shared.write_bytes(b"no JSON\n")
    assert Labels(shared).bound("model", "m200") == "m200"


def test_a_registry_of_the_applications_own_and_two_call_logs() -> None:
    """`CallLog(prometheus=registry)`: what both count is added up, and each registry has all of it."""
    registry = CollectorRegistry()
    logs = [CallLog(sink=MemorySink(), prometheus=registry, capture="explicit") for _ in range(2)]
    app = served(logs[0])
    for call_log in logs:
        with call_log:
            with call_log.record(model="m"):
                pass
            call_log.flush()
            call_log.observer.refresh()
    assert registry.get_sample_value("llmctx_rows_written_total") == 2
    assert by(scraped(app), "llmctx_calls_total") == {(): 1}
    assert REGISTRY.get_sample_value("llmctx_rows_written_total") is None


WORKERS = """
import json, os, sys
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.prometheus import metrics_app
from starlette.applications import Starlette
from tests.integration.telemetry.test_prometheus import by, scraped, served

call_log = CallLog(sink=MemorySink(), capture="explicit")
app = served(call_log)
call_log.start()

def work(times):
    for _ in range(times):
        with call_log.record(model="m"):
            pass
    call_log.flush()

work(1)
children = []
for times in (2, 3):
    ready, leave = os.pipe(), os.pipe()
    if not (pid := os.fork()):
        work(times)
        call_log.record(model="open").__enter__()
        call_log.observer.refresh()
        os.write(ready[1], b"x")
        os.read(leave[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    children.append((pid, leave[1]))
now = scraped(app)
for pid, leave in children:
    os.write(leave, b"x")
    os.waitpid(pid, 0)
left = scraped(app)
call_log.close()
then = [by(now, name)[()] for name in ("llmctx_calls_total", "llmctx_rows_written_total", "llmctx_open_calls")]
print(json.dumps([*then, by(left, "llmctx_calls_total")[()], by(left, "llmctx_open_calls")]))
"""


@pytest.mark.timeout(400)
def test_several_workers_answer_as_one(tmp_path: Path) -> None:
    """With PROMETHEUS_MULTIPROC_DIR, forked from one that has counted already: nothing is counted twice. What
    was open in workers that are gone is open no longer."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKERS],
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [6, 6, 2, 6, {}]


def test_a_meter_that_fails_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are stored, the scrape is answered, and it is counted."""
    from llmctx.core.diagnostics import diagnostics

    call_log = CallLog(sink=(sink := MemorySink()))
    app = served(call_log)

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    (meter,) = call_log.observer._meters
    monkeypatch.setattr(type(meter), "add", fail)
    before = diagnostics.counts["telemetry_failed"]
    with call_log:
        Talker().invoke("hello")
        call_log.flush()
        assert scraped(app)
    assert len(sink.records) == 1
    assert diagnostics.counts["telemetry_failed"] > before
