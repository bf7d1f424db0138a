"""Values a database takes: what it refuses is taken out before it meets one. A cleaned record says so.

PostgreSQL refuses NUL and lone surrogates in text, NaN in JSON, numbers out of range; one such value would cost the
whole batch. Cleaning costs microseconds, finding the culprit afterwards milliseconds. Nothing here raises, whatever
the objects of the host are like, and cleaning twice is cleaning once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import orjson

from llmctx.core.columns import ColumnKind
from llmctx.core.record import IDS, SPECS, CallRecord, note_changes, of_kind
from llmctx.core.text import is_storable, storable

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
T = TypeVar("T")

INT4: Final = 2**31 - 1
_INT8: Final = 2**63 - 1
UNKNOWN_MODEL: Final = "unknown"
ATTRIBUTES_LIMIT: Final = 65_536
_DEAREST: Final = Decimal(10**9)  # numeric(18, 9) ends there
_NAME: Final = 1024
_TEXTS: Final = [(spec.name, spec.limit) for spec in SPECS if spec.kind in (ColumnKind.TEXT, ColumnKind.SNAPSHOT)]
_COUNTS: Final = of_kind(ColumnKind.COUNT)
_NUMBERS: Final = of_kind(ColumnKind.NUMBER)
_FLAGS: Final = of_kind(ColumnKind.FLAG)
_TIMES: Final = of_kind(ColumnKind.TIME)
_UUIDS: Final = of_kind(ColumnKind.UUID)
_MONEY: Final = of_kind(ColumnKind.MONEY)
_OTHER_JSON: Final = tuple(name for name in of_kind(ColumnKind.JSON) if name != "attributes")
_DEPTH: Final = 64
_NOTE, _NOTES = 8192, 7  # characters of what llmctx notes under one key, and how many such keys
_NODES: Final = 10_000
_MARK: Final = 16  # hexadecimal digits
_CLEANED_ID: Final = re.compile(f"~[0-9a-f]{{{_MARK}}}\\Z")
"""How ids end that were cut or cleaned, here or where they came in (`call_context.clean_id`)."""


def clean(record: CallRecord) -> CallRecord:
    """Make every value of `record` storable, in place. What was changed is listed under `llmctx_cleaned`."""
    changed: list[str] = []
    for name, limit in _TEXTS:
        value = getattr(record, name)
        if value is not None and (type(value) is not str or len(value) > limit or not is_storable(value)):
            setattr(record, name, shorten(storable_text(value), limit))
            changed.append(name)
    for name in IDS:
        value = getattr(record, name)
        if value is not None and not (type(value) is str and len(value) <= _NAME and is_storable(value)):
            setattr(record, name, storable_id(value))
            changed.append(name)
        elif value is not None and value[-17:-16] == "~" and _CLEANED_ID.search(value) is not None:
            changed.append(name)  # before it came here
    for name in _COUNTS:
        number = getattr(record, name)
        if number is not None and not is_int4(number):
            setattr(record, name, _made(int, number, is_int4))
            changed.append(name)
    if not record.model:
        record.model = UNKNOWN_MODEL
    _clean_others(record, changed)
    attributes = record.attributes
    if attributes is not None and not (type(attributes) is dict and is_plain(attributes)):
        attributes, lossy = plain_attributes(attributes)
        if lossy:
            changed.append("attributes")
    if attributes and len(text := storable_json(attributes) or "") > ATTRIBUTES_LIMIT:
        attributes = cut_attributes(attributes, len(text))
        changed.append("attributes")
    record.attributes = note_changes(attributes, changed)
    return record


def _clean_others(record: CallRecord, changed: list[str]) -> None:
    for name in _NUMBERS:
        value = getattr(record, name)
        if value is not None and not (type(value) is float and math.isfinite(value)):
            made = _made(float, value, math.isfinite)
            setattr(record, name, made)
            if made is None or type(value) is not int:
                changed.append(name)
    for name in _FLAGS:
        flag = getattr(record, name)
        if flag is not None and type(flag) is not bool:
            setattr(record, name, _made(bool, flag, lambda _: True))
            changed.append(name)
    for name in _TIMES:
        at = getattr(record, name)
        if type(at) is not datetime or at.tzinfo is not UTC:
            if at is None and name != "created_at":
                continue
            utc, faithful = _as_utc(at)
            if utc is None and name == "created_at":
                utc = datetime.now(UTC)  # a row without a time is no row
            setattr(record, name, utc)
            if not faithful:
                changed.append(name)
    if record.call_id is None:
        record.call_id = uuid4()  # type: ignore[unreachable]  # whatever the types say
        changed.append("call_id")
    for name in _UUIDS:
        uuid = getattr(record, name)
        if uuid is not None and type(uuid) is not UUID:
            setattr(record, name, _as_uuid(uuid, at_any_cost=name == "call_id"))
            changed.append(name)
    for name in _MONEY:
        price = getattr(record, name)
        if price is not None and not is_price(price):
            setattr(record, name, _made(lambda value: Decimal(str(value)), price, is_price))
            changed.append(name)
    for name in _OTHER_JSON:
        value = getattr(record, name)
        if value is not None and (not is_plain(value) or len(storable_json(value) or "") > ATTRIBUTES_LIMIT):
            plain = _Plain().convert(value, _DEPTH)
            setattr(record, name, plain if len(storable_json(plain) or "") <= ATTRIBUTES_LIMIT else None)
            changed.append(name)


# -- text -----------------------------------------------------------------------------------------------------------


def storable_text(value: object) -> str:
    """Return `value` as text that PostgreSQL takes: the same object if nothing had to be changed."""
    return storable(value if type(value) is str else _said(value))


def shorten(text: str, limit: int) -> str:
    """Return `text`, cut to `limit` characters, and saying so if there is room for it."""
    if len(text) <= limit:
        return text
    note = f"…[{len(text) - limit + 24} cut]"
    return f"{text[: limit - 24]}{note}" if limit > 48 else text[:limit]


def storable_id(value: object) -> str | None:
    """Return an id as text that PostgreSQL takes; None if it has none.

    Two ids that had to be changed are still two: they end with a mark that was made of the whole.
    """
    try:
        text = value if type(value) is str else str(value)
    except Exception:  # noqa: BLE001  an object of the host's
        return None
    if len(text) <= _NAME and is_storable(text):
        return text
    return shorten_id(text, _NAME)


def shorten_id(text: str, limit: int) -> str:
    """Return `text` in at most `limit` characters, not to be mistaken for another that begins alike."""
    mark = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[: min(_MARK, limit)]
    kept = max(0, limit - len(mark) - 1)
    return (_UNSTORABLE.sub("\ufffd", text[:kept]) + "~" + mark)[-limit:]


def _said(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  an object of the host's; or an int of too many digits
        return f"<{type(value).__name__}>"


# -- JSON -----------------------------------------------------------------------------------------------------------


def storable_json(value: Any) -> str | None:
    """Return `value` as JSON text that PostgreSQL's jsonb takes; None for nothing. Never raises."""
    if value is None or value == {}:
        return None
    return orjson.dumps(value if is_plain(value) else _Plain().convert(value, _DEPTH)).decode()


def jsonable(value: Any) -> Any:
    """Return `value` as JSON has it, whatever it is: bounded in depth and in pieces, its texts whole. Never raises."""
    return _Plain(text_limit=None).convert(value, _DEPTH)


def cut_attributes(attributes: dict[str, Any], length: int) -> dict[str, Any]:
    """Return what stays of too many attributes, `length` characters: small notes of llmctx's own."""
    kept = {
        name: value
        for name, value in attributes.items()
        if _is_ours(name) and len(name) < _NAME and len(storable_json({name: value}) or "") <= _NOTE
    }
    few = dict(islice(kept.items(), _NOTES))
    return {**few, "llmctx_cut": f"{length} characters of attributes, too many to keep"}


def _is_ours(name: Any) -> bool:
    return type(name) is str and (name == "llmctx" or name.startswith("llmctx_"))


def plain_attributes(value: Any) -> tuple[dict[str, Any] | None, bool]:
    """Return attributes as JSON has them, and whether anything was lost in that."""
    plain = _Plain()
    if type(value) is dict:  # ours first: for the others there may be no room
        with suppress(Exception):  # keys may be objects of the host's
            value = dict(sorted(value.copy().items(), key=lambda item: not _is_ours(item[0])))
    made = plain.convert(value, _DEPTH)
    return (made, plain.lossy) if isinstance(made, dict) else ({"value": made}, True)


def is_plain(value: Any, depth: int = _DEPTH) -> bool:
    """Return whether `value` is JSON already, and nothing in it would be refused."""
    kind = type(value)
    if kind is str:
        return is_storable(value)
    if value is None or kind is bool:
        return True
    if kind is int:
        return bool(-_INT8 <= value <= _INT8)
    if kind is float:
        return math.isfinite(value)
    if depth == 0:
        return False
    if kind is dict:
        for key in value:
            if type(key) is not str or not is_storable(key):
                return False
        value = value.values()
    elif kind is not list:
        return False
    for item in value:  # noqa: SIM110  a generator costs more than the look at most items
        if not is_plain(item, depth - 1):
            return False
    return True


class _Plain:
    """Makes JSON of anything: bounded in depth and size, so that what contains itself ends."""

    def __init__(self, text_limit: int | None = ATTRIBUTES_LIMIT) -> None:
        self.lossy = False
        self._left = _NODES
        self._text_limit = text_limit

    def convert(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if isinstance(value, Enum):
            value = value.value
        if value is None or type(value) is bool:
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int) and -_INT8 <= value <= _INT8:
            return int(value)
        if isinstance(value, float):
            if math.isfinite(value):
                return float(value)
            self.lossy = True
            return None
        if isinstance(value, (date, time, UUID, Decimal)):
            return self._text(value)
        self.lossy |= not isinstance(value, (dict, list, tuple))
        if depth <= 0 or self._left <= 0:
            self.lossy = True
            return f"<{type(value).__name__}: too deep or too big>"
        try:
            if isinstance(value, dict):
                return self._dict(value, depth)
            if isinstance(value, (list, tuple, set, frozenset)):
                return [self.convert(item, depth - 1) for item in value]
        except Exception:  # noqa: BLE001  an object of the host's
            self.lossy = True
        return self._text(value)

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, item in value.items():
            if self._left <= 0:
                self.lossy = True
                break
            name = self._text(key)
            if name in made:  # two keys that look alike now
                self.lossy = True
                name = f"{name}~{len(made)}"
            made[name] = self.convert(item, depth - 1)
        return made

    def _text(self, value: Any) -> str:
        said = value if type(value) is str else _said(value)
        text = storable_text(said)
        if self._text_limit is not None:
            text = shorten(text, self._text_limit)
        self.lossy |= text is not said
        return text


# -- numbers, times -------------------------------------------------------------------------------------------------


def is_price(value: Any) -> bool:
    return type(value) is Decimal and value.is_finite() and 0 <= value < _DEAREST


def _made(make: Callable[[Any], T], value: Any, fits: Callable[[T], bool]) -> T | None:
    try:
        made = make(value)
        return made if fits(made) else None
    except Exception:  # noqa: BLE001  an object of the host's
        return None


def is_int4(value: Any) -> bool:
    return type(value) is int and -INT4 <= value <= INT4


def _as_utc(value: Any) -> tuple[datetime | None, bool]:
    """Return a time in UTC, and whether it is the same. One without a zone is taken for UTC, not for local."""
    if not isinstance(value, datetime):
        return None, False
    try:
        if value.tzinfo is not None:
            return value.astimezone(UTC), True
    except Exception:  # noqa: BLE001, S110  at the ends of the calendar, or a zone of the host's
        pass
    return value.replace(tzinfo=UTC), False


def _as_uuid(value: Any, *, at_any_cost: bool) -> UUID | None:
    said = _said(value)
    try:
        return UUID(said)
    except Exception:  # noqa: BLE001  not an id
        return UUID(bytes=sha256(said.encode("utf-8", "surrogatepass")).digest()[:16]) if at_any_cost else None
