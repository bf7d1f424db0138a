"""The agent that made a call: the name around the node that tells agents apart, where no `agent_key` is given.

Ready-made agents call their model from a node that has the same name in all of them (`agent`, `model`). What tells them
apart is LangChain's own name of an agent (`create_agent(name=)`), the node of the graph around in which they run (teams
of langgraph-supervisor and -swarm), the graph's name (`create_react_agent(name=)`, `compile(name=)`) or the platform's
`graph_id`. The node itself has a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmctx.capture.payload.messages import WORD_LIMIT
from llmctx.core.text import is_storable, plain_text
from llmctx.identity.scope import Scope
from llmctx.storage.sanitize import shorten_id

_OF_READY_MADE: Final = frozenset(
    (
        *("agent", "call_model", "model", "model_request", "llm", "tools"),
        *("pre_model_hook", "post_model_hook", "generate_structured_response"),
    )
)
HOOKS: Final = ("before_agent", "before_model", "after_model", "after_agent")
"""Of LangChain's middleware: the end of its nodes' names."""
NOTHING_AROUND: Final = ()


def names_around(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the nodes of the graphs around that of a call, the outermost first."""
    path = plain_text(metadata.get("langgraph_checkpoint_ns"))
    if path is None or "|" not in path:
        return NOTHING_AROUND
    names = [step.partition(":")[0] for step in path.split("|")[:-1]]
    return tuple(name for name in names if name and not name.isdigit() and not _is_ready_made(name))


def _given_and_graph(scope: Scope | None) -> tuple[str | None, str | None]:
    """Return the `agent_key` that the code was given in which a call was made, and the name of the graph around it."""
    given = None if scope is None else scope.identity.agent_key
    while scope is not None and scope.kind != "node":
        scope = scope.parent
    return given, getattr(scope, "graph", None)


def agent_name(metadata: Mapping[str, Any], scope: Scope | None = None) -> str | None:
    """Return the name of the agent that made a call in `scope`."""
    given, graph = _given_and_graph(scope)
    if given is not None:
        return given
    if named := word_of(metadata.get("lc_agent_name")):
        return named
    node = word_of(metadata.get("langgraph_node"))
    if around := names_around(metadata):
        # Around a ready-made agent's node stands the agent; around any other the whole of which it is a step.
        return word_of(around[-1] if node is not None and _is_ready_made(node) else around[0])
    return word_of(graph) or word_of(metadata.get("graph_id")) or node


def word_of(value: Any) -> str | None:
    """Return a name, clean and bounded, not to be mistaken for another one; None for what is none."""
    value = plain_text(value)
    if not value:
        return None
    return value if len(value) <= WORD_LIMIT and is_storable(value) else shorten_id(value, WORD_LIMIT)


def _is_ready_made(node: str) -> bool:
    return node in _OF_READY_MADE or node.rpartition(".")[2] in HOOKS
