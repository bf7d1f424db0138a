"""Totals of the calls by hour and by day, beside the table, so that questions about months need not read its rows.

They are made by reading: `rollup` sums up the hours that are closed, and makes those anew that were marked because rows
of them were stored late, filled, priced, erased or expired (`marks.py`). What came after the last closed hour is read
from the rows by each question (`storage/queries/usage.py`).
"""

from llmctx.storage.rollup.rollup import Report, RollupRunning, rollup

__all__ = ["Report", "RollupRunning", "rollup"]
