"""Values as JSON spells them: times as ISO 8601, ids and exact numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID


def scalar(value: Any) -> Any:
    """Return `value` as JSON has it; lists, dicts and what JSON has words for stay as they are."""
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"  # 0.000000001, not 1E-9
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, (str, int, float, bool, dict, list)) or value is None else str(value)


def to_jsonable(value: Any, *, exact: bool) -> Any:
    """Return `value` made of what JSON can hold: dataclasses and mappings as objects, NaN and infinity as null.

    Args:
        exact: decimal numbers, which money is, become text; otherwise floats.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return to_jsonable(asdict(value), exact=exact)
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(inner, exact=exact) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(inner, exact=exact) for inner in value]
    if isinstance(value, (Decimal, float)):
        if not math.isfinite(value):
            return None
        return scalar(value) if exact else float(value)
    return scalar(value)
