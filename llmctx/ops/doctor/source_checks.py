"""What is wrong with an application's source: where it leaves its scopes behind, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from llmctx.ops.doctor.app_inspection import Anatomy, graphs, is_wrapped
from llmctx.ops.doctor.contextvar_checks import held_across_yield, lost_in_dependencies, lost_in_middleware
from llmctx.ops.doctor.finding import Finding, names, places
from llmctx.ops.doctor.lost_context import Kind, Loss, given_away, queued, workers

_CARRY: Final = "Hand it carry(fn); or start CallLog(carry=True), which does so for all of them."
_JOB: Final = "Give the job hand_over(), and do it inside of `with take_over(token):`."
_SAID: Final[dict[Kind, tuple[str, str, str]]] = {
    "executor": ("executors", "executors carry no context into their threads: {}", _CARRY),
    "process pool": (
        "process pools",
        "another process knows nothing of the request: {}",
        f"{_JOB} CallLog(carry=True) does as much for ProcessPoolExecutor.",
    ),
    "thread": ("threads", "a thread begins with an empty context: {}", _CARRY),
    "process": ("processes", "another process knows nothing of the request: {}", _JOB),
    "job": ("jobs", "jobs run in another process, and do not know for whom: {}", _JOB),
}
_NOBODY: Final = "The LLM calls made there have no scope: session_id and user_id are NULL (no_scope)."
_CURED_BY_CARRY: Final = frozenset({"executor", "process pool", "thread", "queue"})


def losses(anatomy: Anatomy, *, carry: bool) -> list[Finding]:
    """Everything that the source gives away; `carry` says that the application starts its call log with carry=True."""
    found = [*_jobs(anatomy, carry), *_workers(anatomy, carry), *_variables(anatomy)]
    if not found and anatomy.source.loaded:
        count = len(anatomy.source.modules)
        said = f"{count} {'file' if count == 1 else 'files'} read, and nothing in them leaves a scope behind"
        found.append(Finding("source", True, said))
    return found


def _jobs(anatomy: Anatomy, carry: bool) -> Iterator[Finding]:
    lost: dict[Kind, list[Loss]] = {}
    for loss in (*given_away(anatomy.source), *queued(anatomy.source)):
        if not (carry and loss.kind in _CURED_BY_CARRY):
            lost.setdefault(loss.kind, []).append(loss)
    for kind, each in lost.items():
        name, cause, fix = _SAID[kind]
        yield Finding(
            name,
            False,
            cause.format(names(loss.what for loss in each)),
            _NOBODY,
            fix,
            places(loss.where for loss in each),
        )


def _workers(anatomy: Anatomy, carry: bool) -> Iterator[Finding]:
    if carry:
        return
    source = anatomy.source
    serving = [function for each in anatomy.handlers if (function := source.of(each)) is not None]
    every = [function for module in source.loaded for function in module.functions]
    wrapped = all(map(is_wrapped, graphs(anatomy).values()))
    inside = list(workers(source, serving, graphs_count=not wrapped))
    outside = [loss for loss in workers(source, every, graphs_count=not wrapped) if loss not in inside]
    if inside:
        yield Finding(
            "workers",
            False,
            f"a request starts a worker for all: {names(loss.what for loss in inside)}",
            "The worker inherits the scope of the request that happened to start it, and bare prompts given to it by "
            "others are filed under that user.",
            "CallLog(carry=True): each item then brings the scope of whoever put it. Or start the worker in the "
            "lifespan, put the identity with the item, and bind() it there.",
            places(loss.where for loss in inside),
        )
    if outside:
        yield Finding(
            "queues",
            False,
            f"a worker reads a queue, and does not know for whom: {names(loss.what for loss in outside)}",
            _NOBODY,
            "CallLog(carry=True): each item then brings the scope of whoever put it. Or put the identity with the "
            "item, and bind() it in the worker.",
            places(loss.where for loss in outside),
        )


def _variables(anatomy: Anatomy) -> Iterator[Finding]:
    lost = list(lost_in_dependencies(anatomy))
    if lost:
        yield Finding(
            "dependencies",
            False,
            f"{names(f'{name} is synchronous, and sets {what}' for name, what, _ in lost)}",
            "FastAPI runs it in another thread, on a copy of the context: neither the endpoint nor its calls see it.",
            "amend(user_id=…) instead, which is heard from there too; or make the dependency `async def`.",
            places(where for *_, where in lost),
        )
    for name, cause, consequence, where in lost_in_middleware(anatomy):
        fix = "ContextMiddleware(identify=…), which is pure ASGI; or write " + name + " as pure ASGI."
        yield Finding("BaseHTTPMiddleware", False, cause, consequence, fix, where)
    held = list(held_across_yield(anatomy))
    if held:
        yield Finding(
            "generators",
            False,
            f"bind() is held open across a yield: {names(function.name for function, _ in held)}",
            "Whoever reads the generator runs in that scope between two steps, and ends it in another context.",
            "bind() inside, around each step that makes a call. ContextMiddleware covers streamed answers by itself.",
            places(where for _, where in held),
        )
