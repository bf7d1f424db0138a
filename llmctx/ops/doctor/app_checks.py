"""Checks of an application as it is put together: middleware, routes, graphs, handlers, its start."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseLLM

from llmctx.capture import recorder
from llmctx.capture.global_hook import hears_everything
from llmctx.capture.handler import CallLogHandler
from llmctx.core.process import running_call_logs
from llmctx.core.urls import shown_url
from llmctx.ops.doctor.app_inspection import (
    AppParts,
    Layer,
    Route,
    graphs,
    has_agent_middleware,
    is_own,
    is_wrapped,
    where_of,
)
from llmctx.ops.doctor.contextvar_checks import amends
from llmctx.ops.doctor.finding import Finding, list_names, list_places, source_of
from llmctx.ops.doctor.source import Source
from llmctx.settings import Settings

_ADD: Final = "app.add_middleware(ContextMiddleware, identify=who)"
_KEYS: Final = frozenset({"user_id", "session_id", "conversation_id"})


def middleware(parts: AppParts) -> list[Finding]:
    """Check that ContextMiddleware is around every endpoint, and can see who is authenticated."""
    if not parts.routes and not parts.layers and not hasattr(parts.app, "routes"):
        cause = f"{type(parts.app).__name__} is not a Starlette or FastAPI application: it has no routes"
        consequence = "Whether requests have a scope is not known."
        return [Finding("middleware", False, cause, consequence, "Name the FastAPI or Starlette object itself.")]
    routes = _own_routes(parts)
    outside = [route for route in routes if not any(layer.is_ours for layer in route.layers)]
    if not any(layer.is_ours for layer in _all_layers(parts)):
        where = source_of(type(parts.app)) if is_own(inspect.getsourcefile(type(parts.app))) else None
        return [
            Finding(
                "middleware", False, "ContextMiddleware is not installed",
                "No request has a scope: session_id and user_id stay NULL.", _ADD, where or app_location(parts),
            )
        ]  # fmt: skip
    if outside:
        cause = f"{len(outside)} of {len(routes)} routes are outside of ContextMiddleware: "
        return [
            Finding(
                "middleware", False, cause + list_names(route.path or "/" for route in outside),
                "Calls made there have no scope: session_id and user_id stay NULL.",
                f"Install it in the outermost application: {_ADD}",
                list_places(filter(None, (source_of(route.endpoint) for route in outside))),
            ),
            *_identify(parts),
        ]  # fmt: skip
    around = "the only route" if len(routes) == 1 else f"all {len(routes)} routes"
    cause = f"ContextMiddleware is around {around}" if routes else "ContextMiddleware is installed"
    return [Finding("middleware", True, cause), *_identify(parts)]


def _own_routes(parts: AppParts) -> list[Route]:
    """Return the application's own routes, without FastAPI's documentation pages."""
    found = []
    for route in parts.routes:
        try:
            file = inspect.getsourcefile(inspect.unwrap(getattr(route.endpoint, "func", route.endpoint)))
        except TypeError:  # a callable object
            file = inspect.getsourcefile(type(route.endpoint))
        if is_own(file):
            found.append(route)
    return found


def _all_layers(parts: AppParts) -> list[Layer]:
    found = {id(layer): layer for layer in parts.layers}
    for route in parts.routes:
        found |= {id(layer): layer for layer in route.layers}
    return list(found.values())


def app_location(parts: AppParts) -> str | None:
    """Return where the application is made, if it is a global of its module."""
    name = next((name for name, value in parts.objects.items() if value is parts.app), None)
    return None if name is None else parts.location_of(name)


def _identify(parts: AppParts) -> Iterator[Finding]:
    findings: dict[str, Finding] = {}
    for layers in {route.layers for route in parts.routes} or {parts.layers}:
        ours = next((position for position, layer in enumerate(layers) if layer.is_ours), None)
        finding = None if ours is None else _identify_of(parts, layers, ours)
        if finding is not None:
            findings.setdefault(finding.cause, finding)
    yield from findings.values()


def _identify_of(parts: AppParts, layers: tuple[Layer, ...], ours: int) -> Finding | None:
    identify = layers[ours].identify
    inside = layers[ours + 1 :]
    if identify is None:
        if any(layer.authenticates for layer in layers) or amends(parts.source) or _puts(parts.source, "user"):
            return None
        return Finding(
            "identify", False, "neither `identify` is given, nor is there an authentication middleware",
            "Every request is anonymous, unless code inside calls amend().", _ADD, app_location(parts),
        )  # fmt: skip
    function = parts.source.function_of(identify)
    reads = set() if function is None else {_read_of(node) for f in parts.source.reach(function) for node in f.nodes()}
    for layer in inside:
        needed = "user" if layer.authenticates else "session" if layer.cls.__name__ == "SessionMiddleware" else None
        if needed is not None and (function is None or reads & {needed, "auth"}):
            return Finding(
                "middleware order", False,
                f"{layer.name} runs inside of ContextMiddleware, so `identify` runs before there is a {needed}",
                "identify finds no user: user_id stays NULL.",
                f"Add ContextMiddleware before {layer.name} in the code: what is added last runs first.",
                source_of(identify),
            )  # fmt: skip
    return None


def _read_of(node: ast.AST) -> str:
    """Return what an expression reads of a connection: "user" for `conn.user` and `conn.scope["user"]`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return str(node.slice.value) if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) else ""


def _puts(source: Source, key: str) -> bool:
    """Tell whether the application itself puts `key` into a connection's scope."""
    for module in source.loaded_modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _read_of(node) == key:
                return True
    return False


# -- graphs -----------------------------------------------------------------------------------------------------------


def wrapping(parts: AppParts) -> list[Finding]:
    """Check that the application's graphs are wrapped, above all where ids are in configurable."""
    found = graphs(parts)
    bare = [name for name, graph in found.items() if not is_wrapped(graph)]
    if not found:
        cause = "no graph found, not checked: if one is made in a function, or later, see that it is wrapped"
        return [Finding("graphs", True, cause, unknown=True)]
    if not bare:
        return [Finding("graphs", True, f"{list_names(found)}: wrapped")]
    if all(has_agent_middleware(found[name]) for name in bare):
        return [
            Finding(
                "graphs", False, f"{list_names(bare)}: not wrapped, only LlmctxMiddleware is in it",
                "Models that hooks of other middleware ask (summaries, …) have no ids; other nodes have no scope.",
                "wrap_graph(create_agent(…)), beside the middleware or in its place.",
                list_places(filter(None, map(parts.location_of, bare))),
            )
        ]  # fmt: skip
    findings = [
        Finding(
            "graphs", False, f"{list_names(bare)}: not wrapped",
            "Its nodes have no scope of their own: ids in the state or in configurable are not seen, and calls from "
            "threads, workers and resumed runs have none.",
            "wrap_graph(builder).compile(…), or wrap_graph(graph) for one that is compiled already.",
            list_places(filter(None, map(parts.location_of, bare))),
        )
    ]  # fmt: skip
    if configurable := list(_ids_in_configurable(parts.source)):
        findings.append(
            Finding(
                "configurable", False, "ids are put into configurable, and the graph is not wrapped",
                "LangGraph gives callbacks the thread_id alone: the ids in configurable reach no row.",
                "wrap_graph(graph): its nodes read configurable.", list_places(configurable),
            )
        )  # fmt: skip
    return findings


def _ids_in_configurable(source: Source) -> Iterator[str]:
    for module in source.loaded_modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "configurable" and _keys_of(value) & _KEYS:
                    yield module.at(key)


def _keys_of(value: ast.expr) -> set[Any]:
    if isinstance(value, ast.Dict):
        return {key.value for key in value.keys if isinstance(key, ast.Constant)}
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "dict":
        return {keyword.arg for keyword in value.keywords}
    return set()


# -- handlers ---------------------------------------------------------------------------------------------------------


def callbacks(parts: AppParts) -> list[Finding]:
    """Find handlers that are not inline and would miss the starts of completion models."""
    made = _made(parts)
    models = [name for name, cls in made.items() if issubclass(cls, BaseLLM)]
    slow = {cls.__name__: cls for cls in made.values() if _is_slow_handler(cls)}
    if not models or not slow:
        return []
    return [
        Finding(
            "handlers", False, f"{list_names(slow)}: not inline, and {list_names(models)} is a completion model",
            "LangChain does not tell such a handler when a completion model starts, as soon as any other handler is "
            "inline; llmctx's is. Chat models are not affected.",
            "Set run_inline = True in a handler that is synchronous, or use a chat model.",
            list_places(filter(None, map(where_of, slow.values()))),
        )
    ]  # fmt: skip


def _made(parts: AppParts) -> dict[str, type]:
    """Return name -> class of the application's instances, and of what its source creates."""
    called = {module.dotted_name(call.func) for module in parts.source.loaded_modules for _, call in module.calls}
    imported = {f"{m.name}.{local}": dotted for m in parts.source.loaded_modules for local, dotted in m.imports.items()}
    found = {}
    for name, value in parts.objects.items():
        if not inspect.isclass(value):
            found[name] = type(value)
        elif imported.get(name, name) in called:
            found[name] = value
    return found


def _is_slow_handler(cls: type) -> bool:
    if not issubclass(cls, BaseCallbackHandler) or issubclass(cls, CallLogHandler) or getattr(cls, "run_inline", False):
        return False
    return is_own(inspect.getsourcefile(cls))


# -- start ------------------------------------------------------------------------------------------------------------


def start(problem: BaseException | None, where: str | None, *, was_started: bool = True) -> Finding:
    """Check that a call log runs, while the application has been started; `problem` is why it could not be."""
    if problem is not None:
        return Finding(
            "start", False, f"the application did not start: {type(problem).__name__}: {problem}",
            "Whether a call log runs in it is not known.",
            "Run doctor where the application runs, with the same environment.", where,
        )  # fmt: skip
    if not recorder.active and not was_started:
        cause = "the application was not started (--no-start): whether a call log runs in it is not known"
        return Finding("handler", True, cause, unknown=True)
    if not recorder.active:
        return Finding(
            "handler", False, "no CallLog was started with the application", "No call is recorded.",
            "FastAPI(lifespan=call_log.lifespan), or `async with call_log:` in your own lifespan.", where,
        )  # fmt: skip
    if not any(hears_everything(recorder) for recorder in recorder.active):
        explicit = 'a CallLog runs with capture="explicit": only calls that are given call_log.handler are recorded'
        return Finding("handler", True, explicit)
    return Finding("handler", True, "a CallLog runs, and records every call of the process")


def destination(settings: Settings) -> list[Finding]:
    """Look whether the running call logs write where doctor looks."""
    found: list[Finding] = []

    def look(call_log: Any) -> None:
        theirs: Settings = call_log.settings
        if theirs.journal_key != settings.journal_key:
            cause = (
                f"the application's rows go to {theirs.table} in {shown_url(theirs.database_url)}, which was not "
                "looked at: give it as LLMCTX_DATABASE_URL or --database-url"
            )
            found.append(Finding("database", True, cause, unknown=True))

    running_call_logs.for_each(look)
    return found
