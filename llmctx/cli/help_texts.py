"""The verbs' help is their docstrings; `python -OO` leaves them out, so they are read from the source then."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import typer


def restore_docstrings(app: typer.Typer) -> None:
    """Give each verb of `app` its docstring back where Python was told to drop it. Nothing happens without source."""
    for verb in _verbs(app):
        if verb.__doc__ is None:
            verb.__doc__ = _docstring(inspect.unwrap(verb))


def _verbs(app: typer.Typer) -> Iterator[Callable[..., Any]]:
    callbacks = [app.registered_callback, *app.registered_commands]
    yield from (one.callback for one in callbacks if one is not None and one.callback is not None)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _verbs(group.typer_instance)


def _docstring(verb: Callable[..., Any]) -> str | None:
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(verb))).body
    except (OSError, SyntaxError, ValueError):
        return None
    return ast.get_docstring(function) if isinstance(function, ast.FunctionDef) else None
