"""Retention: partitions for the coming months, and the deletion of expired rows and texts.

`policy.py` has the rules, and `retention.py` runs them. Of a partitioned table whole months are dropped or detached
(`partitions.py`, `large_default.py` where the default partition is large), and texts that stand apart by the day; the
rest is deleted in small batches that block no writer and can be interrupted at any time (`batch_delete.py`). Partitions
that pg_partman manages are left to it (`partman.py`). `scheduler.py` runs it all in one of the running processes.
"""

from llmctx.storage.retention.policy import Policy
from llmctx.storage.retention.retention import Report, retain

__all__ = ["Policy", "Report", "retain"]
