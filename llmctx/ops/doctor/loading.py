"""Finding and importing an application: `module:attribute` as uvicorn takes it, and the graphs of platforms' files."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctx.core.errors import ConfigError

PLATFORM_FILES: Final = ("langgraph.json", "aegra.json")


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """An application, and the graphs that a platform's file names."""

    app: Any
    module_name: str
    graphs: dict[str, Any] = field(default_factory=dict)
    """`file: name` -> graph."""
    not_looked_at: dict[str, str] = field(default_factory=dict)
    """`file: name` of other graphs -> why."""


def load(name: str, app_dir: str | None = None) -> LoadedApp:
    """Import what `name` says: `module:attribute`, or a platform's file, whose `http.app` it is then.

    `app_dir` is where modules are looked for: by default in the working directory, and in `src` below it. A factory
    without parameters is called. Raises `ConfigError` when the application cannot be imported.
    """
    root = Path(app_dir) if app_dir is not None else Path.cwd()
    file = Path(name)
    if file.name in PLATFORM_FILES:
        root = file.resolve().parent
        written = (_read(file).get("http") or {}).get("app")
        app, module_name = (None, "") if written is None else _load_file(name, root, str(written))
    else:
        module_name = name.partition(":")[0]
        _make_importable(root, module_name, is_given=app_dir is not None)
        app = load_app(name)
    graphs, not_looked_at = _graphs(root)
    return LoadedApp(app, module_name, graphs, not_looked_at)


def load_app(name: str) -> Any:
    """Return the object that `module:attribute` names; a factory is called."""
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(f"--app {name}: write module:attribute, for example --app main:app, or langgraph.json.")
    try:
        return _attribute(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as problem:  # a program that parses its arguments ends
        raise ConfigError(f"--app {name}: {type(problem).__name__}: {problem}.") from problem


def _attribute(module: Any, dotted: str) -> Any:
    found = module
    for part in dotted.split("."):
        found = getattr(found, part)
    is_factory = inspect.isfunction(found) and not inspect.signature(found).parameters
    return found() if is_factory and not inspect.iscoroutinefunction(found) else found


def _make_importable(root: Path, module_name: str, *, is_given: bool) -> None:
    """Put `root`, or `src` in it where the module is there, first among the places of modules."""
    top = module_name.partition(".")[0]
    places = [root] if is_given else [root, root / "src"]
    has_it = [place for place in places if (place / top).is_dir() or (place / f"{top}.py").is_file()]
    for place in dict.fromkeys((root, *has_it[:1])):
        text = str(place.resolve())
        if text not in sys.path:
            sys.path.insert(0, text)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{file} cannot be read: {problem}.") from None
    return content if isinstance(content, dict) else {}


def _graphs(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the graphs that the platforms' files in `root` name, and why others could not be looked at."""
    found: dict[str, Any] = {}
    not_looked_at: dict[str, str] = {}
    for file in (root / name for name in PLATFORM_FILES):
        if not file.is_file():
            continue
        for name, written in _entries(_read(file)):
            key = f"{file.name}: {name}"
            try:
                graph, _ = _load_file(key, root, written)
            except ConfigError as problem:
                not_looked_at[key] = str(problem)
                continue
            if inspect.isroutine(graph):
                not_looked_at[key] = f"{key} is made by a function, for each run"
            else:
                found[key] = graph
    return found, not_looked_at


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    graphs = content.get("graphs")
    for name, written in (graphs if isinstance(graphs, dict) else {}).items():
        path = written.get("path") if isinstance(written, dict) else written
        if isinstance(path, str):
            yield str(name), path


def _load_file(key: str, root: Path, written: str) -> tuple[Any, str]:
    """Import `./src/agent/graph.py:graph`, or `agent.graph:graph`; return the object, and its module's name."""
    place, _, attribute = written.rpartition(":")
    file = (root / place).resolve()
    try:
        if not place.endswith(".py"):
            _make_importable(root, place, is_given=False)
            return _attribute(importlib.import_module(place), attribute), place
        name = _module_name(root, file)
        module = sys.modules.get(name) or importlib.import_module(name)
        return _attribute(module, attribute), name
    except (Exception, SystemExit) as problem:  # a program that parses its arguments ends
        raise ConfigError(f"{key} ({written}) cannot be imported: {type(problem).__name__}: {problem}.") from problem


def _module_name(root: Path, file: Path) -> str:
    """Return the name under which the application itself imports `file`, and make that possible."""
    start = root.resolve() if file.is_relative_to(root.resolve()) else file.parent
    if file.is_relative_to(start / "src") and not (start / "src" / "__init__.py").is_file():
        start /= "src"
    for place in (root.resolve(), start):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    return ".".join(file.relative_to(start).with_suffix("").parts)
