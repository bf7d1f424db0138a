"""`wrap_graph` and `wrap_node`: the nodes of a graph, of its subgraphs and of what a builder compiles, each wrapped."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableBinding, RunnableParallel
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import swallow
from llmctx.graph.node_functions import in_scope
from llmctx.graph.node_identity import MARK, Identify, Plan, guard_wrapping
from llmctx.graph.node_runnables import instrument, subclass

T = TypeVar("T")


def wrap_graph(
    graph: T,
    *,
    identify: Identify | None = None,
    fields: Mapping[str, str] | None = None,
    agent_key: str | None = None,
) -> T:
    """Give every node of `graph` a scope of its own, in place, and return `graph`.

        graph = wrap_graph(builder).compile(checkpointer=saver)
        agent = wrap_graph(create_agent(model, tools))

    Takes a `StateGraph` (nodes added later are wrapped as well, when it is compiled) or anything compiled:
    `compile()`, `create_agent`, `create_react_agent`, `@entrypoint`. Conditional edges and subgraphs are included.
    A node's identity is looked for in this order: `identify`, the state, `config["configurable"]`,
    `Runtime.context`, `Runtime.server_info.user`; where none of them knows it, the scope around holds.

    Where a user or session is known, the config that the code of a node gets takes it along: a bare thread that is
    given the config, or another process that is given its metadata (signed, with `LLMCTX_HANDOVER_KEY`), knows whose
    its calls are. Nothing of it shows in streams, events, traces and checkpoints.

    A list, tuple, set or dict of graphs is wrapped one by one; its key in a dict names a graph that has no name of its
    own. Whatever else is given, a remote graph or a test's double, is returned as it is, with one line in the log where
    it is no graph.

    Wrapping twice is wrapping once; the arguments given last count. A subgraph keeps what it was wrapped with.

    Args:
        identify: `identify(state, config)` returns a `CallContext`, or None. Not a coroutine.
        fields: identity field -> key in the state, in `configurable` and in `Runtime.context`, where they have other
            names: `{"user_id": "patient"}`, `{"session_id": "thread_id"}`.
        agent_key: for rows of this graph; by default the name of the agent, of the node around, of the graph, its key
            in a dict of graphs, or the node's own.
    """
    _wrap(graph, Plan.build(identify, fields, agent_key))
    return graph


@guard_wrapping()
def _wrap(graph: object, plan: Plan) -> None:
    if isinstance(graph, dict):
        every = [id(one) for one in graph.values()]
        for key, one in graph.items():  # under two keys it is neither's
            _wrap(one, replace(plan, graph=key if isinstance(key, str) and every.count(id(one)) == 1 else None))
        return
    if isinstance(graph, (list, tuple, set, frozenset)):
        for one in graph:
            _wrap(one, replace(plan, graph=None))
        return
    inside: Any = graph
    while isinstance(inside, RunnableBinding):  # compiled.bind(...), .with_listeners(...)
        inside = inside.bound
    if isinstance(inside, StateGraph):
        _wrap_builder(inside, plan)
    elif isinstance(inside, Pregel):
        _wrap_compiled(inside, plan, strong=True, seen=set())
    elif not isinstance(inside, PregelProtocol):  # the nodes of a remote graph run elsewhere
        diagnostics.count(
            "graph_not_wrapped",
            "wrap_graph was given %s, which is not a graph, and returned it unchanged",
            type(graph).__name__,
        )


def wrap_node(
    node: T,
    *,
    identify: Identify | None = None,
    fields: Mapping[str, str] | None = None,
    agent_key: str | None = None,
) -> T:
    """Return `node` (a function or Runnable, for `add_node`) so that it runs in a scope of its own.

        builder.add_node("triage", wrap_node(triage, agent_key="triage"))

    The arguments are those of `wrap_graph`. A compiled graph is wrapped in place.
    """
    plan = Plan.build(identify, fields, agent_key)
    inside: Any = node
    if isinstance(inside, Pregel):
        _wrap_compiled(inside, plan, strong=True, seen=set())
        return node
    known: Plan | None = getattr(inside, MARK, None)
    if isinstance(inside, dict):
        inside = RunnableParallel(inside)
    if isinstance(inside, Runnable):
        if known is not None:
            plan = plan.over(known)
        elif hasattr(inside, "steps"):
            inside = RunnableBinding(bound=inside)  # LangGraph takes sequences apart: the copy itself would never run
        return cast("T", instrument(inside, plan))
    if not callable(inside):
        raise TypeError(f"wrap_node takes a function or a Runnable, not {type(node).__name__}")
    if known is not None and known.outside is not None and known.outside() is inside:  # decorators copy the mark
        plan, inside = plan.over(known), known.inside
    return cast("T", in_scope(inside, plan))


@guard_wrapping()
def _wrap_builder(builder: Any, plan: Plan) -> None:
    """Wrap whatever `builder` compiles to, when it does."""
    known: Plan | None = getattr(builder, MARK, None)
    # A class, not an attribute `compile`: a copy of the builder must compile the copy.
    builder.__class__ = subclass(type(builder), _compiling)
    builder.__dict__[MARK] = plan if known is None else plan.over(known)


def _compiling(base: Any, body: dict[str, Any]) -> None:
    @functools.wraps(base.compile)
    def compile(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A001  LangGraph's name
        compiled = base.compile(self, *args, **kwargs)
        _wrap_compiled(compiled, getattr(self, MARK), strong=True, seen=set())
        return compiled

    body["compile"] = compile


@guard_wrapping()
def _wrap_compiled(graph: Pregel[Any, Any, Any, Any], plan: Plan, *, strong: bool, seen: set[int]) -> None:
    """Wrap all nodes of `graph`, and of the graphs in it. `strong`: `plan` counts before what is known already."""
    if id(graph) in seen:
        return
    seen.add(id(graph))
    for name, node in graph.nodes.items():
        try:
            runnable: Any = node.node
            if _runs_foreign_code(name, runnable):
                known: Plan | None = getattr(runnable, MARK, None)
                both = plan if known is None else plan.over(known) if strong else known.over(plan)
                channels = {key: field for field, key in both.pairs if key in graph.channels}
                both = replace(
                    both,
                    channels=channels,
                    unseen={key: field for key, field in channels.items() if key not in node.channels},
                    graph=both.graph if graph.name == Pregel.name else graph.name,
                    sends=not isinstance(node.bound, Pregel),
                )
                # `node` is a cached property, made of `bound` and `writers`: this is the place of its value.
                node.__dict__["node"] = instrument(runnable, both)
        except BaseException as problem:  # noqa: BLE001  a graph that we do not understand still has to start
            swallow(problem, "node_not_wrapped", "the node %r could not be wrapped", name)
        for inner in (node.bound, *node.subgraphs):
            if isinstance(inner, Pregel):
                _wrap_compiled(inner, plan, strong=False, seen=seen)


def _runs_foreign_code(name: str, runnable: object) -> bool:
    """Return whether there is something to wrap: not a bare subgraph (its nodes are), nor START without branches."""
    return (
        isinstance(runnable, Runnable)
        and not isinstance(runnable, Pregel)
        and (name != START or hasattr(runnable, "steps"))
    )
