"""The name that tells agents apart."""

from __future__ import annotations

from typing import Any

import pytest

from llmctx.delivery.agent_name import agent_name
from llmctx.identity.scope import EMPTY, CallContext, Scope


@pytest.mark.parametrize(
    ("path", "more", "graph", "name"),
    [
        ("draft:1", {}, None, "draft"),
        ("agent:1", {}, None, "agent"),
        ("agent:1", {}, "billing", "billing"),
        ("agent:1", {"graph_id": "support"}, None, "support"),
        ("answer:1", {"graph_id": "support"}, None, "support"),
        ("answer:1", {"graph_id": "support"}, "desk", "desk"),
        ("model:1", {"lc_agent_name": "billing"}, "desk", "billing"),
        ("supervisor:1|agent:2", {"graph_id": "team"}, "desk", "supervisor"),
        ("math:1|tools:2", {}, None, "math"),
        ("team:1|math:2|agent:3", {}, None, "math"),
        ("math:1|SummarizationMiddleware.before_model:2", {}, None, "math"),
        ("billing:1|steps:2|draft:3", {}, None, "billing"),
        ("billing:1|1|draft:3", {}, None, "billing"),
        ("tools:1|model:2", {}, "desk", "desk"),
        ("tools:1|model:2", {}, None, "model"),
        (None, {}, None, None),
        (7, {"lc_agent_name": ["x"], "graph_id": {}}, None, None),
    ],
)
def test_agent_name(path: Any, more: dict[str, Any], graph: str | None, name: str | None) -> None:
    """Whatever stands there: metadata may come from a client."""
    node = path.rpartition("|")[2].partition(":")[0] if isinstance(path, str) else None
    scope = Scope(EMPTY, "bind", around := Scope(EMPTY, "node"))
    if graph is not None:
        around.graph = graph
    metadata = {"langgraph_checkpoint_ns": path, "langgraph_node": node, **more}
    assert agent_name(metadata, scope) == name
    assert agent_name(metadata, Scope(CallContext(agent_key="given"), "node", scope)) == "given"
