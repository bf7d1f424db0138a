"""Finds out why ids would be missing, or rows, in this installation and this application.

Each check gives a `Finding` with cause, consequence and fix. Nothing is written: the canary call goes through the
real handler and pipeline into memory, and the trial insert is rolled back.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect as inspection
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import handler, migrate
from llmctx.calllog import CallLog
from llmctx.context import bind
from llmctx.errors import ConfigError, LlmctxError
from llmctx.middleware import ContextMiddleware
from llmctx.record import CallRecord
from llmctx.settings import Settings, shown_url
from llmctx.testing import MemorySink
from llmctx.writer import Writer

_LIFESPAN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Where `ok` is false, what follows from it and what mends it."""

    name: str
    ok: bool
    cause: str
    consequence: str = ""
    fix: str = ""
    where: str | None = None


def examine(settings: Settings, *, app: str | None = None) -> list[Finding]:
    """Look at the database, the table, the handler, and at the application `module:app` if it is named.

    Raises `ConfigError` when `app` cannot be imported.
    """
    application = None if app is None else load_app(app)
    findings = [*_database(settings)]
    findings += asyncio.run(_run_canary())
    if application is not None:
        findings += _middleware(application)
        findings += asyncio.run(_lifespan(application))
    return findings


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
    except Exception as problem:
        raise ConfigError(f"--app {name}: {type(problem).__name__}: {problem}.") from problem
    if inspection.isfunction(found) and not inspection.signature(found).parameters:
        found = found()
    return found


# -- database ---------------------------------------------------------------------------------------------------------


def _database(settings: Settings) -> list[Finding]:
    where = shown_url(settings.database_url)
    try:
        state = migrate.state(settings)
    except LlmctxError as problem:
        return [
            Finding(
                "database",
                False,
                str(problem),
                "Rows wait in memory, and are lost when the process ends.",
                "Start the database, or correct LLMCTX_DATABASE_URL.",
                where,
            )
        ]
    findings = [Finding("database", True, "reachable", where=where)]
    if not state.is_current:
        cause = f"at {state.current or 'no version'}, this llmctx wants {state.head}"
        findings.append(
            Finding("migration", False, cause, "Rows wait, or lack columns.", "llmctx migrate", settings.table)
        )
        return findings
    findings.append(Finding("migration", True, f"at head ({state.head})", where=settings.table))
    findings.append(asyncio.run(_trial_insert(settings)))
    return findings


async def _trial_insert(settings: Settings) -> Finding:
    """Insert a row the way the writer does, and roll it back."""
    writer = Writer(settings)
    try:
        await writer.trial(_specimen())
    except Exception as problem:  # noqa: BLE001  whatever it is, it is the finding
        return Finding(
            "insert",
            False,
            f"{type(problem).__name__}: {problem}".splitlines()[0],
            "No row can be written.",
            f"GRANT INSERT ON {settings.table} TO the application's role.",
            settings.table,
        )
    return Finding("insert", True, "a row can be inserted (tried, and rolled back)", where=settings.table)


def _specimen() -> CallRecord:
    sink = MemorySink()
    call_log = CallLog(sink=sink, capture="explicit")
    with call_log, bind(session_id="doctor", user_id="doctor"), call_log.record(model="canary"):
        pass
    return sink.records[0]


# -- handler ----------------------------------------------------------------------------------------------------------


async def _run_canary() -> list[Finding]:
    """One call of a fake model, without any wiring: is it heard, once, with its ids?"""
    sink = MemorySink()
    async with CallLog(sink=sink) as call_log:
        with bind(session_id="canary-session", user_id="canary-user"):
            await FakeListChatModel(responses=["tweet"]).ainvoke("are you there?")
        await call_log.aflush(5.0)
    seen = [(r.session_id, r.user_id) for r in sink.records]
    if seen == [("canary-session", "canary-user")]:
        return [Finding("canary call", True, "heard once, with its session and user")]
    cause = f"{len(seen)} rows instead of one" if len(seen) != 1 else f"its ids were {seen[0]}"
    return [
        Finding(
            "canary call",
            False,
            cause,
            "Calls are missing, doubled, or without ids.",
            "Look for code that replaces langchain-core's callbacks (other tracers), and report it.",
        )
    ]


# -- application ------------------------------------------------------------------------------------------------------


def _middleware(app: Any) -> list[Finding]:
    """Whether ContextMiddleware is there, and stands where it can see who is authenticated."""
    stack = getattr(app, "user_middleware", None)
    if stack is None:
        return [
            Finding(
                "middleware",
                False,
                f"{type(app).__name__} has no list of middleware: it is not a Starlette or FastAPI application",
                "Whether requests have a scope cannot be told.",
                "Name the FastAPI or Starlette object itself.",
            )
        ]
    classes = [entry.cls for entry in stack]  # outermost first
    if ContextMiddleware not in classes:
        return [
            Finding(
                "middleware",
                False,
                "ContextMiddleware is not installed",
                "No request has a scope: session_id and user_id stay NULL.",
                "app.add_middleware(ContextMiddleware, identify=who)",
                _source_of(app),
            )
        ]
    findings = [Finding("middleware", True, "ContextMiddleware is installed")]
    ours = classes.index(ContextMiddleware)
    identify = stack[ours].kwargs.get("identify") or next(iter(stack[ours].args), None)
    inside = [cls.__name__ for cls in classes[ours + 1 :] if _authenticates(cls)]
    if inside and identify is not None:
        findings.append(
            Finding(
                "middleware order",
                False,
                f"{inside[0]} runs inside of ContextMiddleware, so `identify` runs before anybody is authenticated",
                "identify finds no user: user_id stays NULL.",
                f"Add ContextMiddleware before {inside[0]} in the code: what is added last runs first.",
                _source_of(identify),
            )
        )
    elif identify is None and not any(_authenticates(cls) for cls in classes):
        findings.append(
            Finding(
                "identify",
                False,
                "neither `identify` is given, nor is there an authentication middleware",
                "Every request is anonymous, unless code inside calls amend().",
                "app.add_middleware(ContextMiddleware, identify=who)",
                _source_of(app),
            )
        )
    return findings


def _authenticates(cls: Any) -> bool:
    return any(base.__name__ == "AuthenticationMiddleware" for base in getattr(cls, "__mro__", ()))


async def _lifespan(app: Any) -> list[Finding]:
    """Start the application as a server would, and see whether a call log runs then."""
    try:
        async with asyncio.timeout(_LIFESPAN_S), _started(app):
            running = list(handler.active)
            heard = [recorder for recorder in running if handler.hears_everything(recorder)]
    except Exception as problem:  # noqa: BLE001  the application's own start
        return [
            Finding(
                "start",
                False,
                f"the application did not start: {type(problem).__name__}: {problem}",
                "Whether a call log runs in it cannot be told.",
                "Run doctor where the application runs, with the same environment.",
                _source_of(app),
            )
        ]
    if not running:
        return [
            Finding(
                "handler",
                False,
                "no CallLog was started with the application",
                "No call is recorded.",
                "FastAPI(lifespan=call_log.lifespan), or `async with call_log:` in your own lifespan.",
                _source_of(app),
            )
        ]
    if not heard:
        return [
            Finding(
                "handler",
                True,
                'a CallLog runs with capture="explicit": only calls that are given call_log.handler are recorded',
            )
        ]
    return [Finding("handler", True, "a CallLog runs, and hears every call of the process")]


@asynccontextmanager
async def _started(app: Any) -> AsyncIterator[None]:
    router = getattr(app, "router", None)
    context: Callable[[Any], Any] | None = getattr(router, "lifespan_context", None)
    if context is None:
        yield
        return
    async with context(app):
        yield


def _source_of(thing: Any) -> str | None:
    """File and line of a function or class, relative to here; None where there is no telling."""
    try:
        file = inspection.getsourcefile(thing)
        line = inspection.getsourcelines(thing)[1]
    except (TypeError, OSError):
        return None
    return None if file is None else f"{os.path.relpath(file)}:{line}"
