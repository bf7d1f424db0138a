"""Single values as JSON spells them: times as ISO 8601, ids and exact numbers as text."""

from __future__ import annotations

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
