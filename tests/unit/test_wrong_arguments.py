"""What an application makes at its start says at once which of its arguments is of another kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import StateGraph
from prometheus_client import CollectorRegistry

from llmctx.calllog import CallLog
from llmctx.core.errors import ConfigError
from llmctx.dashboard import Access, Dashboard
from llmctx.graph import wrap_graph
from llmctx.identity.registry import MemoryRegistry
from llmctx.prometheus import metrics_app
from llmctx.testing import MemorySink


def dashboard(**arguments: Any) -> Dashboard:
    return Dashboard(arguments.pop("call_log", CallLog()), **{"authorize": lambda connection: None, **arguments})


def metrics(call_log: Any, registry: Any = None) -> Any:
    return metrics_app(call_log, registry=registry)


def access(**arguments: Any) -> Access:
    return Access("ada", **arguments)


def any_log(**arguments: Any) -> CallLog:
    return CallLog(**arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: any_log(destination=5), "destination= is of type int, which has no prepare()."),
        (lambda: any_log(destination=MemorySink()), "destination= is of type MemorySink, which has no prepare()."),
        (lambda: any_log(sink=MemorySink), "sink= is the class MemorySink: pass an object of it."),
        (lambda: any_log(registry={}), "registry= is of type dict, which has no put()."),
        (lambda: any_log(registry=MemoryRegistry), "registry= is the class MemoryRegistry"),
        (lambda: any_log(prometheus=5), "registry= is of type int, which has no register()."),
        (lambda: any_log(redact_functions=str.upper), "redact_functions= is a list of functions, also where it is one"),
        (lambda: any_log(redact_functions=5), "redact_functions= is a list of functions"),
        (lambda: any_log(redact_functions=[5]), "which cannot be called"),
        (lambda: dashboard(call_log=5), "Dashboard() takes a CallLog, not int."),
        (lambda: dashboard(call_log=CallLog), "Dashboard() takes a CallLog, not type."),
        (lambda: dashboard(authorize=True), "authorize= is of type bool: pass a function."),
        (lambda: dashboard(authorize=Access("ada")), "authorize= is of type Access: pass a function."),
        (lambda: dashboard(authorize=Access), "authorize= is the class Access: pass a function."),
        (lambda: dashboard(login_url=5), "login_url= is of type int: pass a text."),
        (lambda: dashboard(base_url=b"https://x"), "base_url= is of type bytes: pass a text."),
        (lambda: dashboard(frame_ancestors="*; script-src *"), "no origin"),
        (lambda: dashboard(frame_ancestors="x\r\nx: y"), "no origin"),
        (lambda: dashboard(frame_ancestors="https://\u65e5"), "no origin"),
        (lambda: access(ids="hash"), "Access(ids=…) is one of plain, short."),
        (lambda: access(texts="no"), "are True or False"),
        (lambda: access(within={"user": "ada"}), "takes Filters(…), not dict."),
        (lambda: metrics(5), "metrics_app() takes a CallLog, not int."),
        (lambda: metrics(CallLog(), 5), "registry= is of type int"),
    ],
)
def test_an_argument_of_another_kind_is_named(make: Callable[[], object], words: str) -> None:
    """Also a class in place of its object: as `authorize=` it would let everybody in."""
    with pytest.raises(ConfigError) as told:
        make()
    assert words in str(told.value)


def test_what_is_right_is_taken() -> None:
    """Objects with the methods, several origins, tuples and generators of functions."""
    any_log(sink=MemorySink(), registry=MemoryRegistry(), redact_functions=(one for one in (str.upper,)))
    dashboard(frame_ancestors="'self' https://a.example.org:8443 https://*.example.org", authorize=lambda one: None)
    metrics(CallLog(), CollectorRegistry())
    access(ids="short", texts=True, export=None)


def test_fields_that_are_no_dict_are_named() -> None:
    """Where a graph is wrapped."""
    builder: Any = StateGraph(dict)
    for fields in (5, [("user_id", "patient")]):
        with pytest.raises(TypeError, match="fields is a dict"):
            wrap_graph(builder, fields=fields)  # type: ignore[arg-type]  # that is the point
