"""The format of a message: a frame of rows, so that what a broker costs is paid once for many.

A version, how many rows, and how many bytes they have; then, compressed, each row as the journal has it
(`pack_record`), behind its length. What is unknown of a row is left out when it is read, and what is missing is NULL
(`unpack_record`): older and newer versions understand each other.

A reader believes nothing: what claims to be more than `LARGEST` is not unpacked.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

VERSION: Final = 1
ROWS: Final = 200
"""Limit of a frame in rows."""
BYTES: Final = 768 * 1024
"""Limit of a frame in bytes before they are compressed, to a third or less: what does not shrink is still a message
that any broker takes. A row that is larger has a frame of its own."""
LARGEST: Final = 64 * 1024 * 1024
"""Limit of what a frame may hold when it is read: of one row that is as large as the journal takes it."""
MOST_ROWS: Final = 10_000
MESSAGE_ID: Final = "Nats-Msg-Id"
"""Header with the id of a message."""

_HEAD: Final = struct.Struct(">BHI")
_LENGTH: Final = struct.Struct(">I")
_LEVEL: Final = 1  # 3 saves a tenth of the bytes for twice the time


class FrameError(ValueError):
    """Raised for bytes that are no frame, or one of a version to come."""


def split(sizes: Iterable[int]) -> list[int]:
    """Return how many rows go into each frame, for payloads of these sizes, in their order."""
    counts: list[int] = []
    rows = size = 0
    for one in sizes:
        if rows and (rows == ROWS or size + one > BYTES):
            counts.append(rows)
            rows = size = 0
        rows += 1
        size += one
    return [*counts, rows] if rows else counts


def encode(payloads: Sequence[bytes]) -> bytes:
    """Return a frame of `payloads`; the same bytes each time. Raise ValueError for more than a reader takes."""
    body = b"".join([part for payload in payloads for part in (_LENGTH.pack(len(payload)), payload)])
    if not payloads or len(payloads) > MOST_ROWS or len(body) > LARGEST:
        raise ValueError(f"a frame of {len(payloads)} rows and {len(body)} bytes")
    return _HEAD.pack(VERSION, len(payloads), len(body)) + _tools().compressor.compress(body)


def decode(data: bytes) -> list[bytes]:
    """Return the payloads of a frame. Raise `FrameError` for what is none."""
    if len(data) < _HEAD.size:
        raise FrameError("too short for a frame")
    version, count, size = _HEAD.unpack_from(data)
    if version != VERSION:
        raise FrameError(f"a frame of version {version}: this is version {VERSION}")
    if not 0 < count <= MOST_ROWS or size > LARGEST:
        raise FrameError(f"a frame that claims {count} rows and {size} bytes")
    return _payloads(_unpacked(data[_HEAD.size :], size), count)


def _unpacked(packed: bytes, size: int) -> bytes:
    zstandard = _tools().library
    try:
        # what it says of itself is what would be allocated
        if zstandard.frame_content_size(packed) != size:
            raise FrameError("a frame that does not have the size that it claims")
        unpacked: bytes = _tools().decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as problem:
        raise FrameError(f"a frame that cannot be unpacked: {problem}") from None
    return unpacked


class _Tools(threading.local):
    """The compressor of one thread, made once: each has a megabyte of its own, which the kernel would clear anew."""

    def __init__(self) -> None:
        import zstandard  # late: commands import this where no broker is set, and its package is not installed

        self.library = zstandard
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_tools: Final = cache(_Tools)


def _payloads(body: bytes, count: int) -> list[bytes]:
    payloads, at = [], 0
    while at < len(body):
        if len(body) - at < _LENGTH.size:
            raise FrameError("a frame with an incomplete row")
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        if length > len(body) - at:
            raise FrameError("a frame with an incomplete row")
        payloads.append(body[at : at + length])
        at += length
    if len(payloads) != count:
        raise FrameError(f"a frame of {len(payloads)} rows that claims {count}")
    return payloads


def message_id(call_ids: Iterable[bytes]) -> str:
    """Return the id of the frame of these calls: the broker takes a frame that is sent again for the same."""
    return hashlib.blake2b(b"".join(call_ids), digest_size=16).hexdigest()
