"""Rows of a user to be forgotten, and of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmctx.core.record import CallRecord
from llmctx.settings import Settings
from llmctx.storage.texts_table import name_of
from tests.kit.rows import query, record

EVE = "eve-0042"


CANARY = "the canary sings at four"


async def everything(settings: Settings) -> str:
    """All that is in the database, and on disk."""
    rows = await query(settings.database_url, f"SELECT * FROM {settings.table}")
    if settings.is_postgresql:
        texts = name_of(settings.table)
        ((is_there,),) = await query(settings.database_url, f"SELECT to_regclass('{texts}') IS NOT NULL")
        rows += await query(settings.database_url, f"SELECT * FROM {texts}") if is_there else []
    files = [file.read_bytes() for place in settings.journal_directories for file in place.rglob("*") if file.is_file()]
    if not settings.is_postgresql:
        path = Path(settings.database_url.partition("///")[2])
        files += [file.read_bytes() for file in path.parent.glob(path.name + "*")]
    return "\n".join(map(str, rows)) + b"\n".join(files).decode("utf-8", "replace")


def of_eve(**values: Any) -> CallRecord:
    return record(**{"user_id": EVE, "session_id": "s-eve", "prompt_snapshot": json.dumps(CANARY), **values})
