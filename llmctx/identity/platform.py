"""The user whom a platform has authenticated: LangGraph's server and those that are built like it (Aegra)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmctx.identity.authority import data_id, refuse_malformed

PLATFORM_USER: Final = "langgraph_auth_user"
"""The platform's key in `config["configurable"]`."""
RUNTIME: Final = "__pregel_runtime"
"""LangGraph's key for its `Runtime` there; the constant is private."""


_DATA: Final = (str, bytes, int, float, list, tuple, set, frozenset, Mapping)


def has_platform_user(configurable: Mapping[str, Any]) -> bool:
    """Return whether `platform_user` may have an answer. Asked at each call."""
    if PLATFORM_USER in configurable:
        return True
    runtime = configurable.get(RUNTIME)
    try:
        return runtime is not None and getattr(runtime, "server_info", None) is not None  # younger than the rest of it
    except Exception:  # noqa: BLE001  an object of any kind
        refuse_malformed()
        return False


def platform_user(configurable: Mapping[str, Any]) -> str | None:
    """Return the user whom the platform has authenticated; None without one.

    It hands on the object that its authentication has made. What a client sends is JSON, and never has attributes.
    """
    try:
        server = getattr(configurable.get(RUNTIME), "server_info", None)
        user = getattr(server, "user", None) or configurable.get(PLATFORM_USER)
        if user is None or isinstance(user, _DATA) or getattr(user, "is_authenticated", True) is False:
            return None
        return data_id(user.identity)
    except Exception:  # noqa: BLE001  an object of the platform's, or of the team's own authentication
        refuse_malformed()
        return None
