"""From an ended call to a stored row: pipeline, journal, writer."""

from llmctx.core.record import CallRecord, Sink

__all__ = ["CallRecord", "Sink"]
