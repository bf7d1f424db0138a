"""LangGraph: each node runs in a scope of its own (`wrap_graph`, `wrap_node`), and is otherwise unchanged.

LangGraph runs a node as *one* runnable, `PregelNode.node`: the user's function, followed by the writers, among them the
functions of the conditional edges. That runnable alone is replaced, by a shallow copy whose class is a subclass of the
same name (`node_runnables.py`). Whatever LangGraph inspects to infer schemas, validate timeouts, find subgraphs, name
caches, draw or repr (the builder, `bound`, `writers`) stays as it was, and so does what it injects.

Failures in here are counted, and the node runs as if it were not wrapped. Exceptions of the node pass untouched.
"""

from llmctx.graph.node_identity import Identify
from llmctx.graph.wrapping import wrap_graph, wrap_node

__all__ = ["Identify", "wrap_graph", "wrap_node"]
