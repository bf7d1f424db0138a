"""A session is read from its beginning, in pages, and only by those who may."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage import queries
from llmctx.storage.queries import Cursor, Filters
from tests.kit.calls import TABLE, row


async def test_a_long_session_is_read_on_and_back(connection: AsyncConnection) -> None:
    """Oldest first, with texts; the head is of all of it. Neither end has a further page."""
    await connection.execute(
        TABLE.insert(),
        [row(n, prompt_snapshot=f"p{n}", thread_id=f"t-{n % 2}", user_id="ada" if n else "bob") for n in range(10)],
    )
    await connection.commit()
    seen: list[str] = []
    found = await queries.transcript(connection, TABLE, "s-1", limit=4)
    assert found is not None
    assert (found.session.calls, found.session.users, list(found.threads), found.previous) == (
        10,
        2,
        ["t-0", "t-1"],
        None,
    )
    while found is not None and found.next is not None:
        seen += [one["prompt_snapshot"] for one in found.rows]
        found = await queries.transcript(connection, TABLE, "s-1", after=Cursor.parse(found.next), limit=4)
    assert found is not None
    assert seen + [one["prompt_snapshot"] for one in found.rows] == [f"p{n}" for n in range(10)]
    assert found.previous is not None
    back = await queries.transcript(connection, TABLE, "s-1", before=Cursor.parse(found.previous), limit=4)
    assert back is not None
    assert [one["prompt_snapshot"] for one in back.rows] == ["p4", "p5", "p6", "p7"]
    others = await queries.transcript(connection, TABLE, "s-1", within=Filters(user="bob"))
    assert others is not None
    assert (others.session.calls, len(others.rows)) == (1, 1)
    assert await queries.transcript(connection, TABLE, "s-1", within=Filters(agent="none of yours")) is None
    assert await queries.transcript(connection, TABLE, "nobody's") is None
