"""The former path of `llmctx.graph.agents`."""

from warnings import warn

from llmctx.graph.agents import *  # noqa: F403

warn("llmctx.agents has moved to llmctx.graph.agents", DeprecationWarning, stacklevel=2)
