"""`examine`: every check is asked, first of the installation and its rows, then of the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from llmctx.identity import handover
from llmctx.identity.propagation import threads as carrying
from llmctx.migrate.state import State
from llmctx.ops.doctor import app_checks, broker_checks, canary_calls, install_checks, row_checks
from llmctx.ops.doctor.app_inspection import AppParts, inspect_app
from llmctx.ops.doctor.finding import Finding
from llmctx.ops.doctor.loading import LoadedApp, load
from llmctx.ops.doctor.source_checks import scope_losses
from llmctx.settings import Settings

logger: Final = logging.getLogger("llmctx")

_LIFESPAN_S: Final = 15.0


def examine(
    settings: Settings,
    *,
    app: str | None = None,
    app_dir: str | None = None,
    start: bool = True,
    say: Callable[[str], None] = logger.info,
) -> list[Finding]:
    """Check the database, the table, its latest rows, the handler, and the application `module:app` if it is named.

    `app` may be a platform's file as well (`langgraph.json`), and `app_dir` is where its modules are. With `start`, the
    application's lifespan runs, of which `say` is told before. Raises `ConfigError` when `app` cannot be imported.
    """
    loaded = None if app is None else load(app, app_dir)
    state = install_checks.state_of(settings)

    async def look() -> list[Finding]:
        findings = [*await install_checks.database(settings, state), *install_checks.trust(settings)]
        findings += await broker_checks.broker(settings)
        recent = None
        if isinstance(state, State) and state.is_current:
            recent = await row_checks.recent_rows(settings)
            findings += row_checks.findings(recent, settings)
        findings.append(await canary_calls.call())
        if loaded is not None:
            if start and loaded.app is not None:
                say(f"Starting the lifespan of {app}, with all of its effects; --no-start leaves that out.")
            about = await _application(loaded, settings, start=start)
            findings += row_checks.correct(about, recent)
        return findings

    return asyncio.run(look())


async def _application(loaded: LoadedApp, settings: Settings, *, start: bool) -> list[Finding]:
    """Check an application; once it has been started, as a server would, for much is created only then."""
    if loaded.app is None:
        cause = "the file names no http.app: the platform's own application serves, and no call log is started by it"
        fix = 'Start one where the graph is made: CallLog().start(), or "http": {"app": …} with a lifespan of its own.'
        parts = AppParts(None)
        return [Finding("start", True, f"{cause}. {fix}", unknown=True), *_graphs(parts, loaded)]
    app, module_name = loaded.app, loaded.module_name
    problem: BaseException | None = None
    parts_found: AppParts | None = None
    started: Finding | None = None
    carry, has_key = settings.carry, settings.handover_key is not None
    elsewhere: list[Finding] = []
    try:
        async with asyncio.timeout(_LIFESPAN_S), _started(app if start else None):
            parts_found = inspect_app(app, module_name)
            carry, has_key = carry or carrying.is_installed(), has_key or handover.has_key()
            elsewhere = app_checks.destination(settings)
            started = app_checks.start(None, app_checks.app_location(parts_found), was_started=start)
    except (Exception, SystemExit) as failure:  # noqa: BLE001  the application's own start
        problem = failure
    parts = parts_found or inspect_app(app, module_name)
    if started is None:
        started = app_checks.start(problem, app_checks.app_location(parts))
    findings = [started, *elsewhere, *_run(app_checks.middleware, parts)]
    if any(layer.is_ours for layer in parts.layers):
        findings.append(await canary_calls.requests(parts.layers, app_checks.app_location(parts)))
    findings += _graphs(parts, loaded)
    for check in (app_checks.callbacks, partial(scope_losses, carry=carry, has_key=has_key)):
        findings += _run(check, parts)
    return findings


def _graphs(parts: AppParts, loaded: LoadedApp) -> list[Finding]:
    parts.objects |= loaded.graphs
    found = _run(app_checks.wrapping, parts)
    if loaded.not_looked_at:
        found.append(Finding("graphs", True, f"not checked: {'; '.join(loaded.not_looked_at.values())}", unknown=True))
    return found


def _run(check: Callable[[AppParts], list[Finding]], parts: AppParts) -> list[Finding]:
    """Return what `check` finds; where it fails on an object of the application, only this check is left out."""
    try:
        return check(parts)
    except Exception as problem:  # noqa: BLE001  objects of the application may raise anything
        return [Finding("doctor", True, f"one check was left out: {type(problem).__name__}: {problem}")]


@asynccontextmanager
async def _started(app: Any) -> AsyncIterator[None]:
    """Run the lifespan of `app`; nothing for None."""
    inner = app
    while not hasattr(inner, "router") and hasattr(inner, "app"):
        inner = inner.app
    context: Callable[[Any], Any] | None = getattr(getattr(inner, "router", None), "lifespan_context", None)
    if context is None:
        yield
        return
    async with context(inner):
        yield
