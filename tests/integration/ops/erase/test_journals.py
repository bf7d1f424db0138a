"""Living processes and their journals forget a user as well."""

from __future__ import annotations

from llmctx.calllog import CallLog
from llmctx.identity.binding import bind
from llmctx.ops.erase import Subject, erase
from tests.kit.subjects import everything

CANARY = "the canary sings at four"


EVE = "eve-0042"


async def test_a_living_process_brings_what_it_holds_before_the_rows_go(database: str) -> None:
    """Its files hold rows long after they were stored: it begins new ones, and the old ones go."""
    async with CallLog(database, linger_ms=0) as call_log:
        settings = call_log.settings
        with bind(user_id=EVE, session_id="s-eve"), call_log.record(model="m", prompt=CANARY):
            pass
        with bind(user_id="ada", session_id="s-ada"), call_log.record(model="m", prompt="hello"):
            pass
        assert await call_log.aflush(60) == 0
        assert CANARY in await everything(settings)
        done = await erase(settings, Subject(user=EVE), do=True)
        assert done.left == 0, done
        text = await everything(settings)
        assert CANARY not in text
        assert EVE not in text
        assert "ada" in text


async def test_a_call_under_way_is_said(database: str) -> None:
    """Its row will come when it ends: the receipt says that something is left."""
    async with CallLog(database, linger_ms=0) as call_log:
        with bind(user_id=EVE, session_id="s-eve"), call_log.record(model="m", prompt=CANARY):
            done = await erase(call_log.settings, Subject(user=EVE), do=True, wait_s=0.5)
            assert done.left == 1
        assert await call_log.aflush(60) == 0
        done = await erase(call_log.settings, Subject(user=EVE), do=True)
        assert (done.found, done.left) == (1, 0)
