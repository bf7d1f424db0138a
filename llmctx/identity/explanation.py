"""The explanation of a row's identity that is kept where that is not plain: for `show`, `coverage`, the pytest plugin.

A call in an open scope that knows everything, and that no source contradicts, needs no words: `identity_source` says it
all. Of the others, `attributes["llmctx"]` holds what each source said, and of calls whose ids are missing also the
route of their request and the line of the application from which they were made.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from pathlib import Path
from types import FrameType
from typing import Any, Final

from llmctx.identity.candidates import Candidates
from llmctx.identity.resolution import Attribution
from llmctx.identity.scope import Scope, with_parents

KEY: Final = "llmctx"
"""The key of `attributes` under which it stands."""

_FRAMES: Final = 80
_OURS: Final = f"{Path(__file__).parents[1]}{os.sep}"
_PACKAGES: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
_STANDARD: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})


def application_line(*, in_request: bool = False) -> str | None:
    """Return `file.py:12`, the application's innermost line that leads to the call that starts here; None without one.

    An application that is itself installed as a package is met where no line of its own directory leads here. The line
    that started the server leads to every call and made none; so does, in a request, the one that runs the loop.
    """
    frame: FrameType | None = sys._getframe(1)
    packaged: str | None = None
    for _ in range(_FRAMES):
        if frame is None or (in_request and (frame.f_code is _TASK_STEP or frame.f_code is _RUN)):
            break
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGES):
            if name.startswith(_SERVERS):
                break
            if packaged is None and not name.startswith(_FRAMEWORKS):
                packaged = f"{name}:{frame.f_lineno}"
        elif not name.startswith((_OURS, "<", *_STANDARD)):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return packaged


_FRAMEWORKS: Final = tuple(
    path + name
    for path in _PACKAGES
    for name in ("langchain", "langgraph", "starlette", "fastapi", "uvicorn", "anyio", "pytest", "_pytest", "pluggy")
)


_SERVERS: Final = tuple(
    path + name + os.sep for path in _PACKAGES for name in ("uvicorn", "hypercorn", "granian", "gunicorn", "daphne")
)
_TASK_STEP: Final = asyncio.Handle._run.__code__
_RUN: Final = asyncio.Runner.run.__code__  # of loops whose steps have no frame, such as uvloop's


def route_of(scope: Scope | None) -> str | None:
    """Return `GET /chat/{id}`: the route of the request around `scope`, if it is still open."""
    return next((one.route() for one in with_parents(scope) if one.route is not None), None)


def call_site(scope: Scope | None) -> dict[str, str]:
    """Return the route and the line of a call that starts here."""
    route = route_of(scope)
    found = {"route": route, "where": application_line(in_request=route is not None)}
    return {name: value for name, value in found.items() if value is not None}


def explanation(
    attribution: Attribution, candidates: Candidates, call_site: dict[str, str] | None
) -> dict[str, Any] | None:
    """Return what the row keeps; None where there is nothing to explain. `call_site` is the call's route and line."""
    if len(attribution.answers) < 2 and not call_site and not candidates.refused:
        return None
    said: dict[str, Any] = {
        "witnesses": [
            {"source": source.value, "user_id": identity.user_id, "session_id": identity.session_id}
            for source, identity in attribution.answers
        ]
    }
    if candidates.refused:
        said["refused"] = [{"user_id": who.user_id, "session_id": who.session_id} for who in candidates.refused]
    if candidates.inherited_by_worker is not False:
        said["inherited"] = "unclear" if candidates.inherited_by_worker is None else "not believed"
    return {**said, **_below_cwd(call_site or {})}


def _below_cwd(call_site: dict[str, str]) -> dict[str, str]:
    """Return `call_site`, its line relative to the working directory; not done in the call, for it asks the kernel."""
    where = call_site.get("where")
    return call_site if where is None else {**call_site, "where": where.removeprefix(f"{Path.cwd()}{os.sep}")}
