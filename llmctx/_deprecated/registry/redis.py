"""The former path of `llmctx.identity.registry.redis`."""

from warnings import warn

from llmctx.identity.registry.redis import *  # noqa: F403

warn("llmctx.registry.redis has moved to llmctx.identity.registry.redis", DeprecationWarning, stacklevel=2)
