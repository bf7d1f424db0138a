"""The parts of an application: middleware, routes, endpoints, dependencies, its own modules and their objects.

Nothing of the application is called, apart from the attributes of starlette's, FastAPI's and LangGraph's own objects.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from langchain_core.runnables import RunnableBinding
from langgraph.graph import START
from langgraph.pregel import Pregel
from starlette.middleware.base import BaseHTTPMiddleware

from llmctx.graph.node_identity import MARK
from llmctx.middleware import ContextMiddleware
from llmctx.ops.doctor.finding import plain_function, source_of
from llmctx.ops.doctor.source import Module, Source, read

_INSTALLED: Final = tuple(
    {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib")}
)
_OURS: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
_NOT_THE_APPLICATION: Final = frozenset({"tests", "test", "migrations", "alembic", "node_modules", "site-packages"})
_FILES: Final = 2000
_ITEMS: Final = 200


@dataclass(frozen=True, eq=False)
class Layer:
    """A middleware, with the arguments it is made with."""

    cls: Any
    kwargs: Mapping[str, Any]
    args: Sequence[Any] = ()

    @property
    def name(self) -> str:
        dispatch = self.dispatch
        shown = self.cls if dispatch is None or self.cls is not BaseHTTPMiddleware else dispatch
        return str(getattr(shown, "__name__", type(shown).__name__))

    @property
    def is_ours(self) -> bool:
        return inspect.isclass(self.cls) and issubclass(self.cls, ContextMiddleware)

    @property
    def is_base(self) -> bool:
        return inspect.isclass(self.cls) and issubclass(self.cls, BaseHTTPMiddleware)

    @property
    def authenticates(self) -> bool:
        return any(base.__name__ == "AuthenticationMiddleware" for base in getattr(self.cls, "__mro__", ()))

    @property
    def identify(self) -> Any:
        return self.kwargs.get("identify") or next(iter(self.args), None)

    @property
    def dispatch(self) -> Any:
        """Return the function of a BaseHTTPMiddleware that receives the request."""
        if not self.is_base:
            return None
        argument = self.kwargs.get("dispatch") or next(filter(inspect.isfunction, self.args), None)
        return argument or getattr(self.cls, "dispatch", None)


@dataclass(frozen=True, eq=False)
class Route:
    """An endpoint, with the middleware around it, outermost first."""

    path: str
    endpoint: Any
    layers: tuple[Layer, ...]
    dependencies: tuple[Any, ...] = ()


@dataclass
class AppParts:
    """An application as `inspect_app` finds it."""

    app: Any
    layers: tuple[Layer, ...] = ()
    """The middleware of the application itself, outermost first."""
    routes: list[Route] = field(default_factory=list)
    objects: dict[str, Any] = field(default_factory=dict)
    """The values in its modules, its state and its endpoints, by dotted name."""
    source: Source = field(default_factory=lambda: Source([]))

    @property
    def handlers(self) -> list[Any]:
        """Return the endpoints and dependencies: what runs inside of a request."""
        found = {id(f): f for route in self.routes for f in (route.endpoint, *route.dependencies)}
        return list(found.values())

    @property
    def dependencies(self) -> list[Any]:
        found = {id(f): f for route in self.routes for f in route.dependencies}
        return list(found.values())

    def location_of(self, name: str) -> str | None:
        """Return file and line of the object `name`."""
        homes = [m for m in self.source.modules if name.startswith(f"{m.name}.")]
        if not homes:
            return None
        module = max(homes, key=lambda m: len(m.name))
        return module.line_of(re.split(r"[.\[]", name[len(module.name) + 1 :])[0])


def inspect_app(app: Any, module_name: str) -> AppParts:
    """Return the parts of `app`, which the module `module_name` defines."""
    parts = AppParts(app)
    inner, outside = _unwrapped(app)
    parts.layers = (*outside, *_user_middleware(inner))
    _collect(inner, parts.layers, "", parts.routes, set())
    own = _own_modules(module_name)
    parts.source = Source(_modules(module_name, own))
    parts.objects = dict(_objects(inner, own, parts.handlers))
    return parts


# -- routes and middleware --------------------------------------------------------------------------------------------


def _unwrapped(app: Any) -> tuple[Any, tuple[Layer, ...]]:
    """Return the application inside of `app`, and the middleware that it was wrapped in by hand."""
    layers: list[Layer] = []
    for _ in range(50):
        inner = getattr(app, "app", None)
        if hasattr(app, "routes") or inner is None:
            break
        kwargs = {"identify": app.identify} if isinstance(app, ContextMiddleware) else {}
        layers.append(Layer(type(app), kwargs))
        app = inner
    return app, tuple(layers)


def _user_middleware(app: Any) -> tuple[Layer, ...]:
    return tuple(Layer(m.cls, m.kwargs, m.args) for m in getattr(app, "user_middleware", None) or ())


def _collect(app: Any, layers: tuple[Layer, ...], prefix: str, collected: list[Route], seen: set[int]) -> None:
    if id(app) in seen:
        return
    seen.add(id(app))
    for route in getattr(app, "routes", None) or ():
        # FastAPI keeps an included router as one route, and knows what it comes to
        expand: Callable[[], Iterator[Any]] | None = getattr(route, "effective_route_contexts", None)
        for each in [route] if expand is None else expand():
            _add(each, layers, prefix, collected, seen)


def _add(route: Any, layers: tuple[Layer, ...], prefix: str, collected: list[Route], seen: set[int]) -> None:
    # a FastAPI context keeps routes that are starlette's own as they are
    route = getattr(route, "starlette_route", None) or route
    path = f"{prefix}{getattr(route, 'path', '') or ''}"
    inner, around = _unwrapped(getattr(route, "app", None))
    layers = (*layers, *around)
    endpoint = getattr(route, "endpoint", None)
    if endpoint is None or hasattr(inner, "routes"):
        if inner is not None:
            _collect(inner, (*layers, *_user_middleware(inner)), path, collected, seen)
        return
    dependant = getattr(route, "dependant", None)
    calls = () if dependant is None else tuple(_calls(dependant))
    collected.extend(Route(path, each, layers, calls) for each in _of_class(endpoint))


def _calls(dependant: Any) -> Iterator[Any]:
    for inner in getattr(dependant, "dependencies", None) or ():
        if inner.call is not None:
            yield inner.call
        yield from _calls(inner)


def _of_class(endpoint: Any) -> list[Any]:
    """Return the methods of an endpoint that is a class, or the endpoint."""
    if not inspect.isclass(endpoint):
        return [endpoint]
    names = ("get", "post", "put", "patch", "delete", "on_connect", "on_receive")
    return [method for name in names if (method := getattr(endpoint, name, None)) is not None] or [endpoint]


# -- modules ----------------------------------------------------------------------------------------------------------


def is_own(file: str | None) -> bool:
    """Tell whether a file may be the application's: not installed, not the standard library's, not llmctx's."""
    if not file or file.startswith("<"):
        return False
    path = Path(file).resolve()
    if not _PACKAGES.isdisjoint(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in (*_INSTALLED, _OURS))


def _own_modules(module_name: str) -> list[ModuleType]:
    """Return the loaded modules of the application's package, and of files beside it that are not installed."""
    top = module_name.partition(".")[0]
    home = getattr(sys.modules.get(top), "__file__", None)
    root = None if home is None else Path(home).resolve().parent
    if root is not None and hasattr(sys.modules[top], "__path__"):
        root = root.parent
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        beside = root is not None and is_own(file) and Path(file).resolve().is_relative_to(root)
        if name == top or name.startswith(f"{top}.") or beside:
            found.append(module)
    return found


def _modules(module_name: str, own: Sequence[ModuleType]) -> list[Module]:
    """Read the sources of `own`, and the other files of their packages: no application imports its workers."""
    files = {str(Path(m.__file__).resolve()): m for m in own if m.__file__ is not None and m.__file__.endswith(".py")}
    found = {file: read(Path(file), module.__name__, module) for file, module in files.items()}
    top = module_name.partition(".")[0]
    for package in [m for m in own if m.__name__ == top or "." not in m.__name__]:
        for folder in getattr(package, "__path__", None) or [Path(package.__file__ or ".").resolve().parent]:
            nested = hasattr(package, "__path__")
            for path in sorted(Path(folder).resolve().glob("**/*.py" if nested else "*.py"))[:_FILES]:
                inside = path.relative_to(Path(folder).resolve())
                if str(path) in found or _is_foreign(inside):
                    continue
                dotted = ".".join([*([package.__name__] if nested else []), *inside.with_suffix("").parts])
                found[str(path)] = read(path, dotted.removesuffix(".__init__"))
    return [module for module in found.values() if module is not None]


def _is_foreign(path: Path) -> bool:
    name = path.name
    hidden = any(part.startswith(".") or part in _NOT_THE_APPLICATION for part in path.parts[:-1])
    return hidden or name.startswith("test_") or name in {"conftest.py", "setup.py"}


# -- objects ---------------------------------------------------------------------------------------------------------


def _objects(app: Any, own: Sequence[ModuleType], handlers: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for module in own:
        for name, value in list(vars(module).items()):
            if not name.startswith("__") and not isinstance(value, ModuleType) and not inspect.isroutine(value):
                yield from _opened(f"{module.__name__}.{name}", value, 2)
    for name, value in dict(getattr(getattr(app, "state", None), "_state", None) or {}).items():
        yield from _opened(f"app.state.{name}", value, 2)
    for handler in handlers:
        function = plain_function(handler)
        name = getattr(function, "__qualname__", type(handler).__name__)
        free = getattr(getattr(function, "__code__", None), "co_freevars", ())
        for cell_name, cell in zip(free, getattr(function, "__closure__", None) or (), strict=False):
            try:
                yield from _opened(f"{cell_name} in {name}", cell.cell_contents, 2)
            except ValueError:  # not filled yet
                continue
        defaults = [*(getattr(function, "__defaults__", None) or ()), getattr(handler, "__self__", None)]
        defaults += (getattr(function, "__kwdefaults__", None) or {}).values()
        for value in defaults:
            yield from _opened(f"a default of {name}", value, 2)


def _opened(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield `value`, and the values in containers and in objects of the application's own classes."""
    yield name, value
    if depth == 0 or inspect.isclass(value):
        return
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        inner = [(f"{name}[{i}]", item) for i, item in enumerate(value[:_ITEMS])]
    elif type(value) is dict:
        inner = [(f"{name}[{key!r}]", item) for key, item in list(value.items())[:_ITEMS]]
    elif is_own(getattr(sys.modules.get(type(value).__module__), "__file__", None)):
        inner = [(f"{name}.{key}", item) for key, item in list(getattr(value, "__dict__", {}).items())[:_ITEMS]]
    else:
        return
    for inner_name, item in inner:
        yield from _opened(inner_name, item, depth - 1)


# -- graphs -----------------------------------------------------------------------------------------------------------


def graphs(parts: AppParts) -> dict[str, Pregel[Any, Any, Any, Any]]:
    """Return the compiled graphs of the application, without those that are part of another."""
    found: dict[int, tuple[str, Any]] = {}
    for name, value in parts.objects.items():
        inside = value
        while isinstance(inside, RunnableBinding):
            inside = inside.bound
        if isinstance(inside, Pregel):
            found.setdefault(id(inside), (name, inside))
    inner_ids = {id(inner) for _, graph in found.values() for inner in _subgraphs(graph, set())}
    return {name: graph for key, (name, graph) in found.items() if key not in inner_ids}


def is_wrapped(graph: Any) -> bool:
    """Tell whether any of its nodes opens a scope; true as well for a graph without nodes to wrap."""
    inner = [graph, *_subgraphs(graph, set())]
    nodes = [node for each in inner for name, node in each.nodes.items() if name != START and not _is_graph(node)]
    return not nodes or any(map(_is_marked, nodes))


def has_agent_middleware(graph: Any) -> bool:
    """Return whether an agent's model, or its tools, are asked through `LlmctxMiddleware`."""
    agents = sys.modules.get("llmctx.graph.agents")
    if agents is None:
        return False
    seen: set[int] = set()
    steps = [part for node in graph.nodes.values() for part in (node.bound, getattr(node.bound, "func", None))]
    return any(_leads_to(step, agents.LlmctxMiddleware, _DEEP, seen) for step in steps)


_DEEP: Final = 10
_HOLDS: Final = ("__self__", "__wrapped__", "func", "afunc", "_wrap_tool_call", "_awrap_tool_call")
"""Where functions and LangGraph's runnables hold what they call."""


def _leads_to(thing: Any, cls: type, depth: int, seen: set[int]) -> bool:
    """Return whether what `thing` calls, as far as it can be seen, is a method of `cls`."""
    if isinstance(thing, cls):
        return True
    if not callable(thing) or id(thing) in seen or not depth:
        return False
    seen.add(id(thing))
    inner = [getattr(thing, name, None) for name in _HOLDS]
    for cell in getattr(thing, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # not filled
            inner.append(cell.cell_contents)
    return any(_leads_to(one, cls, depth - 1, seen) for one in inner)


def _is_marked(node: Any) -> bool:
    bound = node.bound
    candidates = (node.node, bound, getattr(bound, "func", None), getattr(bound, "afunc", None))
    return any(getattr(candidate, MARK, None) is not None for candidate in candidates)


def _is_graph(node: Any) -> bool:
    return isinstance(node.bound, Pregel)


def _subgraphs(graph: Any, seen: set[int]) -> Iterator[Any]:
    for node in graph.nodes.values():
        for inner in (node.bound, *node.subgraphs):
            if isinstance(inner, Pregel) and id(inner) not in seen:
                seen.add(id(inner))
                yield inner
                yield from _subgraphs(inner, seen)


def where_of(thing: Any) -> str | None:
    """Return file and line of the class of `thing`."""
    return source_of(thing if inspect.isclass(thing) else type(thing))
