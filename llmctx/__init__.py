"""Every LLM call becomes exactly one row in your own database, with the right session and user.

Importing this module loads nothing but the standard library. What needs a framework is imported from its own
module: `llmctx.calllog`, `llmctx.middleware`, `llmctx.graph`.
"""

from llmctx.context import CallContext, amend, bind, current
from llmctx.handover import hand_over, take_over
from llmctx.jobs import carry

__version__ = "0.1.0"

__all__ = ["CallContext", "amend", "bind", "carry", "current", "hand_over", "take_over"]
