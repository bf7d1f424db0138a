"""Ids as they stand in a node's state, config or context: objects of any kind, which may raise at a mere look."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from llmctx.identity.authority import data_id, refuse_malformed

_OPAQUE: Final = (str, bytes, int, float, list, tuple, set, frozenset, type(None))
"""States without fields to look at."""


def read_ids(source: Any, pairs: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return what `source` (a mapping, dataclass, pydantic model, any object) has under the keys of `pairs`."""
    if isinstance(source, _OPAQUE):
        return {}
    look = source.get if isinstance(source, Mapping) else partial(getattr, source)
    found = {}
    for name, key in pairs:
        try:
            value = look(key, None)
            if value is not None and (known := data_id(value)) is not None:
                found[name] = known
        except Exception:  # noqa: BLE001  as above
            refuse_malformed()
    return found


def fill_ids(known_ids: dict[str, Any], ids: dict[str, Any]) -> dict[str, Any]:
    """Return `known_ids`, filled by the next source if both may be of the same person."""
    if not known_ids or not ids:
        return known_ids or ids
    for name in ("user_id", "session_id"):
        if name in known_ids and name in ids and str(known_ids[name]) != str(ids[name]):
            return known_ids
    return {**ids, **known_ids}


def has_vouching_handler(callbacks: object) -> bool:
    """Return whether a handler of ours among a config's callbacks knows whose the run is."""
    handlers = getattr(callbacks, "handlers", callbacks)
    return isinstance(handlers, list) and any(getattr(one, "is_trusted", False) is True for one in handlers)
