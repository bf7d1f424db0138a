"""Values for columns of other types than ours: somebody's table has numbered users, times without a zone, short ids.

The driver is strict: text is no number to it, and 65 characters are too many for 64. What cannot be made to fit is cut
or left out, and `Lossy` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

from llmctx.core.record import IDS, SNAPSHOTS
from llmctx.storage.sanitize import shortened, shortened_id, storable_json

_PARAMETERS: Final = re.compile(r"\((\d+)(?:,(\d+))?\)")
_INTEGERS: Final = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]*")
Converter = Callable[[Any], Any]


class Lossy(Exception):
    """A value does not fit: take `instead`."""

    def __init__(self, instead: Any = None) -> None:
        self.instead = instead


def is_known(kind: str) -> bool:
    """Whether `converter` makes values of this type; of others it makes text, which the database must read."""
    return _family(kind) in _CONVERTERS


def _family(kind: str) -> str:
    return _PARAMETERS.sub("", kind)


def placeholder(at: int, kind: str) -> str:
    """`$1`; of a type that we know nothing of, text that the database reads itself."""
    return f"${at}" if is_known(kind) else f"CAST(${at}::text AS {kind})"


def converter(name: str, kind: str) -> Converter:
    """What makes a value of our column `name` one of the type `kind`. It raises `Lossy`."""
    make = _CONVERTERS.get(_family(kind), _to_text)
    numbers = _PARAMETERS.search(kind)
    size = int(numbers[1]) if numbers and is_known(kind) else None
    return make(name, kind, size, int(numbers[2] or 0) if numbers else 0)


def enum_value(values: Collection[str]) -> Converter:
    """For a column of an enumerated type, or of one that no text of ours could be: then there are none."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise Lossy
        return str(value)  # of an enum of ours, its value

    return convert


def only_overflow(convert: Converter) -> Converter:
    """For the column beside one that `convert` fills: what does not fit there, else nothing."""

    def rest(value: Any) -> Any:
        try:
            convert(value)
        except Lossy:
            return value
        return None

    return rest


def lossless(convert: Converter) -> Converter:
    """`convert` for a column beside which stands what does not fit: nothing is lost then."""

    def fitting(value: Any) -> Any:
        try:
            return convert(value)
        except Lossy as lossy:
            return lossy.instead

    return fitting


def discard(value: Any) -> None:
    """For a column that is not needed any more."""


def _to_text(name: str, kind: str, size: int | None, scale: int) -> Converter:
    def convert(value: Any) -> str:
        text = value if isinstance(value, str) else value.isoformat() if isinstance(value, datetime) else str(value)
        if size is not None and len(text) > size:
            raise Lossy(shortened_id(text, size) if name in IDS else shortened(text, size))
        return text

    return convert


def _to_integer(name: str, kind: str, size: int | None, scale: int) -> Converter:
    bound = _INTEGERS[kind]

    def convert(value: Any) -> int:
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise Lossy from None
        # "007" is another user than "7"
        if not -bound <= number < bound or (isinstance(value, str) and str(number) != value):
            raise Lossy
        return number

    return convert


def _to_numeric(name: str, kind: str, size: int | None, scale: int) -> Converter:
    step = Decimal(1).scaleb(-scale)

    def convert(value: Any) -> Decimal:
        if name in IDS and (scale or not _WHOLE.fullmatch(str(value))):  # "007", "7.0" and "7" are three users
            raise Lossy
        try:
            given = number = Decimal(str(value))
            if size is not None:
                number = given.quantize(step)
        except ArithmeticError:
            raise Lossy from None
        if not number.is_finite() or (size is not None and abs(number) >= Decimal(10) ** (size - scale)):
            raise Lossy
        if number != given:
            raise Lossy(number)
        return number

    return convert


def _to_float(name: str, kind: str, size: int | None, scale: int) -> Converter:
    bound = 3.4e38 if kind == "real" else 1.7e308

    def convert(value: Any) -> float:
        if name in IDS:  # of two large ones it makes the same
            raise Lossy
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise Lossy from None
        if not abs(number) <= bound:
            raise Lossy
        return number

    return convert


def _to_time(name: str, kind: str, size: int | None, scale: int) -> Converter:
    def convert(value: Any) -> datetime | date:
        if not isinstance(value, datetime):
            raise Lossy
        if "without" in kind:
            return value.astimezone(UTC).replace(tzinfo=None)
        return value.astimezone(UTC).date() if kind == "date" else value

    return convert


def _to_uuid(name: str, kind: str, size: int | None, scale: int) -> Converter:
    def convert(value: Any) -> UUID:
        try:
            return value if isinstance(value, UUID) else UUID(value)
        except (ValueError, TypeError, AttributeError):
            raise Lossy from None

    return convert


def _to_flag(name: str, kind: str, size: int | None, scale: int) -> Converter:
    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise Lossy
        return value

    return convert


def _to_json(name: str, kind: str, size: int | None, scale: int) -> Converter:
    def convert(value: Any) -> str | None:
        if name == "attributes":
            return str(value)  # JSON already
        if name in SNAPSHOTS:
            try:
                orjson.loads(value)
            except ValueError:
                return storable_json(value)
            return _NUL_ESCAPE.sub(r"\1\\ufffd", value)
        return storable_json(value if isinstance(value, (str, int, float, bool)) else str(value))

    return convert


_NUL_ESCAPE: Final = re.compile(r"((?<!\\)(?:\\\\)*)\\u0000")  # jsonb has no NUL; text keeps its escape
_CONVERTERS: Final[dict[str, Callable[[str, str, int | None, int], Converter]]] = {
    "text": _to_text, "character varying": _to_text, "character": _to_text, "smallint": _to_integer,
    "integer": _to_integer, "bigint": _to_integer, "numeric": _to_numeric, "double precision": _to_float,
    "real": _to_float, "timestamp with time zone": _to_time, "timestamp without time zone": _to_time,
    "date": _to_time, "uuid": _to_uuid, "boolean": _to_flag, "jsonb": _to_json, "json": _to_json,
}  # fmt: skip
