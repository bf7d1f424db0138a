"""In processes whose threads or event loops are another library's: gevent's greenlets, nested loops."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.platforms.server import ROOT

GEVENT = """
from gevent import monkey; monkey.patch_all()
import asyncio, gevent
from llmctx import bind
from llmctx.calllog import CallLog
from tests.kit.support import Talker

def work(number):
    with bind(user_id=f"u{number}", session_id="s"):
        Talker().invoke("hello")

with CallLog(carry=True) as call_log:
    gevent.joinall([gevent.spawn(work, number) for number in range(20)])
    asyncio.run(Talker().ainvoke("hello"))  # no loop of ours runs in this thread
    print(call_log.flush(30), call_log.stats().written, dict(call_log.stats().incidents))
"""
NESTED = """
import asyncio, nest_asyncio2
from llmctx.calllog import CallLog
from tests.kit.support import Talker

async def main():
    nest_asyncio2.apply()
    async with CallLog() as call_log:
        await asyncio.gather(*(Talker().ainvoke("hello") for _ in range(20)))
        asyncio.run(Talker().ainvoke("nested"))
        print(await call_log.aflush(30), call_log.stats().written, dict(call_log.stats().incidents))

asyncio.run(main(), debug=True)
"""


@pytest.mark.parametrize("script", [GEVENT, NESTED], ids=["gevent", "nest_asyncio"])
def test_rows_are_written(script: str, database: str) -> None:
    """21 calls, 21 rows; the application's own loops run as they would."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        env={**os.environ, "LLMCTX_DATABASE_URL": database},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.stdout == "0 21 {}\n", ran.stderr[-3000:]
