"""Places where an application's source hands work on without its scope: executors, threads, workers.

A job counts only if it can be followed to an LLM call, and neither carries a scope nor opens one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmctx.ops.doctor.source import Function, Module, Source, is_bare_call, is_of_graph

Kind = Literal["executor", "process pool", "thread", "process", "queue", "job", "scheduled"]

_EXECUTORS: Final[dict[str, Kind]] = {
    "concurrent.futures.ThreadPoolExecutor": "executor",
    "concurrent.futures.thread.ThreadPoolExecutor": "executor",
    "concurrent.futures.Executor": "executor",
    "concurrent.futures.ProcessPoolExecutor": "process pool",
    "concurrent.futures.process.ProcessPoolExecutor": "process pool",
}
_STARTED: Final = frozenset({"threading.Thread", "multiprocessing.Process", "multiprocessing.context.Process"})
_FOLLOW: Final = 2
_CARRYING: Final = frozenset({"llmctx.carry", "llmctx.identity.scope.carry"})
_STARTS: Final = frozenset({"create_task", "ensure_future", "start_soon"})
_TAKES: Final = frozenset({"get", "get_nowait", "blpop", "brpop", "xreadgroup", "receive"})


@dataclass(frozen=True, slots=True)
class Loss:
    """A place where a scope is left behind."""

    kind: Kind
    what: str
    where: str


def jobs_without_scope(source: Source) -> Iterator[Loss]:
    """Find jobs that executors, threads and processes get without a scope."""
    for module in source.loaded_modules:
        pools = _pools(source, module)
        for function, call in module.calls:
            for kind, job, given in _jobs(module, call, pools):
                if _loses(source, job, function, module, given):
                    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
                    yield Loss(kind, f"{name}({_short(job)})", module.at(call))
        for cls in module.classes.values():
            bases = {module.dotted_name(base) for base in cls.bases}
            run = module.index.get(("run", cls.name, None))
            if run is not None and bases & _STARTED and source.calls_models(run) and not source.opens_scope(run):
                yield Loss("thread" if "threading.Thread" in bases else "process", f"{cls.name}.run", run.where)


def _jobs(module: Module, call: ast.Call, pools: dict[str, Kind]) -> list[tuple[Kind, ast.expr, list[ast.expr]]]:
    """Return the jobs that `call` hands on: kind of executor, function, arguments."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    dotted = module.dotted_name(call.func) or ""
    if dotted in _STARTED:
        target = keywords.get("target")
        args = getattr(keywords.get("args"), "elts", [])
        return [] if target is None else [("thread" if "Thread" in dotted else "process", target, args)]
    if dotted == "threading.Timer":
        target = keywords.get("function") or (call.args[1] if len(call.args) > 1 else None)
        return [] if target is None else [("thread", target, [])]
    if not isinstance(call.func, ast.Attribute):
        return []
    if call.func.attr == "run_in_executor":
        return [("executor", call.args[1], call.args[2:])] if len(call.args) > 1 else []
    if call.func.attr in {"submit", "map"} and call.args:
        kind = _pool_kind(module, call.func.value, pools)
        return [] if kind is None else [(kind, call.args[0], call.args[1:])]
    return []


def _loses(
    source: Source,
    job: ast.expr,
    inside: Function | None,
    module: Module,
    arguments: Sequence[ast.expr] = (),
    keywords: Sequence[ast.keyword] = (),
    follow: int = _FOLLOW,
) -> bool:
    """Tell whether `job` makes LLM calls without a scope of its own."""
    if isinstance(job, ast.Call):
        name = module.dotted_name(job.func) or ""
        if name in _CARRYING:
            return False
        if name.endswith("partial") and job.args:
            return _loses(source, job.args[0], inside, module, [*job.args[1:], *arguments], job.keywords, follow)
    if isinstance(job, ast.Attribute) and job.attr == "run":
        return False  # of a copied context
    if isinstance(job, ast.Name) and _is_carried(job.id, inside, module):
        return False
    found = source.resolve(job, inside, module)
    if found is not None:
        return source.calls_models(found) and not source.opens_scope(found)
    if isinstance(job, ast.Attribute):
        return is_bare_call(ast.Call(job, list(arguments), list(keywords)))
    if isinstance(job, ast.Name) and inside is not None and job.id in inside.parameters and follow:
        return _is_given_model_calls(source, inside, follow - 1)
    return False


def _is_carried(name: str, inside: Function | None, module: Module) -> bool:
    """Tell whether the local `name` was made by carry(), or is a method of a copied context."""
    nodes = module.tree.body if inside is None else inside.nodes()
    for node in nodes:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            if isinstance(node.value, ast.Call) and module.dotted_name(node.value.func) in _CARRYING:
                return True
            if any(isinstance(part, ast.Attribute) and part.attr == "run" for part in ast.walk(node.value)):
                return True
    return False


def _is_given_model_calls(source: Source, helper: Function, follow: int) -> bool:
    """Tell whether any caller gives `helper` a function that makes LLM calls."""
    for module in source.loaded_modules:
        for function, call in module.calls:
            if source.resolve(call.func, function, module) is helper:
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                if any(_loses(source, one, function, module, follow=follow) for one in given if not _is_call(one)):
                    return True
    return False


def _is_call(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call)


# -- pools ------------------------------------------------------------------------------------------------------------


def _pools(source: Source, module: Module) -> dict[str, Kind]:
    """Return the names of executors in `module`: variables, attributes, parameters, imports."""
    found: dict[str, Kind] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assign):
            kind = _made(module, node.value)
            found |= {last_name(target): kind for target in node.targets} if kind is not None else {}
        elif isinstance(node, ast.AnnAssign):
            kind = _annotated(module, node.annotation) or (_made(module, node.value) if node.value else None)
            found |= {last_name(node.target): kind} if kind is not None else {}
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            kind = _made(module, node.context_expr)
            found |= {last_name(node.optional_vars): kind} if kind is not None else {}
        elif isinstance(node, ast.arg) and node.annotation is not None:
            kind = _annotated(module, node.annotation)
            found |= {node.arg: kind} if kind is not None else {}
    for local, dotted in module.imports.items():
        owner, _, name = dotted.rpartition(".")
        home = next((other for other in source.modules if other.name == owner and other is not module), None)
        for node in [] if home is None else home.tree.body:
            if isinstance(node, ast.Assign) and name in map(last_name, node.targets) and home is not None:
                kind = _made(home, node.value)
                found |= {local: kind} if kind is not None else {}
    return found


def _made(module: Module, value: ast.expr) -> Kind | None:
    return _kind_of(module.dotted_name(value.func)) if isinstance(value, ast.Call) else None


def _annotated(module: Module, annotation: ast.expr) -> Kind | None:
    parts = (node for node in ast.walk(annotation) if isinstance(node, (ast.Name, ast.Attribute)))
    return next((kind for part in parts if (kind := _kind_of(module.dotted_name(part))) is not None), None)


def _kind_of(dotted: str | None) -> Kind | None:
    return _EXECUTORS.get(dotted or "")


def _pool_kind(module: Module, receiver: ast.expr, pools: dict[str, Kind]) -> Kind | None:
    if isinstance(receiver, ast.Call):
        return _made(module, receiver)
    return pools.get(last_name(receiver))


def last_name(expression: ast.AST) -> str:
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


# -- workers ----------------------------------------------------------------------------------------------------------


def workers(source: Source, inside: Sequence[Function], *, graphs_count: bool) -> Iterator[Loss]:
    """Find workers that read a queue, started by one of `inside`, or by what those call.

    Without `graphs_count` calls of graphs are ignored: a wrapped one finds its ids in its state or its thread.
    """
    seen: set[ast.AST] = set()
    for start in inside:
        for function in source.reach(start, 3):
            for call in function.calls():
                worker = _started(source, function, call)
                if worker is None or call in seen or not _is_worker(source, worker, graphs_count):
                    continue
                seen.add(call)
                yield Loss("queue", worker.name, function.module.at(call))


def _started(source: Source, function: Function, call: ast.Call) -> Function | None:
    """Return the function that `call` starts in the background."""
    module = function.module
    if last_name(call.func) in _STARTS and call.args:
        first = call.args[0]
        return source.resolve(first.func if isinstance(first, ast.Call) else first, function, module)
    if module.dotted_name(call.func) == "threading.Thread":
        target = next((keyword.value for keyword in call.keywords if keyword.arg == "target"), None)
        return None if target is None else source.resolve(target, function, module)
    return None


def _is_worker(source: Source, function: Function, graphs_count: bool) -> bool:
    """Tell whether it takes one job after the other, and makes LLM calls for them without a scope."""
    loops = [node for node in function.nodes(nested=False) if isinstance(node, (ast.While, ast.AsyncFor))]
    takes = any(_takes(call) for loop in loops for call in ast.walk(loop) if isinstance(call, ast.Call))
    made = (call for each in source.reach(function) for call in each.calls() if is_bare_call(call))
    return takes and any(graphs_count or not is_of_graph(call) for call in made) and not source.opens_scope(function)


def _takes(call: ast.Call) -> bool:
    """Tell `queue.get()` from `mapping.get(key)`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _TAKES:
        return False
    constant = all(isinstance(argument, ast.Constant) and not isinstance(argument.value, str) for argument in call.args)
    return constant or call.func.attr not in {"get", "get_nowait"}


def _short(expression: ast.expr) -> str:
    text = ast.unparse(expression)
    return text if len(text) <= 40 else text[:39] + "…"
