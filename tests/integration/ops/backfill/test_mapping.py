"""The team's own mapping fills what it names, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctx.core.errors import ConfigError
from llmctx.core.record import DEFAULT_TABLE
from llmctx.ops.backfill import backfill
from llmctx.settings import load
from tests.kit.rows import nobody, record, store, who


async def test_a_query_maps_as_well(any_database: str, tmp_path: Path) -> None:
    """`SELECT call_id, user_id …` against the same database, which it cannot change."""
    settings = load(database_url=any_database)
    known, unknown = record(user_id="ada", run_id=None), nobody()
    await store(settings, known, unknown)
    sql = f"SELECT call_id, 'grace' AS user_id, 's-g' AS session_id FROM {DEFAULT_TABLE} WHERE user_id IS NULL"
    report = await backfill(settings, do=True, query=sql, undo_file=tmp_path / "undo")
    assert report.filled == {"mapping": 1}
    assert await who(settings, unknown) == ("grace", "s-g", "backfill:mapping", None)
    if settings.is_postgresql:
        with pytest.raises(Exception, match="read-only"):
            await backfill(settings, query=f"DELETE FROM {DEFAULT_TABLE} RETURNING call_id, user_id")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (b"user_id\nada\n", "Write one column"),
        (b"session_id,email\ns,a@b\n", "Write one column"),
        (b"call_id,trace_id,user_id\n1,2,3\n", "Write one column"),
        (b"session_id,user_id\ns,ada,more\n", "line 2"),
        (b"session_id,user_id\n\xff\xfe,ada\n", "UTF-8"),
        (b'session_id,user_id\n"s,ada\n', "CSV"),
    ],
)
async def test_a_wrong_mapping_changes_nothing(sqlite_url: str, tmp_path: Path, text: bytes, said: str) -> None:
    """And the error says what is wrong with it."""
    path = tmp_path / "map.csv"
    path.write_bytes(text)
    migrated(sqlite_url)
    with pytest.raises(ConfigError, match=said):
        await backfill(load(database_url=sqlite_url), do=True, csv=path, undo_file=tmp_path / "undo")
    assert not (tmp_path / "undo").exists()


def migrated(url: str) -> None:
    import threading

    from llmctx.migrate import commands as migrate

    thread = threading.Thread(target=migrate.upgrade, args=(load(database_url=url),))
    thread.start()
    thread.join()
