"""Checks of an application's source: findings for the places where it leaves scopes behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from llmctx.ops.doctor.app_inspection import AppParts, graphs, is_wrapped
from llmctx.ops.doctor.contextvar_checks import bind_across_yield, lost_in_dependencies, lost_in_middleware
from llmctx.ops.doctor.finding import Finding, list_names, list_places
from llmctx.ops.doctor.jobs import missing_key, remote_jobs, scheduled_jobs, unrecorded_jobs
from llmctx.ops.doctor.lost_context import Kind, Loss, jobs_without_scope, workers

_CARRY: Final = "Hand it carry(fn); or start CallLog(carry=True), which does so for all of them."
_JOB: Final = "Give the job hand_over(), and do it inside of `with take_over(token):`."
_TEXTS: Final[dict[Kind, tuple[str, str, str]]] = {
    "executor": ("executors", "executors carry no context into their threads: {}", _CARRY),
    "process pool": (
        "process pools", "another process does not know the request: {}",
        f"{_JOB} CallLog(carry=True) does as much for ProcessPoolExecutor.",
    ),
    "thread": ("threads", "a thread starts with an empty context: {}", _CARRY),
    "process": ("processes", "another process does not know the request: {}", _JOB),
    "job": ("jobs", "jobs run in another process, without an identity: {}", _JOB),
    "scheduled": (
        "scheduled jobs", "a scheduler runs them outside of any request: {}",
        'Let the job open a scope: bind(user_id=…, session_id=…); "job:digest" will do where it works for no user.',
    ),
}  # fmt: skip
"""Kind of loss -> name, cause and fix of its finding."""
_NO_SCOPE: Final = "The LLM calls made there have no scope: session_id and user_id are NULL (no_scope)."
_FIXED_BY_CARRY: Final = frozenset({"executor", "process pool", "thread", "queue"})


def scope_losses(parts: AppParts, *, carry: bool, has_key: bool) -> list[Finding]:
    """Find where the source leaves scopes behind; `carry`: the application starts its call log with carry=True."""
    findings = [*_jobs(parts, carry), *_workers(parts, carry), *_variables(parts)]
    if not findings and parts.source.loaded_modules:
        count = len(parts.source.modules)
        cause = f"{count} {'file' if count == 1 else 'files'} read, and no loss of a scope was found in them"
        findings.append(Finding("source", True, cause))
    return [*findings, *unrecorded_jobs(parts.source), *missing_key(parts.source, has_key=has_key)]


def _jobs(parts: AppParts, carry: bool) -> Iterator[Finding]:
    lost: dict[Kind, list[Loss]] = {}
    for loss in (*jobs_without_scope(parts.source), *remote_jobs(parts.source), *scheduled_jobs(parts.source)):
        if not (carry and loss.kind in _FIXED_BY_CARRY):
            lost.setdefault(loss.kind, []).append(loss)
    for kind, each in lost.items():
        name, cause, fix = _TEXTS[kind]
        where = list_places(loss.where for loss in each)
        yield Finding(name, False, cause.format(list_names(loss.what for loss in each)), _NO_SCOPE, fix, where)


def _workers(parts: AppParts, carry: bool) -> Iterator[Finding]:
    if carry:
        return
    source = parts.source
    serving = [function for each in parts.handlers if (function := source.function_of(each)) is not None]
    every = [function for module in source.loaded_modules for function in module.functions]
    wrapped = all(map(is_wrapped, graphs(parts).values()))
    inside = list(workers(source, serving, graphs_count=not wrapped))
    outside = [loss for loss in workers(source, every, graphs_count=not wrapped) if loss not in inside]
    if inside:
        yield Finding(
            "workers", False, f"a request starts a shared worker: {list_names(loss.what for loss in inside)}",
            "The worker inherits the scope of the request that happened to start it, and plain prompts that other "
            "requests give it are recorded for that user.",
            "CallLog(carry=True): each item then brings the scope in which it was put. Or start the worker in the "
            "lifespan, put the identity with the item, and bind() it there.",
            list_places(loss.where for loss in inside),
        )  # fmt: skip
    if outside:
        yield Finding(
            "queues", False, f"a worker reads a queue whose items bring no identity: "
            f"{list_names(loss.what for loss in outside)}", _NO_SCOPE,
            "CallLog(carry=True): each item then brings the scope in which it was put. Or put the identity with the "
            "item, and bind() it in the worker.",
            list_places(loss.where for loss in outside),
        )  # fmt: skip


def _variables(parts: AppParts) -> Iterator[Finding]:
    if lost := list(lost_in_dependencies(parts)):
        yield Finding(
            "dependencies", False, list_names(f"{name} is synchronous, and sets {what}" for name, what, _ in lost),
            "FastAPI runs it in another thread, on a copy of the context: neither the endpoint nor its calls see it.",
            "amend(user_id=…) instead, which works from there too; or make the dependency `async def`.",
            list_places(where for *_, where in lost),
        )  # fmt: skip
    for name, cause, consequence, where in lost_in_middleware(parts):
        fix = f"ContextMiddleware(identify=…), which is pure ASGI; or write {name} as pure ASGI."
        yield Finding("BaseHTTPMiddleware", False, cause, consequence, fix, where)
    if across := list(bind_across_yield(parts)):
        yield Finding(
            "generators", False,
            f"bind() is held open across a yield: {list_names(function.name for function, _ in across)}",
            "The consumer of the generator runs in that scope between two steps, and closes it in another context.",
            "bind() inside, around each step that makes a call. ContextMiddleware covers streamed answers by itself.",
            list_places(where for _, where in across),
        )  # fmt: skip
