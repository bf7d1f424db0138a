"""`CallLogHandler`, for `callbacks=`. It is made in `llmctx.capture`."""

from llmctx.capture.handler import CallLogHandler

__all__ = ["CallLogHandler"]
