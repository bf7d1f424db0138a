"""The former path of `llmctx.core.record`, whose public names `llmctx.delivery` exports."""

from warnings import warn

from llmctx.core.record import *  # noqa: F403
from llmctx.delivery import Sink  # noqa: F401

warn("llmctx.record has moved: import CallRecord and Sink from llmctx.delivery", DeprecationWarning, stacklevel=2)
