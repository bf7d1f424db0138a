"""Texts and JSON that fit: what is kept of a prompt or an answer, bounded twice.

On the caller's thread `cut` and `bounded_copy` take what a snapshot can hold at most and let go of the rest at once: a
megabyte of prompt costs two slices, a structure without end costs its first nodes. What they return is immutable
or ours alone, so that the application may change its messages afterwards.

In the pipeline `to_json_text` turns that into JSON text of at most `limit` bytes, and `snapshot` does both for any
value. It is cut inside of its longest texts, each of which says how much is missing, so that it stays valid JSON. It
never raises, and PostgreSQL takes what it returns: no NUL, no lone surrogates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import date, time
from decimal import Decimal
from enum import Enum
from itertools import repeat
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from llmctx.core.diagnostics import diagnostics
from llmctx.core.text import storable

LIMIT: Final = 32 * 1024
NODES: Final = 512  # values kept of one structure: arguments of a tool, blocks of a message
DEPTH: Final = 16
KEY_LIMIT: Final = 128  # characters of a key
BINARY_MIN: Final = 256  # a shorter string is kept even if it may be base64
NOTE_ROOM: Final = 40  # what a note may take, in bytes

_BINARY_KEYS: Final = frozenset(
    {"data", "base64", "bytes", "file_data", "b64_json", "image_data", "blob", "result", "encrypted_content",
     "redacted_content", "signature"}
)  # fmt: skip
_MIME_KEYS: Final = ("mime_type", "media_type", "mimeType", "mediaType", "format", "output_format")
_BASE64: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\r\n")

Above = tuple[dict[Any, Any], Any] | None  # a dict, and what is above it in turn


class Cut(NamedTuple):
    """A text of which only both ends were kept."""

    head: str
    tail: str
    length: int


class Pieces(NamedTuple):
    """A text that came in pieces, each of which may begin with what no pattern finds in the middle of a word."""

    pieces: tuple[str, ...]


def cut(text: str, limit: int) -> str | Cut:
    """Return `text`, or both of its ends if it is longer than `limit` characters."""
    length = len(text)
    if length <= limit:
        return text if type(text) is str else str.__str__(text)  # a subclass may carry anything
    half = limit // 2
    return Cut(text[: limit - half], text[length - half :] if half else "", length)


def join_texts(parts: list[str], limit: int) -> str | Cut | Pieces:
    """Return `cut` of the parts put together, without putting together more than is kept."""
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return cut(parts[0], limit) if parts else ""
    length = sum(map(len, parts))
    if length <= limit:
        return Pieces(tuple(map(str.__str__, parts)))
    half = limit // 2
    tail = _first(reversed(parts), half, from_end=True)
    return Cut(_first(parts, limit - half), tail, length)


def _first(parts: Iterable[str], room: int, *, from_end: bool = False) -> str:
    kept: list[str] = []
    for part in parts:
        if room <= 0:
            break
        piece = part[-room:] if from_end else part[:room]
        kept.append(piece)
        room -= len(piece)
    return "".join(reversed(kept) if from_end else kept)


class SizeBudget:
    """The characters and nodes of a structure that may still be kept. One is shared by all parts of a message list."""

    __slots__ = ("chars", "nodes", "text_limit")

    def __init__(self, text_limit: int, nodes: int = NODES) -> None:
        self.text_limit = text_limit
        self.chars = 2 * text_limit
        self.nodes = nodes

    def text(self, text: str) -> str | Cut:
        """Return `text` as far as there is room, and a little in any case, so that none vanishes without a trace."""
        length = len(text) + 16  # what stands around it
        limit = self.text_limit if self.chars > self.text_limit else max(self.chars, 64)
        self.chars -= length if length < limit else limit
        return cut(text, limit)


def bounded_copy(value: Any, room: SizeBudget, *, depth: int = 0, key: str = "", above: Above = None) -> Any:
    """Return a bounded copy of `value` that is ours alone: texts, numbers, lists and dicts, with notes for the rest.

    `key` and `above`, the dicts around `value`, tell what kind of binary it is.
    """
    room.nodes -= 1
    if isinstance(value, str):
        if len(value) > BINARY_MIN and (note := _base64_note(value, key, above)):
            return note
        return room.text(value)
    if value is None or isinstance(value, (bool, int, float, Cut)):
        return value
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        if depth >= DEPTH:
            return f"…[nested deeper than {DEPTH} levels]…"
        return _keep_dict(value, room, depth, above) if isinstance(value, dict) else _keep_list(value, room, depth)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _note(_mime(above), value.nbytes if isinstance(value, memoryview) else len(value))
    if isinstance(value, Enum):
        return bounded_copy(value.value, room, depth=depth + 1)
    if isinstance(value, (date, time, UUID, Decimal)):
        return str(value)
    return f"<{type(value).__name__}>"  # its own words might take for ever, or hold what must not be kept


def _keep_dict(value: dict[Any, Any], room: SizeBudget, depth: int, above: Above) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    around = (value, above)
    for name, item in value.items():
        if room.nodes <= 0:
            break
        label = name if type(name) is str and len(name) <= KEY_LIMIT else _label(name)
        if type(item) is str and len(item) <= BINARY_MIN:  # most are: spare them the call
            room.nodes -= 1
            room.chars -= len(item)
            kept[label] = item
        else:
            kept[label] = bounded_copy(item, room, depth=depth + 1, key=label, above=around)
    if len(kept) < len(value):
        kept["…"] = f"[{len(value) - len(kept)} more keys cut]"
    return kept


def _keep_list(value: Any, room: SizeBudget, depth: int) -> list[Any]:
    kept: list[Any] = []
    for item in value:
        if room.nodes <= 0:
            break
        kept.append(bounded_copy(item, room, depth=depth + 1))
    if len(kept) < len(value):
        kept.append(f"…[{len(value) - len(kept)} more items cut]…")
    return kept


def _label(name: Any) -> str:
    if isinstance(name, str):
        return name[:KEY_LIMIT]
    return str(name)[:KEY_LIMIT] if _is_scalar(name) else f"<{type(name).__name__}>"


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and value.bit_length() < 256)


def _base64_note(text: str, key: str, above: Above) -> str | None:
    """Return what stands for base64: its type and size. None for everything else."""
    if text.startswith("data:") and (comma := text.find(";base64,", 0, 200)) > 0:
        return _note(text[5:comma], (len(text) - comma - 8) * 3 // 4)
    if key in _BINARY_KEYS and _BASE64.issuperset(text[:BINARY_MIN]):
        return _note(_mime(above), len(text) * 3 // 4)
    return None


def _note(kind: str, size: int) -> str:
    """Return what stands for a binary of so many bytes: `<png, 48 kB>`."""
    family, _, name = kind.partition("/")
    if name and family in ("image", "audio", "video", "application"):
        kind = name
    amount = f"{size} bytes" if size < 1000 else f"{size / 1e3:.0f} kB" if size < 999_500 else f"{size / 1e6:.1f} MB"
    return f"<{kind.partition(';')[0] or 'binary'}, {amount}>"


def _mime(above: Above) -> str:
    """Return the type that is named beside a binary, or one level further out; else that of the block."""
    block = "binary"
    for _ in range(2):
        if above is None:
            break
        for name in _MIME_KEYS:
            found = above[0].get(name)
            if isinstance(found, str) and 0 < len(found) < 100:
                return found
        kind = above[0].get("type")
        if block == "binary" and isinstance(kind, str) and 0 < len(kind) < 100 and kind != "base64":
            block = kind
        above = above[1]
    return block


def snapshot(value: Any, limit: int = LIMIT) -> str:
    """Return JSON text of any value, at most `limit` bytes, cut inside of its longest texts. Never raises."""
    return to_json_text(bound(value, limit), limit)


def bound(value: Any, limit: int = LIMIT) -> Any:
    """Return `bounded_copy` for a single value of any kind. Never raises."""
    try:
        return bounded_copy(value, SizeBudget(limit, 4 * NODES))
    except Exception as problem:  # noqa: BLE001  a value that cannot be read is no reason to lose the row
        return _unreadable(problem)


def to_json_text(value: Any, limit: int = LIMIT, lost: list[object] | None = None) -> str:
    """Return JSON text of what `bounded_copy` and `cut` returned; add to `lost` what was cut or replaced so far."""
    try:
        whole = orjson.dumps(value)
        if len(whole) <= limit and (_is_plain(value) or not any(sign in whole for sign in _TO_BE_LOOKED_AT)):
            return whole.decode()
    except TypeError:  # it was cut, or holds what JSON does not know
        pass
    lost = [] if lost is None else lost
    try:
        plain = _plain(value, lost)
        texts = list(_texts(plain))
        if sum(map(len, texts)) <= limit and len(dumped := _dumped(plain)) <= limit:
            return dumped.decode()
        lost.append(limit)
        return _squeezed(plain, texts, limit)
    except Exception as problem:  # noqa: BLE001  as above
        return f'"{_unreadable(problem)}"'


_TO_BE_LOOKED_AT: Final = (b"\\u0000", b"null", '"…['.encode(), '"…":'.encode())
"""NUL, what may have been a NaN, and notes on what was cut."""

_MESSAGE: Final = frozenset({"role", "content", "name", "tool_call_id", "refusal"})


def _is_plain(value: Any) -> bool:
    """Return whether this is one message, or a list of them, that has nothing but whole texts, as most have: that is
    seen in a fraction of the time in which their JSON is searched.
    """
    for message in value if type(value) is list else (value,):
        if type(message) is not dict or not _MESSAGE.issuperset(message):
            return False
        for text in message.values():
            if type(text) is not str or "\0" in text or text.startswith("…["):
                return False
    return True


def text_of(text: str | Cut, limit: int) -> str:
    """Return a plain text of at most `limit` bytes, clean, that says what was cut. Never raises."""
    if type(text) is str and len(text) <= limit and text.isascii() and "\0" not in text:
        return text
    try:
        plain = _plain(text, [])
    except Exception as problem:  # noqa: BLE001  as above
        plain = _unreadable(problem)
    found = _shortened(plain, None)
    room = len(found)
    while (size := len(found.encode())) > limit:
        room = min(room - 1, int(room * limit / size), limit - NOTE_ROOM)
        if room <= 0:
            return found.encode()[:limit].decode(errors="ignore")
        found = _shortened(plain, room)
    return found


def _unreadable(problem: Exception) -> str:
    diagnostics.count("snapshot_failed", "a snapshot could not be made; the row contains a note instead", exc=problem)
    return "…[unreadable]…"


def _plain(value: Any, lost: list[object]) -> Any:
    """Return what orjson takes, with clean texts that are still whole. Add what was cut or replaced to `lost`."""
    if isinstance(value, str):
        text = storable(value)
        if text is not value or text.startswith("…["):
            lost.append(value)
        return text
    if isinstance(value, Pieces):
        return _plain("".join(value.pieces), lost)
    if isinstance(value, Cut):
        lost.append(value)
        head, tail = _plain(value.head, lost), _plain(value.tail, lost)
        return Cut(head, tail, max(value.length, len(head) + len(tail)))
    if isinstance(value, dict):
        if "…" in value:
            lost.append(value)
        return {_plain(name, lost): _plain(item, lost) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, lost) for item in value]
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)  # subclasses are unknown to orjson
        lost.append(value)
        return str(float(value))
    if isinstance(value, int) and value.bit_length() > 63:
        lost.append(value)
        return str(value) if value.bit_length() < 4096 else f"<integer of {value.bit_length()} bits>"
    return value


def _squeezed(plain: Any, texts: list[str], limit: int) -> str:
    """Return `plain` as JSON with the longest texts brought down to one level, lower and lower until it fits."""
    sizes = [_size(text) for text in texts]
    level = _level(sorted(sizes), limit - len(_dumped(plain, repeat(-1))))
    while level > 0:
        # by characters, for the text itself: a text of n bytes may keep the same share of its characters
        rooms = (
            len(text) if size <= level else len(text) * level // size for text, size in zip(texts, sizes, strict=True)
        )
        found = _dumped(plain, rooms)
        if len(found) <= limit:
            return found.decode()
        level = min(level * 4 // 5, int(level * limit / len(found)))
    return _thinned(plain, limit)


def _level(sizes: list[int], room: int) -> int:
    """Return the highest level at which texts of these sizes, the shorter ones whole, take `room` bytes at most."""
    for index, size in enumerate(sizes):
        left = len(sizes) - index
        if size * left > room:
            return max(0, room // left - NOTE_ROOM)
        room -= size
    return sizes[-1] if sizes else 0


def _thinned(plain: Any, limit: int) -> str:
    """Return the last resort, for what is large without long texts: a dict's largest entry goes, or a list's middle."""
    for _ in range(64):
        if isinstance(plain, dict) and len(plain) > 1:
            largest = max(plain, key=lambda name: len(_dumped(plain[name])))
            plain = {**plain, largest: f"…[{len(_dumped(plain[largest]))} bytes cut]…"}
        elif isinstance(plain, list) and len(plain) > 3:
            third = len(plain) // 3
            plain = [*plain[:third], f"…[{len(plain) - 2 * third} items cut]…", *plain[-third:]]
        else:
            break
        found = _dumped(plain, repeat(NOTE_ROOM))
        if len(found) <= limit:
            return found.decode()
    note = _dumped(f"…[{len(_dumped(plain))} bytes cut]…")
    return note.decode() if len(note) <= limit else '""'


def _texts(plain: Any) -> Iterator[str]:
    """Return every text of `plain`, in the order in which `_leveled` meets them."""
    if isinstance(plain, (str, Cut)):
        yield _shortened(plain, None)
    elif isinstance(plain, (dict, list)):
        for item in plain.values() if isinstance(plain, dict) else plain:
            yield from _texts(item)


def _size(text: str) -> int:
    return len(orjson.dumps(text)) - 2


def _dumped(plain: Any, rooms: Iterator[int] | None = None) -> bytes:
    return orjson.dumps(_leveled(plain, rooms))


def _leveled(plain: Any, rooms: Iterator[int] | None) -> Any:
    """Return `plain` with texts alone, each with no more characters than the next of `rooms` says."""
    if isinstance(plain, (str, Cut)):
        return _shortened(plain, None if rooms is None else next(rooms))
    if isinstance(plain, dict):
        return {name: _leveled(item, rooms) for name, item in plain.items()}
    if isinstance(plain, list):
        return [_leveled(item, rooms) for item in plain]
    return plain


def _shortened(text: str | Cut, room: int | None) -> str:
    """Return at most `room` characters of `text`, with a note on what is missing; nothing at all for less than 0."""
    if room is not None and room < 0:
        return ""
    if isinstance(text, str):
        if room is None or len(text) <= room:
            return text
        head, tail, length = text, text, len(text)
    else:
        head, tail, length = text
    if room is not None and (isinstance(text, str) or len(head) + len(tail) > room):
        half = min(room // 2, len(tail))
        head, tail = head[: room - half], tail[len(tail) - half :]
    return f"{head}…[{length - len(head) - len(tail)} characters cut]…{tail}"
