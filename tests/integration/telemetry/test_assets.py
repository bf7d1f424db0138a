"""What is shipped for Grafana can be loaded, and asks for what is there: metrics that exist, SQL that runs."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
import yaml

from llmctx.core.record import CallRecord
from llmctx.prometheus import ASSETS
from llmctx.settings import load
from llmctx.telemetry.metrics import MEASURES
from tests.kit.rows import query, record, store

DASHBOARDS = sorted((ASSETS / "grafana").glob("*.json"))
SERIES = {
    measure.name + suffix: set(measure.labels)
    for measure in MEASURES
    for suffix in (("_bucket", "_count", "_sum") if measure.kind == "histogram" else ("",))
}
OF_PROMETHEUS = {"job", "instance", "le"}


def loaded(name: str) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((ASSETS / "grafana" / f"{name}.json").read_text())
    return dashboard


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_loads(path: Any) -> None:
    """What Grafana requires of each: ids, places that do not overlap, a data source that is chosen."""
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == path.stem
    assert dashboard["schemaVersion"] >= 36
    panels = dashboard["panels"]
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})
    assert dashboard["templating"]["list"][0]["type"] == "datasource"


def expressions() -> list[str]:
    rules = yaml.safe_load((ASSETS / "prometheus/alerts.yml").read_text())["groups"]
    panels = loaded("llmctx-prometheus")["panels"]
    return [rule["expr"] for group in rules for rule in group["rules"]] + [
        target["expr"] for panel in panels for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_metrics_and_labels_that_exist(expression: str) -> None:
    """Of the dashboard and of the alerts."""
    named = re.findall(r"\b(llmctx_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    for series, selectors in named:
        labels = set(re.findall(r"(\w+)\s*[=!]", selectors))
        assert labels <= SERIES[series] | OF_PROMETHEUS, series
    grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
    assert grouped <= set().union(*(SERIES[series] for series, _ in named)) | OF_PROMETHEUS


def as_sql(panel_sql: str, model: str) -> str:
    """The SQL that Grafana sends: its macros as its PostgreSQL data source documents them."""
    sql = panel_sql.replace("${table:raw}", "biz_agent_llm_call_logs").replace("${model:sqlstring}", f"'{model}'")
    group = "floor(extract(epoch from created_at) / 1e10) AS time"  # all in one
    sql = re.sub(r"\$__timeGroupAlias\(created_at, \$__interval\)", group, sql)
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '2000-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'", sql)
    assert "$" not in sql
    return sql


def test_each_panel_on_the_table_runs(database: str) -> None:
    """On the real schema, and says of some rows what they say."""
    of_nobody = {"session_id": None, "user_id": None}
    records: list[CallRecord] = [
        record(
            model="a", session_id="s", user_id="u", status="ok", cost_usd=2, streamed=True, ttft_ms=40, latency_ms=90
        ),
        record(model="b", status="error", error_code="Down", identity_reason="no_scope", latency_ms=10, **of_nobody),
    ]
    asyncio.run(store(load(database_url=database), *records))
    answers = {}
    for panel in loaded("llmctx-postgres")["panels"]:
        for target in panel["targets"]:
            for model in ("", "a"):
                answers[panel["title"], model] = asyncio.run(query(database, as_sql(target["rawSql"], model)))
    assert answers["Calls", ""] == [(2,)]
    assert answers["Calls", "a"] == [(1,)]
    assert answers["Cost", ""] == [(2.0,)]
    assert answers["Failed", ""] == answers["With both ids", ""] == [(0.5,)]
    assert {(row[1], row[2]) for row in answers["Calls by status", ""]} == {("ok", 1), ("error", 1)}
    assert [row[1:] for row in answers["Latency", ""]] == [(50.0, 86.0)]
    assert [row[1:] for row in answers["Until the first token", ""]] == [(40.0, 40.0)]
    assert [row[1:] for row in answers["Errors", ""]] == [("Down", 1)]
    assert [row[1:] for row in answers["Missing ids", ""]] == [("no_scope", 1)]
    assert [row[1:] for row in answers["Without a price", ""]] == [("b", 1)]
