"""The former path of `llmctx.core.errors`, whose names `llmctx` itself exports."""

from warnings import warn

from llmctx.core.errors import *  # noqa: F403

warn("llmctx.errors has moved: import its errors from llmctx", DeprecationWarning, stacklevel=2)
