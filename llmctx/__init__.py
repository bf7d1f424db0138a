"""Every LLM call becomes exactly one row in your own database, with the right session and user.

Importing this module loads nothing but the standard library. What needs a framework is imported from its own
module: `llmctx.calllog`, `llmctx.middleware`, `llmctx.graph`.
"""

from llmctx.core.errors import (
    ConfigError,
    DatabaseUnavailable,
    InvalidToken,
    JournalUnavailable,
    LlmctxError,
    MigrationsPending,
    NotACallLog,
)
from llmctx.identity.binding import amend, bind
from llmctx.identity.carry import carry
from llmctx.identity.handover import hand_over, take_over
from llmctx.identity.present_scope import current
from llmctx.identity.scope import CallContext

__version__ = "0.1.0"

# The former paths of llmctx.graph.agents and of llmctx.errors, .record and .registry, until 0.3
__path__ += [f"{path}/_deprecated" for path in __path__]

__all__ = [
    "CallContext",
    "ConfigError",
    "DatabaseUnavailable",
    "InvalidToken",
    "JournalUnavailable",
    "LlmctxError",
    "MigrationsPending",
    "NotACallLog",
    "amend",
    "bind",
    "carry",
    "current",
    "hand_over",
    "take_over",
]
