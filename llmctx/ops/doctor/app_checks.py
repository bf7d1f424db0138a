"""What is wrong with an application as it is put together: middleware, routes, graphs, handlers, its start."""

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
from llmctx.ops.doctor.app_inspection import Anatomy, Layer, Route, graphs, is_own, is_wrapped, where_of
from llmctx.ops.doctor.contextvar_checks import amends
from llmctx.ops.doctor.finding import Finding, names, places, source_of
from llmctx.ops.doctor.source import Source

_ADD: Final = "app.add_middleware(ContextMiddleware, identify=who)"
_KEYS: Final = frozenset({"user_id", "session_id", "conversation_id"})


def middleware(anatomy: Anatomy) -> list[Finding]:
    """Whether ContextMiddleware is around every endpoint, and stands where it can see who is authenticated."""
    if not anatomy.routes and not anatomy.layers and not hasattr(anatomy.app, "routes"):
        kind = type(anatomy.app).__name__
        return [
            Finding(
                "middleware",
                False,
                f"{kind} has neither routes nor middleware to look at: it is not a Starlette or FastAPI application",
                "Whether requests have a scope cannot be told.",
                "Name the FastAPI or Starlette object itself.",
            )
        ]
    ours = [route for route in _own_routes(anatomy) if not any(layer.is_ours for layer in route.layers)]
    installed = any(layer.is_ours for layer in _all_layers(anatomy))
    where = source_of(type(anatomy.app)) if is_own(inspect.getsourcefile(type(anatomy.app))) else None
    if not installed:
        return [
            Finding(
                "middleware",
                False,
                "ContextMiddleware is not installed",
                "No request has a scope: session_id and user_id stay NULL.",
                _ADD,
                where or _place_of_app(anatomy),
            )
        ]
    if ours:
        cause = f"{len(ours)} of {len(_own_routes(anatomy))} routes are outside of ContextMiddleware: "
        return [
            Finding(
                "middleware",
                False,
                cause + names(route.path or "/" for route in ours),
                "Calls made there have no scope: session_id and user_id stay NULL.",
                f"Install it in the application that is outermost: {_ADD}",
                places(filter(None, (source_of(route.endpoint) for route in ours))),
            ),
            *_identify(anatomy),
        ]
    count = len(_own_routes(anatomy))
    said = f"ContextMiddleware is around {'the only route' if count == 1 else f'all {count} routes'}"
    return [Finding("middleware", True, said if count else "ContextMiddleware is installed"), *_identify(anatomy)]


def _own_routes(anatomy: Anatomy) -> list[Route]:
    """Those of the application: FastAPI's pages of documentation call no model."""
    found = []
    for route in anatomy.routes:
        try:
            file = inspect.getsourcefile(inspect.unwrap(getattr(route.endpoint, "func", route.endpoint)))
        except TypeError:  # a callable object
            file = inspect.getsourcefile(type(route.endpoint))
        if is_own(file):
            found.append(route)
    return found


def _all_layers(anatomy: Anatomy) -> list[Layer]:
    found = {id(layer): layer for layer in anatomy.layers}
    for route in anatomy.routes:
        found |= {id(layer): layer for layer in route.layers}
    return list(found.values())


def _place_of_app(anatomy: Anatomy) -> str | None:
    name = next((name for name, value in anatomy.held.items() if value is anatomy.app), None)
    return None if name is None else anatomy.place_of(name)


def _identify(anatomy: Anatomy) -> Iterator[Finding]:
    stacks = {route.layers for route in anatomy.routes} or {anatomy.layers}
    said: set[str] = set()
    for layers in stacks:
        ours = next((position for position, layer in enumerate(layers) if layer.is_ours), None)
        found = None if ours is None else _identify_of(anatomy, layers, ours)
        if found is not None and found.cause not in said:
            said.add(found.cause)
            yield found


def _identify_of(anatomy: Anatomy, layers: tuple[Layer, ...], ours: int) -> Finding | None:
    identify = layers[ours].identify
    inside = layers[ours + 1 :]
    if identify is None:
        if any(layer.authenticates for layer in layers) or amends(anatomy.source) or _puts(anatomy.source, "user"):
            return None
        return Finding(
            "identify",
            False,
            "neither `identify` is given, nor is there an authentication middleware",
            "Every request is anonymous, unless code inside calls amend().",
            _ADD,
            _place_of_app(anatomy),
        )
    function = anatomy.source.of(identify)
    reads = (
        set() if function is None else {_read_of(node) for f in anatomy.source.reach(function) for node in f.nodes()}
    )
    for layer in inside:
        needed = "user" if layer.authenticates else "session" if layer.cls.__name__ == "SessionMiddleware" else None
        if needed is not None and (function is None or reads & {needed, "auth"}):
            return Finding(
                "middleware order",
                False,
                f"{layer.name} runs inside of ContextMiddleware, so `identify` runs before there is a {needed}",
                "identify finds nobody: user_id stays NULL.",
                f"Add ContextMiddleware before {layer.name} in the code: what is added last runs first.",
                source_of(identify),
            )
    return None


def _read_of(node: ast.AST) -> str:
    """What of a connection an expression reads: `conn.user` and `conn.scope["user"]` read the user."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return str(node.slice.value) if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) else ""


def _puts(source: Source, key: str) -> bool:
    """Whether the application puts `key` into a connection's scope by itself."""
    for module in source.loaded:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _read_of(node) == key:
                return True
    return False


# -- graphs -----------------------------------------------------------------------------------------------------------


def wrapping(anatomy: Anatomy) -> list[Finding]:
    """Whether the graphs that can be reached are wrapped, and whether ids are where only a wrapped one finds them."""
    found = graphs(anatomy)
    bare = [name for name, graph in found.items() if not is_wrapped(graph)]
    if not found:
        return []
    if not bare:
        return [Finding("graphs", True, f"{names(found)}: wrapped")]
    findings = [
        Finding(
            "graphs",
            False,
            f"{names(bare)}: not wrapped",
            "Its nodes have no scope of their own: ids in the state or in configurable are not seen, and calls from "
            "threads, workers and resumed runs have none.",
            "wrap_graph(builder).compile(…), or wrap_graph(graph) for one that is compiled already.",
            places(filter(None, map(anatomy.place_of, bare))),
        )
    ]
    if configurable := list(_ids_in_configurable(anatomy.source)):
        findings.append(
            Finding(
                "configurable",
                False,
                "ids are put into configurable, and the graph is not wrapped",
                "LangGraph tells callbacks the thread_id alone: the ids in configurable reach no row.",
                "wrap_graph(graph): its nodes read configurable.",
                places(configurable),
            )
        )
    return findings


def _ids_in_configurable(source: Source) -> Iterator[str]:
    for module in source.loaded:
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


def callbacks(anatomy: Anatomy) -> list[Finding]:
    """Handlers that are not inline, where there are completion models whose starts they would miss."""
    made = _made(anatomy)
    models = [name for name, cls in made.items() if issubclass(cls, BaseLLM)]
    slow = {cls.__name__: cls for cls in made.values() if _is_slow_handler(cls)}
    if not models or not slow:
        return []
    return [
        Finding(
            "handlers",
            False,
            f"{names(slow)}: not inline, and {names(models)} is a completion model",
            "LangChain does not tell such a handler when a completion model starts, as soon as any other handler is "
            "inline; llmctx's is. Chat models are not affected.",
            "Set run_inline = True in a handler that is synchronous, or use a chat model.",
            places(filter(None, map(where_of, slow.values()))),
        )
    ]


def _made(anatomy: Anatomy) -> dict[str, type]:
    """The classes that the application has instances of, or makes some of somewhere."""
    called = {module.dotted(call.func) for module in anatomy.source.loaded for _, call in module.calls}
    imported = {f"{m.name}.{local}": dotted for m in anatomy.source.loaded for local, dotted in m.imports.items()}
    found = {}
    for name, value in anatomy.held.items():
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


def start(problem: BaseException | None, where: str | None) -> Finding:
    """Whether a call log runs, asked while the application has been started; `problem` if it could not be."""
    if problem is not None:
        return Finding(
            "start",
            False,
            f"the application did not start: {type(problem).__name__}: {problem}",
            "Whether a call log runs in it cannot be told.",
            "Run doctor where the application runs, with the same environment.",
            where,
        )
    if not recorder.active:
        return Finding(
            "handler",
            False,
            "no CallLog was started with the application",
            "No call is recorded.",
            "FastAPI(lifespan=call_log.lifespan), or `async with call_log:` in your own lifespan.",
            where,
        )
    if not any(hears_everything(recorder) for recorder in recorder.active):
        explicit = 'a CallLog runs with capture="explicit": only calls that are given call_log.handler are recorded'
        return Finding("handler", True, explicit)
    return Finding("handler", True, "a CallLog runs, and hears every call of the process")


def place_of_app(anatomy: Anatomy) -> str | None:
    """Where the application is made, if it is a global of its module."""
    return _place_of_app(anatomy)
