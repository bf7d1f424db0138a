"""Places where an application's source loses or leaks context variables, or holds `bind` open."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final

from llmctx.ops.doctor.app_inspection import AppParts, Layer
from llmctx.ops.doctor.source import Function, Module, Source

_BIND: Final = frozenset(
    {"llmctx.bind", "llmctx.identity.scope.bind", "llmctx.take_over", "llmctx.identity.handover.take_over"}
)
_AMEND: Final = frozenset({"llmctx.amend", "llmctx.identity.scope.amend"})
_CURRENT: Final = frozenset({"llmctx.current", "llmctx.identity.scope.current"})
_TOO_EARLY: Final = (
    "call_next() returns when the answer begins: calls of a streamed answer, or of a background task, are made in a "
    "scope that has been closed."
)
_MANAGERS: Final = frozenset({"contextmanager", "asynccontextmanager", "fixture"})


def amends(source: Source) -> bool:
    """Tell whether the application calls amend() anywhere."""
    return any(module.dotted_name(call.func) in _AMEND for module in source.loaded_modules for _, call in module.calls)


def lost_in_dependencies(parts: AppParts) -> Iterator[tuple[str, str, str]]:
    """Yield (dependency, what it sets, where) of synchronous dependencies whose context variables are lost."""
    source = parts.source
    for dependency in parts.dependencies:
        function = source.function_of(dependency)
        if function is None or _is_async(dependency):
            continue
        near = list(source.reach(function, 2))
        if any(each.module.dotted_name(call.func) in _AMEND for each in near for call in each.calls()):
            continue
        for each in near:
            found = _set_in(each, generator=function.is_generator)
            if found is not None:
                yield function.name, found[0], each.module.at(found[1])
                break


def _is_async(dependency: Any) -> bool:
    call = dependency if inspect.isroutine(dependency) else getattr(dependency, "__call__", dependency)  # noqa: B004
    return any(
        kind(each) for kind in (inspect.iscoroutinefunction, inspect.isasyncgenfunction) for each in (dependency, call)
    )


def _set_in(function: Function, *, generator: bool) -> tuple[str, ast.AST] | None:
    """Return the context variable, or the scope, that `function` leaves set."""
    calls = list(function.calls(nested=False))
    restored = {_variable(function.module, call, "reset") for call in calls}
    for call in calls:
        name = _variable(function.module, call, "set")
        if name is not None and (generator or name not in restored):
            return f"the context variable {name}", call
    for node in function.nodes(nested=False):
        if isinstance(node, ast.With) and _binds(function.module, node) and _yields(node):
            return "a scope, by bind()", node
    return None


def _variable(module: Module, call: ast.Call, method: str) -> str | None:
    """Return the name of the context variable whose `method` is called, if it is one."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != method:
        return None
    return ast.unparse(call.func.value) if isinstance(_value(module, call.func.value), ContextVar) else None


def _value(module: Module, expression: ast.expr) -> Any:
    """Return the value of a global name of a loaded module; None where code would have to run for it."""
    if isinstance(expression, ast.Name):
        return None if module.module_object is None else vars(module.module_object).get(expression.id)
    if isinstance(expression, ast.Attribute):
        owner = _value(module, expression.value)
        return vars(owner).get(expression.attr) if isinstance(owner, ModuleType) or inspect.isclass(owner) else None
    return None


# -- bind across a yield ----------------------------------------------------------------------------------------------


def bind_across_yield(parts: AppParts) -> Iterator[tuple[Function, str]]:
    """Find generators that yield inside of `with bind(...)`: their consumer runs in that scope."""
    source = parts.source
    dependencies = {source.function_of(dependency) for dependency in parts.dependencies}
    for module in source.loaded_modules:
        for function in module.functions:
            if function in dependencies or any(
                dotted.rpartition(".")[2] in _MANAGERS for _, dotted in function.decorators()
            ):
                continue
            for node in function.nodes(nested=False):
                if isinstance(node, (ast.With, ast.AsyncWith)) and _binds(module, node) and _yields(node):
                    yield function, module.at(node)
                    break


def _binds(module: Module, node: ast.With | ast.AsyncWith) -> bool:
    opened = (item.context_expr for item in node.items)
    return any(isinstance(each, ast.Call) and module.dotted_name(each.func) in _BIND for each in opened)


def _yields(node: ast.AST) -> bool:
    if isinstance(node, (ast.Yield, ast.YieldFrom)):
        return True
    children = ast.iter_child_nodes(node)
    return any(_yields(child) for child in children if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


# -- BaseHTTPMiddleware -----------------------------------------------------------------------------------------------


def lost_in_middleware(parts: AppParts) -> Iterator[tuple[str, str, str, str]]:
    """Yield (middleware, cause, consequence, where) of each BaseHTTPMiddleware that loses context."""
    seen: set[Function] = set()
    for layers in [parts.layers, *(route.layers for route in parts.routes)]:
        for position, layer in enumerate(layers):
            function = parts.source.function_of(layer.dispatch) if layer.is_base else None
            if function is None or function in seen:
                continue
            seen.add(function)
            yield from _lost_around(layer, function, ours_inside=any(one.is_ours for one in layers[position + 1 :]))


def _lost_around(layer: Layer, function: Function, *, ours_inside: bool) -> Iterator[tuple[str, str, str, str]]:
    module = function.module
    calls = list(function.calls(nested=False))
    forwards = [call for call in calls if _last_name(call.func) == "call_next"]
    for node in function.nodes(nested=False):
        if isinstance(node, (ast.With, ast.AsyncWith)) and _binds(module, node):
            inside = {call for call in ast.walk(node) if isinstance(call, ast.Call)}
            if inside & set(forwards):
                yield (
                    layer.name,
                    f"{layer.name} is a BaseHTTPMiddleware, and calls call_next() inside of bind()",
                    _TOO_EARLY,
                    module.at(node),
                )
    if not forwards:
        return
    after = min(call.lineno for call in forwards)
    own = {_variable(module, call, "set") for call in calls}
    for call in calls:
        if call.lineno <= after:
            continue
        name = _variable(module, call, "get")
        if name is None and ours_inside and module.dotted_name(call.func) in _CURRENT:
            name = "current()"
        if name is not None and name not in own:
            yield (
                layer.name,
                f"{layer.name} is a BaseHTTPMiddleware, and reads {name} after call_next()",
                "Values set inside do not reach a BaseHTTPMiddleware: it reads the earlier value.",
                module.at(call),
            )
            return


def _last_name(expression: ast.expr) -> str:
    return expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")
