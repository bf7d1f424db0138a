"""An application's own source, parsed and never run: its modules, their functions, and what calls what.

Names are followed as far as imports and definitions lead, and no further. What cannot be followed counts as harmless,
because false alarms make a check worthless.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctx.ops.doctor.finding import plain_function, source_location

Code = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
DEPTH: Final = 5
_CALLS: Final = frozenset(
    {"invoke", "ainvoke", "stream", "astream", "batch", "abatch", "astream_events", "stream_events"}
    | {"batch_as_completed", "abatch_as_completed"}
)
"""Methods by which LangChain's models, chains and graphs are called."""
_VERBS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BINDING: Final = frozenset(
    {"llmctx.bind", "llmctx.take_over", "llmctx.identity.scope.bind", "llmctx.identity.handover.take_over"}
    | {"llmctx.graph.wrap_node", "llmctx.carry", "llmctx.identity.scope.carry"}
)


@dataclass(eq=False)
class Module:
    """A source file."""

    name: str
    path: str
    tree: ast.Module
    module_object: Any = None
    """The module object, if the application has imported it."""
    imports: dict[str, str] = field(default_factory=dict)
    """Local name -> dotted name, of imports anywhere in the file."""

    @functools.cached_property
    def functions(self) -> list[Function]:
        return list(_functions(self, self.tree, None, None))

    @functools.cached_property
    def index(self) -> dict[tuple[str, str | None, Function | None], Function]:
        """Return (name, class, enclosing function) -> function; of two with one name the later one."""
        return {(f.name, f.cls, f.outer): f for f in self.functions}

    @functools.cached_property
    def calls(self) -> list[tuple[Function | None, ast.Call]]:
        """Return every call in the file, with the innermost function around it."""
        inside: dict[ast.AST, Function] = {}
        for function in self.functions:  # outer ones first
            inside |= dict.fromkeys(function.calls(), function)
        return [(inside.get(node), node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)]

    @functools.cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}

    def dotted_name(self, expression: ast.expr) -> str | None:
        """Return `threading.Thread` for `t.Thread` after `import threading as t`; `shop.main.run` for its own names."""
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return None
        first = self.imports.get(expression.id, f"{self.name}.{expression.id}")
        return ".".join([first, *reversed(parts)])

    def at(self, node: ast.AST) -> str:
        return source_location(self.path, getattr(node, "lineno", 1))

    def line_of(self, name: str) -> str:
        """Return where the module assigns the global `name`."""
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return self.at(node)
        return source_location(self.path, 1)


@dataclass(eq=False)
class Function:
    """A function, method or lambda."""

    module: Module
    node: Code
    cls: str | None
    outer: Function | None

    @property
    def name(self) -> str:
        return "a lambda" if isinstance(self.node, ast.Lambda) else self.node.name

    @property
    def where(self) -> str:
        return self.module.at(self.node)

    @property
    def first_line(self) -> int:
        decorators = [] if isinstance(self.node, ast.Lambda) else self.node.decorator_list
        return min([self.node.lineno, *(decorator.lineno for decorator in decorators)])

    @property
    def parameters(self) -> set[str]:
        given = self.node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        return {argument.arg for argument in every}

    def nodes(self, *, nested: bool = True) -> Iterator[ast.AST]:
        """Yield the nodes of its body; with those of functions defined inside of it, if `nested`."""
        body: list[ast.AST] = [self.node.body] if isinstance(self.node, ast.Lambda) else list(self.node.body)
        return _inside(body, nested)

    def calls(self, *, nested: bool = True) -> Iterator[ast.Call]:
        return (node for node in self.nodes(nested=nested) if isinstance(node, ast.Call))

    def decorators(self) -> list[tuple[ast.expr, str]]:
        """Return each decorator, without its arguments, and its dotted name."""
        plain = [] if isinstance(self.node, ast.Lambda) else self.node.decorator_list
        bare = [node.func if isinstance(node, ast.Call) else node for node in plain]
        return [(node, self.module.dotted_name(node) or "") for node in bare]

    @property
    def is_generator(self) -> bool:
        return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in self.nodes(nested=False))


class Source:
    """The source files of an application."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self.modules = list(modules)
        self._by_name = {module.name: module for module in modules}
        self._by_place = {(m.path, f.first_line, f.name): f for m in modules for f in m.functions}
        self._making: dict[Function, bool] = {}

    @property
    def loaded_modules(self) -> list[Module]:
        """Return the modules that the application has imported; the others run in other processes."""
        return [module for module in self.modules if module.module_object is not None]

    def function_of(self, thing: Any) -> Function | None:
        """Return the source of a function object."""
        code = getattr(plain_function(thing), "__code__", None)
        if code is None:
            return None
        name = "a lambda" if code.co_name == "<lambda>" else code.co_name
        return self._by_place.get((str(Path(code.co_filename).resolve()), code.co_firstlineno, name))

    def resolve(self, expression: ast.expr, inside: Function | None, module: Module) -> Function | None:
        """Return the application's function that `expression` names, if it can be found."""
        if isinstance(expression, ast.Lambda):
            return next((f for f in module.functions if f.node is expression), None)
        if isinstance(expression, ast.Call) and (module.dotted_name(expression.func) or "").endswith("partial"):
            return self.resolve(expression.args[0], inside, module) if expression.args else None
        if isinstance(expression, ast.Name):
            around = inside
            while around is not None:
                found = _named(module, expression.id, outer=around)
                if found is not None or expression.id in around.parameters:
                    return found
                around = around.outer
        if isinstance(expression, ast.Attribute) and inside is not None and _is_self(expression.value):
            return _named(module, expression.attr, cls=_class_around(inside))
        dotted = module.dotted_name(expression)
        if dotted is None:
            return None
        owner, _, name = dotted.rpartition(".")
        home = self._by_name.get(owner)
        return None if home is None else _named(home, name)

    def reach(self, start: Function, depth: int = DEPTH) -> Iterator[Function]:
        """Yield `start`, and the application's functions that it calls, directly or through others."""
        found, edge = {start}, [start]
        yield start
        for _ in range(depth):
            following: list[Function] = []
            for function in edge:
                for call in function.calls():
                    called = self.resolve(call.func, function, function.module)
                    if called is not None and called not in found:
                        found.add(called)
                        following.append(called)
                        yield called
            edge = following

    def calls_models(self, function: Function) -> bool:
        """Tell whether it makes LLM calls without a config, as far as calls can be followed."""
        known = self._making.get(function)
        if known is None:
            known = any(is_bare_call(call) for each in self.reach(function) for call in each.calls())
            self._making[function] = known
        return known

    def opens_scope(self, function: Function) -> bool:
        """Tell whether it opens a scope of its own: bind(), take_over(), or a carried function."""
        near = list(self.reach(function, 2))
        if any(name in _BINDING for each in near for _, name in each.decorators()):
            return True
        return any(each.module.dotted_name(call.func) in _BINDING for each in near for call in each.calls())


def is_model_call(call: ast.Call) -> bool:
    """Tell whether it looks like a call of a model, chain or graph, rather than of an HTTP client."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _CALLS:
        return False
    first = call.args[0] if call.args else None
    return not (isinstance(first, ast.Constant) and str(first.value).upper() in _VERBS)


def is_bare_call(call: ast.Call) -> bool:
    """Tell whether it looks like such a call without a config, which may carry the scope or a thread_id."""
    if not is_model_call(call):
        return False
    given = [keyword.value for keyword in call.keywords if keyword.arg in {"config", None}] or call.args[1:2]
    if not given:
        return True
    return isinstance(given[0], ast.Dict) and not is_of_graph(call)


def is_of_graph(call: ast.Call) -> bool:
    """Tell whether the name of its receiver contains graph or agent."""
    receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
    name = receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "")
    return "graph" in name.lower() or "agent" in name.lower()


def read(path: Path, name: str, loaded: Any = None) -> Module | None:
    """Parse a file; return None if it cannot be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    module = Module(name, str(path.resolve()), tree, loaded)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                module.imports[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                module.imports[alias.asname or alias.name] = f"{base}.{alias.name}"
    return module


def _functions(module: Module, node: ast.AST, cls: str | None, outer: Function | None) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            function = Function(module, child, cls, outer)
            yield function
            yield from _functions(module, child, None, function)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(module, child, child.name, outer)
        else:
            yield from _functions(module, child, cls, outer)


def _named(module: Module, name: str, *, cls: str | None = None, outer: Function | None = None) -> Function | None:
    return module.index.get((name, cls, outer))


def _is_self(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id in {"self", "cls"}


def _class_around(function: Function) -> str | None:
    around: Function | None = function
    while around is not None:
        if around.cls is not None:
            return around.cls
        around = around.outer
    return None


def _inside(nodes: Sequence[ast.AST], nested: bool) -> Iterator[ast.AST]:
    for node in nodes:
        yield node
        if nested or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _inside(list(ast.iter_child_nodes(node)), nested)
