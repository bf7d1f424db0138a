"""What `llmctx doctor --app` finds: a src layout, a platform's file, an application that is not to be started."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctx.cli import main as cli
from llmctx.core.errors import ConfigError
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor import Finding, examine
from llmctx.settings import Settings, load
from tests.kit.shop import GRAPH, numbers

WEB = """
    from contextlib import asynccontextmanager

    from fastapi import FastAPI

    from llmctx import CallContext
    from llmctx.calllog import CallLog
    from llmctx.middleware import ContextMiddleware


    @asynccontextmanager
    async def lifespan(app):
        open("started", "w").close()
        async with CallLog():
            yield


    def who(conn):
        return CallContext(user_id="u", session_id="s")


    app = FastAPI(lifespan=lifespan)
    app.add_middleware(ContextMiddleware, identify=who)
"""


class Project:
    """A folder of files, which is the working directory."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.settings = root, settings
        self.said: list[str] = []

    def write(self, name: str, content: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(content), encoding="utf-8")

    def examine(self, app: str, *, app_dir: str | None = None, start: bool = True) -> dict[str, Finding]:
        found = examine(self.settings, app=app, app_dir=app_dir, start=start, say=self.said.append)
        return {one.name: one for one in found}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}"
    monkeypatch.setenv("LLMCTX_DATABASE_URL", url)
    migrate.upgrade(url)
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield Project(root, load())
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", "") and str(root) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_src_layout_is_found_and_so_is_another_directory(project: Project) -> None:
    """As uvicorn's --app-dir; src is tried by itself."""
    one, other = f"shop{next(numbers)}", f"shop{next(numbers)}"
    project.write(f"src/{one}/web.py", WEB)
    project.write(f"backend/{other}/web.py", WEB)
    assert project.examine(f"{one}.web:app")["handler"].ok
    assert project.examine(f"{other}.web:app", app_dir="backend")["middleware"].ok
    with pytest.raises(ConfigError, match="No module named"):
        project.examine(f"{other}x.web:app")


def test_one_is_told_before_the_lifespan_runs_and_can_do_without(project: Project) -> None:
    """It may migrate a database. What cannot be known then is no all-clear."""
    name = f"shop{next(numbers)}"
    project.write(f"{name}.py", WEB)
    found = project.examine(f"{name}:app", start=False)
    assert found["handler"].unknown
    assert not project.said
    assert not (project.root / "started").exists()
    assert project.examine(f"{name}:app")["handler"].ok
    assert (project.root / "started").exists()
    assert "--no-start" in project.said[0]


def test_an_application_that_prints_and_ends_spoils_no_report(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words are no part of the JSON, its exit code is not the command's."""
    name, ending = f"shop{next(numbers)}", f"shop{next(numbers)}"
    project.write(f"{name}.py", "    print('noise')\n" + WEB)
    project.write(f"{ending}.py", "raise SystemExit(7)")
    cli.run(["doctor", "--app", f"{name}:app", "--json"])
    assert "findings" in json.loads(capsys.readouterr().out)
    assert cli.run(["doctor", "--app", f"{ending}:app", "--json"]) == 2
    assert "SystemExit: 7" in json.loads(capsys.readouterr().out)["error"]


def test_no_graph_is_no_all_clear(project: Project) -> None:
    """They may be made late."""
    name = f"shop{next(numbers)}"
    project.write(f"{name}.py", WEB)
    graphs = project.examine(f"{name}:app")["graphs"]
    assert graphs.unknown
    assert graphs.cause.startswith("no graph found, not checked")


@pytest.mark.parametrize("file", ["langgraph.json", "aegra.json"])
def test_the_graphs_of_a_platforms_file(project: Project, file: str) -> None:
    """By path or by module, with or without an application; what is made by a function is said not to be checked."""
    name = f"agent{next(numbers)}"
    project.write(f"src/{name}/graph.py", GRAPH + "\n\n    def make(config):\n        return graph\n")
    project.write(f"src/{name}/plain.py", GRAPH.replace("wrap_graph(builder)", "builder"))
    project.write(f"src/{name}/web.py", WEB)
    graphs = {"good": f"./src/{name}/graph.py:graph", "made": {"path": f"./src/{name}/graph.py:make"}}
    content = {"dependencies": ["."], "graphs": graphs}
    project.write(file, json.dumps(content))
    found = project.examine(file)
    assert found["start"].unknown
    assert "made is made by a function" in found["graphs"].cause
    graphs |= {"bare": f"{name}.plain:graph", "gone": "./nowhere.py:graph"}
    project.write(file, json.dumps({**content, "http": {"app": f"./src/{name}/web.py:app"}}))
    every = examine(project.settings, app=file, say=project.said.append)
    causes = [one.cause for one in every if one.name == "graphs"]
    assert causes[0] == f"{name}.plain.graph: not wrapped"
    assert "gone (./nowhere.py:graph) cannot be imported" in causes[1]
    assert {one.name for one in every if not one.ok} == {"graphs"}
