"""From an ended call to a stored row: queue, pipeline, journal, batches.

Owns all that happens behind the caller's thread, and what a team can put in place of ours: a `Destination` for rows to
go somewhere else with every guarantee, a `RecordingSink` or `Sink` to take records without one.
"""

from llmctx.core.record import CallRecord
from llmctx.delivery.destination import Destination, Failure, Row
from llmctx.delivery.sink import RecordingSink, Sink

__all__ = ["CallRecord", "Destination", "Failure", "RecordingSink", "Row", "Sink"]
