"""The application decides who may look; what it does not clearly allow is refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from llmctx.core.errors import ConfigError
from llmctx.dashboard.access import Access, find_access

CONNECTION = HTTPConnection({"type": "http", "headers": []})


class Asynchronous:
    async def __call__(self, connection: HTTPConnection) -> Access | None:
        return Access("object")


async def _coroutine(connection: HTTPConnection) -> Access | None:
    return Access("coroutine")


async def test_functions_coroutines_and_objects() -> None:
    """Each way to write one works, and a plain function may block."""
    threads: list[int] = []

    def plain(connection: HTTPConnection) -> Access | None:
        threads.append(threading.get_ident())
        return Access("plain")

    names = [await find_access(one, CONNECTION) for one in (plain, _coroutine, Asynchronous(), lambda c: _coroutine(c))]
    assert [one and one.name for one in names] == ["plain", "coroutine", "object", "coroutine"]
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("answer", [None, False, 0, ""])
async def test_what_is_false_may_not_look(answer: Any) -> None:
    """`user and Access(…)` is written so."""
    assert await find_access(lambda connection: answer, CONNECTION) is None


@pytest.mark.parametrize("answer", [True, "admin", {"texts": True}, object()])
async def test_what_is_no_access_is_an_error(answer: Any) -> None:
    """True does not say what may be seen."""
    with pytest.raises(ConfigError, match="Access"):
        await find_access(lambda connection: answer, CONNECTION)
