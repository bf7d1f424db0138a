"""Redis forgets a user as well."""

from __future__ import annotations

from llmctx.identity.binding import bind
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.identity.scope import current_scope
from llmctx.ops.erase import Subject, erase
from llmctx.settings import load
from tests.kit.shared_registry import tell

EVE = "eve-0042"


async def test_redis_forgets_as_well(database: str, redis_url: str) -> None:
    """The user's threads and tasks; of a session all keys that name it. Others' stay."""
    settings = load(database_url=database, registry_url=redis_url, registry_prefix="erase*:")
    registry = RedisRegistry(redis_url, prefix="erase*:")
    for user, session, thread in [(EVE, "s-eve", "t-1"), ("ada", "s-ada", "t-2"), ("bob", "s-bob", "t-3")]:
        with bind(user_id=user, session_id=session):
            registry.put(current_scope(), thread_id=thread, task=f"node:{thread}")
    await tell(registry)
    await registry.aclose()
    done = await erase(settings, Subject(user=EVE), do=True)
    assert [(place.found, place.left) for place in done.places if place.name == "registry"] == [(2, 0)]
    done = await erase(settings, Subject(session="s-ada"), do=True)
    assert [(place.found, place.left) for place in done.places if place.name == "registry"] == [(2, 0)]
    done = await erase(settings, Subject(user="bob"))
    assert [place.found for place in done.places if place.name == "registry"] == [2]
