"""Finds why ids or rows would be missing in this installation and this app_checks.

Each check returns `Finding`s with cause, consequence and fix: of the installation (`install_checks.py`,
`table_checks.py`), of the application as it runs (`app_checks.py`, `canary_calls.py`) and of its source
(`source_checks.py`). Nothing is written: canary calls go through the real handler and pipeline into memory, the trial
insert is rolled back, and endpoints, nodes and models are inspected, never called. The application's lifespan does run.
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
from llmctx.ops.doctor import app_checks, canary_calls, install_checks
from llmctx.ops.doctor.app_inspection import AppParts, inspect_app
from llmctx.ops.doctor.finding import Finding
from llmctx.ops.doctor.source_checks import scope_losses
from llmctx.settings import Settings

__all__ = ["Finding", "examine", "load_app"]

_LIFESPAN_S: Final = 15.0


def examine(settings: Settings, *, app: str | None = None) -> list[Finding]:
    """Check the database, the table, the handler, and the application `module:app` if it is named.

    Raises `ConfigError` when `app` cannot be imported.
    """
    found = None if app is None else load_app(app)
    state = install_checks.state_of(settings)

    async def look() -> list[Finding]:
        findings = [*await install_checks.database(settings, state), await canary_calls.call()]
        if found is not None and app is not None:
            findings += await _application(found, app.partition(":")[0], settings)
        return findings

    return asyncio.run(look())


def load_app(name: str) -> Any:
    """Return the object that `module:attribute` names; a factory is called."""
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
    """Start the application as a server would, and check it then: much is created only at the start."""
    problem: BaseException | None = None
    parts: AppParts | None = None
    started: Finding | None = None
    carry = settings.carry
    try:
        async with asyncio.timeout(_LIFESPAN_S), _started(app):
            parts = inspect_app(app, module_name)
            carry = carry or carrying.installed()
            started = app_checks.start(None, app_checks.place_of_app(parts))
    except Exception as failure:  # noqa: BLE001  the application's own start
        problem = failure
    if parts is None:
        parts = inspect_app(app, module_name)
    if started is None:
        started = app_checks.start(problem, app_checks.place_of_app(parts))
    findings = [started, *_run(app_checks.middleware, parts)]
    if any(layer.is_ours for layer in parts.layers):
        findings.append(await canary_calls.requests(parts.layers, app_checks.place_of_app(parts)))
    for check in (app_checks.wrapping, app_checks.callbacks, partial(scope_losses, carry=carry)):
        findings += _run(check, parts)
    return findings


def _run(check: Callable[[AppParts], list[Finding]], parts: AppParts) -> list[Finding]:
    """Return what `check` finds; where it fails on an object of the application, only this check is left out."""
    try:
        return check(parts)
    except Exception as problem:  # noqa: BLE001  objects of the application may raise anything
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
