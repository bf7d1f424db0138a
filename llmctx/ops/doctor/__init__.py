"""Finds why ids or rows are missing, or would be, in this installation and this application.

Each check returns `Finding`s with cause, consequence and fix: of the installation (`install_checks.py`,
`table_checks.py`, `broker_checks.py`), of the rows of late (`row_checks.py`), of the application as it runs
(`app_checks.py`, `canary_calls.py`) and of its source (`source_checks.py`). Nothing is written: canary calls go through
the real handler and pipeline into memory, the trial insert is rolled back, and endpoints, nodes and models are
inspected, never called. The application's lifespan does run, unless one says otherwise.
"""

from llmctx.ops.doctor.doctor import examine
from llmctx.ops.doctor.finding import Finding
from llmctx.ops.doctor.loading import load_app

__all__ = ["Finding", "examine", "load_app"]
