"""Values for columns of other types than ours: a host's table has numbered users, times without a zone, short ids.

The driver is strict: text is no number to it, and 65 characters are too many for 64. What cannot be made to fit is cut
or left out, and `Lossy` says so. The writer, the conditions of queries and `backfill` all convert here, so that an id
is looked for exactly as it was stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

from llmctx.core.record import IDS, SNAPSHOTS
from llmctx.storage.sanitize import shorten, shorten_id, storable_json

_PARAMETERS: Final = re.compile(r"\((\d+)(?:,(\d+))?\)")
_INTEGERS: Final = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]*")
Converter = Callable[[Any], Any]
T = TypeVar("T")


class Lossy(ValueError):
    """A value does not fit: take `instead`."""

    def __init__(self, instead: Any = None) -> None:
        super().__init__("the column cannot hold that value")
        self.instead = instead


def is_known(kind: str) -> bool:
    """Return whether `converter` makes values of this type; of others it makes text, which the database must read."""
    return _family(kind) in _CONVERTERS


def _family(kind: str) -> str:
    return _PARAMETERS.sub("", kind)


def placeholder(at: int, kind: str) -> str:
    """Return `$1`; for a type that we know nothing of, text that the database reads itself."""
    return f"${at}" if is_known(kind) else f"CAST(${at}::text AS {kind})"


class _Target(NamedTuple):
    """A column: our name for it, its type in PostgreSQL's words, and that type's length or precision, and scale."""

    name: str
    kind: str
    size: int | None
    scale: int


def converter(name: str, kind: str) -> Converter:
    """Return what makes a value of our column `name` one of the type `kind`. It raises `Lossy`."""
    numbers = _PARAMETERS.search(kind)
    size = int(numbers[1]) if numbers and is_known(kind) else None
    to = _Target(name, kind, size, int(numbers[2] or 0) if numbers else 0)
    return partial(_CONVERTERS.get(_family(kind), _to_text), to)


def to_column(column: sa.ColumnElement[Any], value: Any) -> Any:
    """Return `value`, an id, as the reflected `column` takes it. Raises `Lossy`."""
    if isinstance(column.type, sa.Enum):
        return enum_value(column.type.enums)(value)
    kind = _spelled(column.type)
    return value if kind is None else converter(column.key or "", kind)(value)


def from_json(column: sa.ColumnElement[Any], value: Any) -> Any:
    """Return a value of `column` that was written as JSON. Raises ValueError or TypeError if it is none of its type."""
    kind = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    if value is None or isinstance(kind, sa.Enum):
        return value
    return datetime.fromisoformat(value) if isinstance(kind, sa.DateTime) else to_column(column, value)


def _spelled(kind: TypeEngine[Any]) -> str | None:
    """Return the name that PostgreSQL has for a reflected type of ids; None for other types."""
    kind = kind.impl_instance if isinstance(kind, TypeDecorator) else kind
    if isinstance(kind, sa.Integer):
        return (
            "smallint"
            if isinstance(kind, sa.SmallInteger)
            else "bigint"
            if isinstance(kind, sa.BigInteger)
            else "integer"
        )
    if isinstance(kind, sa.Float):
        return "double precision"
    if isinstance(kind, sa.Numeric):
        return "numeric" if kind.precision is None else f"numeric({kind.precision},{kind.scale or 0})"
    if isinstance(kind, sa.String):
        return "text" if kind.length is None else f"character varying({kind.length})"
    return "uuid" if isinstance(kind, sa.Uuid) else None


def enum_value(values: Collection[str]) -> Converter:
    """Return a converter for an enumerated type, or for one that no text of ours could be: then there are no values."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise Lossy
        return str(value)  # of an enum of ours, its value

    return convert


def only_overflow(convert: Converter) -> Converter:
    """Return a converter for the column beside one that `convert` fills: what does not fit there, else nothing."""

    def rest(value: Any) -> Any:
        try:
            convert(value)
        except Lossy:
            return value
        return None

    return rest


def lossless(convert: Converter) -> Converter:
    """Return `convert` for a column beside which stands what does not fit: nothing is lost then."""

    def fitting(value: Any) -> Any:
        try:
            return convert(value)
        except Lossy as lossy:
            return lossy.instead

    return fitting


def discard(value: Any) -> None:
    """Store nothing: the column is not needed any more."""


def _to_text(to: _Target, value: Any) -> str:
    text = value if isinstance(value, str) else value.isoformat() if isinstance(value, datetime) else str(value)
    if to.size is not None and len(text) > to.size:
        raise Lossy(shorten_id(text, to.size) if to.name in IDS else shorten(text, to.size))
    return text


def _to_integer(to: _Target, value: Any) -> int:
    number = _number(int, value)
    bound = _INTEGERS[to.kind]
    # "007" is another user than "7"
    if not -bound <= number < bound or (isinstance(value, str) and str(number) != value):
        raise Lossy
    return number


def _to_numeric(to: _Target, value: Any) -> Decimal:
    if to.name in IDS and (to.scale or not _WHOLE.fullmatch(str(value))):  # "007", "7.0" and "7" are three users
        raise Lossy
    try:
        given = number = Decimal(str(value))
        if to.size is not None:
            number = given.quantize(Decimal(1).scaleb(-to.scale))
    except ArithmeticError:
        raise Lossy from None
    if not number.is_finite() or (to.size is not None and abs(number) >= Decimal(10) ** (to.size - to.scale)):
        raise Lossy
    if number != given:
        raise Lossy(number)
    return number


def _to_float(to: _Target, value: Any) -> float:
    if to.name in IDS:  # of two large ones it makes the same
        raise Lossy
    number = _number(float, value)
    if not abs(number) <= (3.4e38 if to.kind == "real" else 1.7e308):
        raise Lossy
    return number


def _number(make: Callable[[Any], T], value: Any) -> T:
    try:
        return make(value)
    except (TypeError, ValueError, OverflowError):
        raise Lossy from None


def _to_time(to: _Target, value: Any) -> datetime | date:
    if not isinstance(value, datetime):
        raise Lossy
    if "without" in to.kind:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value.astimezone(UTC).date() if to.kind == "date" else value


def _to_uuid(to: _Target, value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise Lossy from None


def _to_flag(to: _Target, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Lossy
    return value


def _to_json(to: _Target, value: Any) -> str | None:
    if to.name == "attributes":
        return str(value)  # JSON already
    if to.name in SNAPSHOTS:
        try:
            orjson.loads(value)
        except ValueError:
            return storable_json(value)
        return _NUL_ESCAPE.sub(r"\1\\ufffd", value)
    return storable_json(value if isinstance(value, (str, int, float, bool)) else str(value))


_NUL_ESCAPE: Final = re.compile(r"((?<!\\)(?:\\\\)*)\\u0000")  # jsonb has no NUL; text keeps its escape
_CONVERTERS: Final[dict[str, Callable[[_Target, Any], Any]]] = {
    "text": _to_text, "character varying": _to_text, "character": _to_text, "smallint": _to_integer,
    "integer": _to_integer, "bigint": _to_integer, "numeric": _to_numeric, "double precision": _to_float,
    "real": _to_float, "timestamp with time zone": _to_time, "timestamp without time zone": _to_time,
    "date": _to_time, "uuid": _to_uuid, "boolean": _to_flag, "jsonb": _to_json, "json": _to_json,
}  # fmt: skip
