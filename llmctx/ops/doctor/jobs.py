"""Jobs that no request is around: those of Celery, RQ, arq and MCP servers in other processes, and those of schedulers.

A job of another process needs an identity, and a `CallLog` that is started there; one of a scheduler needs a scope.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from llmctx.ops.doctor.finding import Finding, list_names, list_places
from llmctx.ops.doctor.lost_context import Loss, last_name
from llmctx.ops.doctor.source import Function, Module, Source

_TASKS: Final = frozenset({"celery", "dramatiq", "huey", "taskiq", "procrastinate"})
_TASK_DECORATORS: Final = frozenset({"task", "shared_task", "actor", "periodic_task"})
_ENQUEUE: Final = frozenset({"enqueue", "enqueue_call", "enqueue_in", "enqueue_at"})
_MCP: Final = frozenset({"mcp", "fastmcp"})
_SCHEDULES: Final[dict[str, frozenset[str]]] = {
    "apscheduler": frozenset({"add_job", "add_schedule"}),
    "schedule": frozenset({"do"}),
}
"""Package -> methods whose first argument is run by itself, again and again."""
_SCHEDULED: Final = frozenset({"scheduled_job", "repeat_every", "crontab"})
_CALL_LOGS: Final = frozenset({"llmctx.calllog.CallLog"})
_TOKENS: Final = frozenset(
    f"{owner}.{name}" for owner in ("llmctx", "llmctx.identity.handover") for name in ("hand_over", "take_over")
)


def remote_jobs(source: Source) -> Iterator[Loss]:
    """Find jobs of Celery, RQ, arq and the like that make LLM calls without an identity."""
    for function, by in _remote(source):
        if by != "mcp" and not source.opens_scope(function):
            yield Loss("job", f"{function.name} ({by})", function.where)


def scheduled_jobs(source: Source) -> Iterator[Loss]:
    """Find jobs of schedulers in the application's process that make LLM calls and open no scope."""
    imported = _imported(source)
    methods = {method for package, some in _SCHEDULES.items() if package in imported for method in some}
    for module in source.loaded_modules:
        found = [
            source.resolve(call.args[0], around, module)
            for around, call in module.calls
            if call.args and isinstance(call.func, ast.Attribute) and call.func.attr in methods
        ]
        found += [f for f in module.functions if any(last_name(node) in _SCHEDULED for node, _ in f.decorators())]
        for function in dict.fromkeys(filter(None, found)):
            if source.calls_models(function) and not source.opens_scope(function):
                yield Loss("scheduled", function.name, function.where)


def unrecorded_jobs(source: Source) -> Iterator[Finding]:
    """Say where jobs run in processes that start no `CallLog`, as far as imports tell."""
    lost = [(function, by) for function, by in dict.fromkeys(_remote(source)) if not _may_record(source, function, by)]
    if lost:
        jobs = list_names(f"{function.name} ({by})" for function, by in lost)
        yield Finding(
            "other processes", True,
            f"no CallLog is started for {jobs}, as far as the source tells ({list_places(f.where for f, _ in lost)}): "
            "without one their calls have no row. CallLog().start() belongs into on_startup (arq), worker_process_init "
            "(Celery), the lifespan (MCP), or `with CallLog():` into the job (RQ)", unknown=True,
        )  # fmt: skip


def missing_key(source: Source, *, has_key: bool) -> Iterator[Finding]:
    """Say where tokens are made or taken over, when there is no key for them here."""
    if has_key:
        return
    used = [
        module.at(call)
        for module in source.modules
        for _, call in module.calls
        if module.dotted_name(call.func) in _TOKENS
    ]
    if used:
        yield Finding(
            "hand-over key", True,
            "LLMCTX_HANDOVER_KEY is not set here: without it hand_over() and take_over() raise ConfigError, as in "
            f"{list_places(used)}. Set the same in every process", unknown=True,
        )  # fmt: skip


def _remote(source: Source) -> Iterator[tuple[Function, str]]:
    """Yield the functions that make LLM calls as jobs of another process, and what runs them."""
    for function, by in _jobs(source, _imported(source)):
        if function is not None and source.calls_models(function):
            yield function, by


def _jobs(source: Source, imported: set[str]) -> Iterator[tuple[Function | None, str]]:
    tasks = imported & _TASKS
    for module in source.modules:
        is_server = module.module_object is None and any(_package(dotted) in _MCP for dotted in module.imports.values())
        for function in module.functions:
            decorators = [(last_name(node), dotted) for node, dotted in function.decorators()]
            if tasks and any(
                name in _TASK_DECORATORS and _package(dotted) != "langgraph" for name, dotted in decorators
            ):
                yield function, "/".join(sorted(tasks))
            if is_server and any(name == "tool" for name, _ in decorators):
                yield function, "mcp"
        if "rq" in imported:
            for around, call in module.calls:
                if last_name(call.func) in _ENQUEUE and call.args:
                    yield source.resolve(call.args[0], around, module), "rq"
        if (settings := module.classes.get("WorkerSettings")) is not None:
            for job in _arq_jobs(settings):
                yield source.resolve(job, None, module), "arq"


def _imported(source: Source) -> set[str]:
    return {_package(dotted) for module in source.modules for dotted in module.imports.values()}


def _package(dotted: str) -> str:
    return dotted.partition(".")[0]


def _may_record(source: Source, job: Function, by: str) -> bool:
    """Tell whether the process of `job` may make a `CallLog`: its module, one that it imports, or what starts it."""
    if any(map(_starts_call_log, _with_imports(source, job.module))):
        return True
    for module in source.modules:
        if module.module_object is None and _starts_call_log(module):
            packages = {_package(dotted) for dotted in module.imports.values()}
            if packages & set(by.split("/")) or job.module in _with_imports(source, module):
                return True
    return False


def _with_imports(source: Source, start: Module) -> list[Module]:
    """Return `start`, and the application's modules that it imports, directly or through others."""
    known = {module.name: module for module in source.modules}
    found = [start]
    for module in found:  # which grows
        names_of = {name for dotted in module.imports.values() for name in (dotted, dotted.rpartition(".")[0])}
        found += [known[name] for name in sorted(names_of & known.keys()) if known[name] not in found]
    return found


def _starts_call_log(module: Module) -> bool:
    return any(module.dotted_name(call.func) in _CALL_LOGS for _, call in module.calls)


def _arq_jobs(settings: ast.ClassDef) -> Iterator[ast.expr]:
    for node in settings.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if target is not None and last_name(target) == "functions" and isinstance(value, (ast.List, ast.Tuple)):
            for item in value.elts:
                yield item.args[0] if isinstance(item, ast.Call) and item.args else item
