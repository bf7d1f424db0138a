"""The format of a file: frames of magic, length, kind, CRC and payload, one behind the other.

A reader believes nothing. Where a frame is not whole it looks for the next beginning of one, so that a torn tail, a
flipped bit or a page of zeros costs what it hit and no more. The magic begins with a byte that no UTF-8 text
contains: what users write can never pass for a frame.

Nothing in a frame can be executed: ids are bytes, everything else is JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

import orjson

from llmctx.core.columns import ColumnKind
from llmctx.core.record import COLUMNS, SPECS, CallRecord
from llmctx.storage.sanitize import jsonable

MAGIC: Final = b"\xff\xabJ1"
LARGEST: Final = 64 * 1024 * 1024  # bytes of a payload; what claims to be more is damaged
ID_BYTES: Final = 16
_PATIENCE: Final = 64  # how often a file is read over, at most, in search of whole frames

_HEAD: Final = struct.Struct("<4sIBI")
_START: Final = struct.Struct("<16sd")


class Kind(IntEnum):
    """The kind of a frame: a start, a row, …"""

    OPENED = 0  # by which process this file was begun
    START = 1  # a call has started
    RECORD = 2  # the whole row of a call
    DONE = 3  # these calls are stored, or dead letters
    END = 4  # the process closed its journal
    REFUSED = 5  # a dead letter: a row that the destination will never take, and why


_KIND_START: Final = int(Kind.START)


class Frame(NamedTuple):
    kind: int
    payload: bytes


class Start(NamedTuple):
    """A call's marker."""

    call_id: bytes
    created_s: float
    fields: dict[str, Any]


@dataclass(slots=True)
class Damage:
    """The parts that could not be read."""

    places: int = 0
    bytes: int = 0


def frame(kind: int, payload: bytes) -> bytes:
    length = len(payload)
    return _HEAD.pack(MAGIC, length, kind, _sum(length, kind, payload)) + payload


def frames_in(data: bytes, damage: Damage | None = None) -> Iterator[Frame]:
    """Yield every whole frame of `data`. Add what lies between them to `damage`. Never raises, never stands still."""
    at, size = 0, len(data)
    patience = _PATIENCE * size
    while at < size:
        found = _frame_at(data, at)
        if isinstance(found, Frame):
            yield found
            at += _HEAD.size + len(found.payload)
            continue
        # the next beginning of a whole frame: a length that was hit must not swallow what follows it
        patience -= found
        next_at = data.find(MAGIC, at + 1)
        while next_at >= 0 and not isinstance(found := _frame_at(data, next_at), Frame):
            patience -= found
            next_at = data.find(MAGIC, next_at + 1) if patience > 0 else -1
        if damage is not None:
            damage.places += 1
            damage.bytes += (size if next_at < 0 else next_at) - at
        if next_at < 0:
            return
        at = next_at


def _frame_at(data: bytes, at: int) -> Frame | int:
    """Return the frame that begins there; if none does, how many bytes it took to see that."""
    if len(data) - at < _HEAD.size:
        return 0
    magic, length, kind, checksum = _HEAD.unpack_from(data, at)
    begin = at + _HEAD.size
    if magic != MAGIC or length > LARGEST or length > len(data) - begin:
        return 0
    payload = data[begin : begin + length]
    return Frame(kind, payload) if _sum(length, kind, payload) == checksum else length


def _sum(length: int, kind: int, payload: bytes) -> int:
    return crc32(payload, (length << 8 | kind) & 0xFFFFFFFF)


# -- payloads ---------------------------------------------------------------------------------------------------------


def start_frame(call_id: bytes, created_s: float, fields: Mapping[str, Any] | bytes) -> bytes:
    """Return a whole frame in one step: it is made on the caller's thread. `fields` may be JSON already."""
    payload = _START.pack(call_id, created_s) + (fields if type(fields) is bytes else as_json(fields))
    length = len(payload)
    return _HEAD.pack(MAGIC, length, _KIND_START, crc32(payload, (length << 8 | _KIND_START) & 0xFFFFFFFF)) + payload


def start_of(payload: bytes) -> Start:
    """Return the marker in `payload`. Raise ValueError for what is none."""
    if len(payload) < _START.size:
        raise ValueError("too short for a start")
    call_id, created_s = _START.unpack_from(payload)
    fields = orjson.loads(payload[_START.size :])
    if not isinstance(fields, dict):
        raise ValueError("a start without fields")
    return Start(call_id, created_s, fields)


def pack_record(record: CallRecord) -> bytes:
    """Return `record` as bytes: its call_id, then JSON. `unpack_record` gives the same record back."""
    return record.call_id.bytes + as_json(record)


def unpack_record(payload: bytes) -> CallRecord:
    """Return what `pack_record` packed, perhaps in another version: unknown columns are left out, missing ones None.

    Raise ValueError for what is no record.
    """
    try:
        record = record_of(orjson.loads(payload[ID_BYTES:]))
        if record.call_id.bytes != payload[:ID_BYTES]:
            raise ValueError("a record of another call")
        return record
    except (KeyError, TypeError, AttributeError, ArithmeticError) as problem:
        raise ValueError(f"no record: {problem!r}") from None


def record_of(columns: Mapping[str, Any]) -> CallRecord:
    """Return a record from its columns as JSON has them."""
    # with the names that the class has: to compare others with them takes longer than all else
    fields = {name: value for name in COLUMNS if (value := columns.get(name)) is not None}
    for name, read in _READERS:
        if name in fields:
            fields[name] = read(fields[name])
    fields.setdefault("model", "unknown")
    return CallRecord(**fields)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is None else at.astimezone(UTC)


_BY_KIND: Final[Mapping[ColumnKind, Callable[[Any], Any]]] = {
    ColumnKind.TIME: _time, ColumnKind.UUID: UUID, ColumnKind.MONEY: Decimal,
}  # fmt: skip
_READERS: Final = tuple((spec.name, _BY_KIND[spec.kind]) for spec in SPECS if spec.kind in _BY_KIND)
"""How to read the columns for whose values JSON has no word."""


def columns_of(record_frame: Frame) -> dict[str, Any] | None:
    """Return what a frame says of a call, by column; None for one that says nothing of any."""
    try:
        if record_frame.kind == Kind.START:
            return start_of(record_frame.payload).fields
        if record_frame.kind in (Kind.RECORD, Kind.REFUSED):
            columns = orjson.loads(record_frame.payload[ID_BYTES:])
            columns = columns.get("record", columns)
            return columns if isinstance(columns, dict) else None
    except (ValueError, AttributeError):
        pass
    return None


def with_columns(record_frame: Frame, columns: Mapping[str, Any]) -> bytes:
    """Return the payload of a frame that has `columns_of`, with other columns."""
    if record_frame.kind == Kind.START:
        start = start_of(record_frame.payload)
        return _START.pack(start.call_id, start.created_s) + as_json(columns)
    whole = orjson.loads(record_frame.payload[ID_BYTES:])
    return record_frame.payload[:ID_BYTES] + as_json(
        {**whole, "record": columns} if record_frame.kind == Kind.REFUSED else columns
    )


def done_payload(call_ids: list[bytes]) -> bytes:
    return b"".join(call_ids)


def ids_of(payload: bytes) -> Iterator[bytes]:
    for at in range(0, len(payload) - ID_BYTES + 1, ID_BYTES):
        yield payload[at : at + ID_BYTES]


def as_json(value: Any) -> bytes:
    """Return `value`, a record or what JSON has words for, as JSON; what it has none for is told in other words."""
    try:
        return orjson.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # a key that is no text, a lone surrogate, a huge number, a circle
        fields = {name: getattr(value, name) for name in COLUMNS} if isinstance(value, CallRecord) else value
        return orjson.dumps(jsonable(fields))
