"""Characters that a database not kept in UTF-8 can store: its server refuses every other one, and the row with it.

Which characters there are is asked of the server itself, once for each encoding in a process: Python's codecs know them
but nearly. JSON keeps the others as escapes; other texts get a question mark for each, and ids a mark made of the whole
besides, so that two stay two. A database in UTF-8 is asked nothing.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, Final

import orjson

from llmctx.core.record import IDS, SNAPSHOTS
from llmctx.delivery.destinations.sql.connection import Session
from llmctx.storage.db_errors import sqlstate
from llmctx.storage.sanitize import shorten_id

_ANY: Final = ("UTF8", "UNICODE", "SQL_ASCII")
_CODECS: Final = {
    "EUC_CN": "gb2312", "EUC_JP": "euc_jp", "EUC_JIS_2004": "shift_jis", "EUC_KR": "euc_kr", "EUC_TW": "big5",
    "KOI8R": "koi8_r", "KOI8U": "koi8_u", "WIN866": "cp866", "WIN874": "cp874", "LATIN1": "iso8859_1",
    "LATIN2": "iso8859_2", "LATIN3": "iso8859_3", "LATIN4": "iso8859_4", "LATIN5": "iso8859_9", "LATIN6": "iso8859_10",
    "LATIN7": "iso8859_13", "LATIN8": "iso8859_14", "LATIN9": "iso8859_15", "LATIN10": "iso8859_16",
    **{f"ISO_8859_{n}": f"iso8859_{n}" for n in (5, 6, 7, 8)},
    **{f"WIN{n}": f"cp{n}" for n in range(1250, 1259)},
}  # fmt: skip
"""Of an encoding of PostgreSQL's, the codec whose characters it may have; of those that are not here it is ASCII's."""
_DISPUTED: Final = "".join(map(chr, (
    0xA2, 0xA3, 0xA5, 0xAC, 0xB7, 0x2014, 0x2015, 0x2016, 0x203E, 0x20AC, 0x2212, 0x2225, 0x22EF, 0x301C, 0x30FB,
    0xFF0D, 0xFF5E, 0xFFE0, 0xFFE1, 0xFFE2, 0xFFE3, 0xFFE5,
)))  # fmt: skip
"""Dashes, dots, waves and signs of which each table of a Chinese or Japanese encoding takes another."""
_ASCII: Final = frozenset(map(chr, range(128)))
_SIZE: Final = re.compile(r"\((\d+)\)")
_NAME: Final = 1024  # characters of an id
_QUESTIONS: Final = 500
"""More than any encoding has needed; of what is not answered by then it is said that it cannot be stored."""
_known: Final[dict[str, frozenset[str]]] = {}


async def characters(session: Session) -> frozenset[str] | None:
    """Return the characters that the database can store; None for all of them."""
    name = getattr(session.driver.get_settings(), "server_encoding", "UTF8")
    if name in _ANY:
        return None
    if name not in _known:
        codec = _CODECS.get(name, "ascii")
        maybe = "".join(one for one in map(chr, range(128, 0x10000)) if 0 < len(one.encode(codec, "ignore")) <= 3)
        _known[name] = _ASCII | await _stored(session, maybe + _DISPUTED)
    return _known[name]


async def _stored(session: Session, maybe: str) -> frozenset[str]:
    """Return those of `maybe` that the server takes: all at once, and halves of what it refuses."""
    found: set[str] = set()
    asked = deque([maybe])
    for _ in range(_QUESTIONS):
        if not asked:
            break
        some = asked.popleft()
        try:
            async with session.transaction():
                await session.driver.fetchval("SELECT pg_catalog.length($1::text)", some)
        except Exception as problem:
            if not sqlstate(problem).startswith("22"):
                raise
            if len(some) > 1:
                asked += [some[: len(some) // 2], some[len(some) // 2 :]]
        else:
            found.update(some)
    return frozenset(found)


def storable(name: str, kind: str, value: str, characters: frozenset[str]) -> tuple[str, bool]:
    """Return `value` for the column `name` of the type `kind`, and whether it says the same."""
    strange = set(value) - characters
    if not strange:
        return value, True
    found = _SIZE.search(kind)
    size = int(found[1]) if found else None
    if name in SNAPSHOTS and kind not in ("json", "jsonb") and _is_json(value):
        escaped = _each(value, strange, lambda one: json.dumps(one)[1:-1])
        if size is None or len(escaped) <= size:
            return escaped, True
    if name.removeprefix("llmctx_") in IDS:
        value = shorten_id(value, size or _NAME)
    return _each(value, strange, lambda _: "?"), False


def _each(text: str, strange: set[str], instead: Any) -> str:
    return text.translate({ord(one): instead(one) for one in strange})


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True
