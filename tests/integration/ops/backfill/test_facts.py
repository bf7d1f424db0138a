"""What LangGraph's checkpoints say of a thread is known."""

from __future__ import annotations

from pathlib import Path

from llmctx.ops.backfill import backfill
from llmctx.settings import load
from tests.kit.rows import do, nobody, store, who


async def test_langgraphs_checkpoints_testify(database: str, tmp_path: Path) -> None:
    """Their metadata name the user where the team passes one; numbers and texts alike; two users are none."""
    settings = load(database_url=database)
    one, two, three = (nobody(thread_id=f"th-{n}") for n in (1, 2, 3))
    await store(settings, one, two, three)
    told = [
        ("th-1", "'user_id', 42, 'session_id', 's-42', 'step', 1"),
        ("th-1", "'user_id', '42', 'step', 2"),
        ("th-2", "'user_id', 'a'"),
        ("th-2", "'user_id', 'b'"),
        ("th-3", "'step', 1"),
    ]
    try:
        await do(
            database,
            "CREATE TABLE checkpoints (thread_id text, checkpoint_ns text, checkpoint_id text, metadata jsonb)",
            *(
                f"INSERT INTO checkpoints SELECT '{thread}', '', '{n}', jsonb_strip_nulls(jsonb_build_object({said}))"
                for n, (thread, said) in enumerate(told)
            ),
        )
        report = await backfill(settings, do=True, undo_file=tmp_path / "undo")
    finally:
        await do(database, "DROP TABLE IF EXISTS checkpoints")
    assert report.filled == {"checkpoint": 1}
    assert await who(settings, one) == ("42", "s-42", "backfill:checkpoint", None)
    assert (await who(settings, two))[0] is None
