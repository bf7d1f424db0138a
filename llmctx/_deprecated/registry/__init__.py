"""The former path of `llmctx.identity.registry`."""

from warnings import warn

from llmctx.identity.registry import *  # noqa: F403

warn("llmctx.registry has moved to llmctx.identity.registry", DeprecationWarning, stacklevel=2)
