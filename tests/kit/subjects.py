"""Rows of a user to be forgotten, and of others."""

from __future__ import annotations

from pathlib import Path

from llmctx.settings import Settings
from llmctx.storage.texts_table import name_of
from tests.kit.rows import query


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
