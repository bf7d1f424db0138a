"""Finds out why ids would be missing, or rows, in this installation and this application.

Each check gives a `Finding` with cause, consequence and fix. Nothing is written: canary calls go through the real
handler and pipeline into memory, the trial insert is rolled back, and the application's endpoints, nodes and models
are looked at, never called. What it does at its start it does here as well.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from llmctx.core.errors import ConfigError
from llmctx.identity.propagation import threads as carrying
from llmctx.ops.doctor import app_checks as application
from llmctx.ops.doctor import canary_calls as canaries
from llmctx.ops.doctor import install_checks as installation
from llmctx.ops.doctor.app_inspection import Anatomy, take_apart
from llmctx.ops.doctor.finding import Finding
from llmctx.ops.doctor.source_checks import losses
from llmctx.settings import Settings

__all__ = ["Finding", "examine", "load_app"]

_LIFESPAN_S: Final = 15.0


def examine(settings: Settings, *, app: str | None = None) -> list[Finding]:
    """Look at the database, the table, the handler, and at the application `module:app` if it is named.

    Raises `ConfigError` when `app` cannot be imported.
    """
    found = None if app is None else load_app(app)
    state = installation.state_of(settings)

    async def look() -> list[Finding]:
        findings = [*await installation.database(settings, state), await canaries.call()]
        if found is not None and app is not None:
            findings += await _application(found, app.partition(":")[0], settings)
        return findings

    return asyncio.run(look())


def load_app(name: str) -> Any:
    """The object that `module:attribute` names; a factory is called."""
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(f"--app {name}: write module:attribute, for example --app main:app.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        if inspect.isfunction(found) and not inspect.signature(found).parameters:
            found = found()
    except Exception as problem:
        raise ConfigError(f"--app {name}: {type(problem).__name__}: {problem}.") from problem
    return found


async def _application(app: Any, module_name: str, settings: Settings) -> list[Finding]:
    """Start the application as a server would, and look at it then: much is made only at the start."""
    problem: BaseException | None = None
    anatomy: Anatomy | None = None
    started: Finding | None = None
    carry = settings.carry
    try:
        async with asyncio.timeout(_LIFESPAN_S), _started(app):
            anatomy = take_apart(app, module_name)
            carry = carry or carrying.installed()
            started = application.start(None, application.place_of_app(anatomy))
    except Exception as failure:  # noqa: BLE001  the application's own start
        problem = failure
    if anatomy is None:
        anatomy = take_apart(app, module_name)
    if started is None:
        started = application.start(problem, application.place_of_app(anatomy))
    findings = [started, *_looked(application.middleware, anatomy)]
    if any(layer.is_ours for layer in anatomy.layers):
        findings.append(await canaries.requests(anatomy.layers, application.place_of_app(anatomy)))
    for check in (application.wrapping, application.callbacks, partial(losses, carry=carry)):
        findings += _looked(check, anatomy)
    return findings


def _looked(check: Callable[[Anatomy], list[Finding]], anatomy: Anatomy) -> list[Finding]:
    """What `check` finds. Where it stumbles over somebody's object, the others still have their say."""
    try:
        return check(anatomy)
    except Exception as problem:  # noqa: BLE001  these are other people's objects
        return [Finding("doctor", True, f"one check had to be left out: {type(problem).__name__}: {problem}")]


@asynccontextmanager
async def _started(app: Any) -> AsyncIterator[None]:
    inner = app
    while not hasattr(inner, "router") and hasattr(inner, "app"):
        inner = inner.app
    context: Callable[[Any], Any] | None = getattr(getattr(inner, "router", None), "lifespan_context", None)
    if context is None:
        yield
        return
    async with context(inner):
        yield
