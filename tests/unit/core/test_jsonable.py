"""What values are in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from llmctx.core.jsonable import scalar, to_jsonable


class Colour(Enum):
    RED = "red"


@dataclass
class Row:
    cost: Decimal
    ids: tuple[Any, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 11, 29, 17, 26, tzinfo=UTC), "2026-11-29T17:26:00+00:00"),
        (date(2026, 11, 29), "2026-11-29"),
        (Decimal("1E-9"), "0.000000001"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x01\xff", "01ff"),
        (Colour.RED, "red"),
        (None, None),
        (1.5, 1.5),
        (range(2), "range(0, 2)"),
    ],
)
def test_one_value(value: Any, expected: Any) -> None:
    assert scalar(value) == expected


def test_money_is_text_where_it_has_to_be_exact_and_a_number_elsewhere() -> None:
    row = Row(Decimal("0.10"), (UUID(int=1),))
    assert to_jsonable(row, exact=True) == {"cost": "0.10", "ids": [str(UUID(int=1))]}
    assert to_jsonable(row, exact=False)["cost"] == 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN")])
def test_what_json_has_no_number_for_is_null(value: Any) -> None:
    assert json.dumps(to_jsonable({"a": value}, exact=False)) == '{"a": null}'
