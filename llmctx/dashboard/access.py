"""Access to the dashboard and to its parts: the application decides, for each request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from llmctx.core.errors import ConfigError
from llmctx.storage.filters import Filters

IdForm = Literal["plain", "short"]


@dataclass(frozen=True, slots=True)
class Access:
    """The parts that one reader may see.

    Attributes:
        name: The reader, for the audit log.
        texts: Prompts, responses and reasoning may be read, and searched.
        ids: "short" shows users and sessions as a few characters and a keyed hash.
        export: Pages may be taken away as CSV.
        within: Rows outside of these filters do not exist for this reader.
    """

    name: str
    texts: bool = field(default=False, kw_only=True)
    ids: IdForm = field(default="plain", kw_only=True)
    export: bool = field(default=False, kw_only=True)
    within: Filters | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Raise `ConfigError` for what would show more than was meant: a misspelt form, a text such as "no"."""
        if self.ids not in get_args(IdForm):
            raise ConfigError(f"Access(ids=…) is one of {', '.join(get_args(IdForm))}.")
        flags: tuple[object, ...] = (self.texts, self.export)
        if any(isinstance(flag, str) for flag in flags):
            raise ConfigError("Access(texts=…) and Access(export=…) are True or False.")
        if self.within is not None and not isinstance(self.within, Filters):
            raise ConfigError(f"Access(within=…) takes Filters(…), not {type(self.within).__name__}.")


Authorize = Callable[[HTTPConnection], "Access | Awaitable[Access | None] | None"]
"""Returns what the reader of a request may see, or None for no access; a plain function or a coroutine function."""


async def find_access(authorize: Authorize, connection: HTTPConnection) -> Access | None:
    """Return what `authorize` allows this request; None where it allows nothing.

    A plain function runs in a thread, as in Starlette. What it raises passes. Raises `ConfigError` where it returns
    anything but an `Access` or a false value: True is no answer to the question what may be seen.
    """
    is_async = inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(type(authorize).__call__)
    allowed: Any = authorize(connection) if is_async else await run_in_threadpool(authorize, connection)
    if inspect.isawaitable(allowed):
        allowed = await allowed
    if not allowed:
        return None
    if not isinstance(allowed, Access):
        kind = type(allowed).__name__
        raise ConfigError(f"authorize= of the dashboard returned a {kind}: return llmctx.dashboard.Access(…), or None.")
    return allowed
