"""A web page over the call log: what a session said, what a user costs, what fails, and which calls lack their ids.

    from llmctx.dashboard import Access, Dashboard

    app.mount("/admin/llm", Dashboard(call_log, authorize=who_may))

The folder owns pages, their JSON and CSV, templates and static files. It reads through `storage.queries` alone, writes
nothing, has no state but the URL, and loads nothing from another host. Nothing of it is imported unless it is mounted;
it needs the extra `llmctx[ui]`.
"""

from __future__ import annotations

from llmctx.core.errors import ConfigError

try:
    import jinja2 as _jinja2
except ImportError:
    raise ConfigError('The dashboard needs jinja2: pip install "llmctx[ui]"') from None
else:
    del _jinja2

from llmctx.dashboard.access import Access, Authorize
from llmctx.dashboard.app import Dashboard

__all__ = ["Access", "Authorize", "Dashboard"]
