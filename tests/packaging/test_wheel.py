"""The built wheel is whole: it migrates by itself, from anywhere, without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sources as they stand."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the wheel's content."""
    target = wheel.parent / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(installed: Path, cwd: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` in an interpreter that sees the wheel's content before anything else of ours."""
    env = {**os.environ, "PYTHONPATH": str(installed), **environment}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def test_the_wheel_holds_the_package_its_types_and_the_migrations(installed: Path) -> None:
    """What the checkout has at top level is inside the package, and nothing else came along."""
    assert (installed / "llmctx/py.typed").is_file()
    assert (installed / "llmctx/migrations/env.py").is_file()
    assert (installed / "llmctx/migrations/script.py.mako").is_file()
    here = {path.name for path in (ROOT / "alembic/versions").glob("*.py")}
    assert {path.name for path in (installed / "llmctx/migrations/versions").glob("*.py")} == here
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"llmctx"}
    assert not list(installed.rglob("*.db"))


def test_the_wheel_finds_its_own_migrations(installed: Path, tmp_path: Path) -> None:
    """The packaged folder is taken, not a checkout's that happens to be importable."""
    program = "from llmctx import migrate; print(migrate.scripts())"
    done = run(installed, tmp_path, "-c", program)
    assert done.stdout.strip() == str(installed / "llmctx/migrations"), done.stderr


def test_the_wheel_migrates(installed: Path, tmp_path: Path, any_empty_database: str) -> None:
    """`llmctx migrate`, `--check` and `--downgrade` work from the wheel, on both databases."""

    def llmctx(*arguments: str) -> Any:
        done = run(installed, tmp_path, "-m", "llmctx", *arguments, "--json", LLMCTX_DATABASE_URL=any_empty_database)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert llmctx("migrate")["done"] is True
    assert llmctx("migrate", "--check")["table"] == "ours"
    assert llmctx("calls") == []
    assert llmctx("migrate", "--downgrade", "--yes")["done"] is True


def test_without_the_extra_one_line_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    """An installation without typer answers with a command, not with a traceback."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer', name='typer')")
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{installed}"}
    done = run(installed, tmp_path, "-m", "llmctx", "calls", **environment)
    assert done.returncode == 1
    assert done.stderr.strip() == 'The command line needs two more packages: pip install "llmctx[cli]"'


REQUIREMENTS = [
    re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
    if "llmctx" not in line
]


@pytest.mark.parametrize("versions", ["lowest", "of the next major version"])
def test_nothing_that_is_installed_is_replaced(wheel: Path, tmp_path: Path, versions: str) -> None:
    """pip would install llmctx alone, beside the oldest libraries that it supports, and beside ones yet to come.

    It has no index to take others from, and only reads what is noted of each library.
    """
    venv.create(tmp_path / "host")
    (packages,) = (tmp_path / "host").glob("lib/python*/site-packages")
    for found in REQUIREMENTS:
        assert found is not None
        name, version = found[1], found[2] if versions == "lowest" else f"{int(found[2].split('.')[0]) + 1}.0"
        noted = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        noted.mkdir(exist_ok=True)
        extra = "Provides-Extra: asyncio\n" if name == "sqlalchemy" else ""
        (noted / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extra}")
        (noted / "RECORD").touch()
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "host"), "--isolated"]
    asked = [*pip, "install", "--quiet", "--dry-run", "--no-index", "--report", "-", f"{wheel}[all,demo]"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [each["metadata"]["name"] for each in json.loads(done.stdout)["install"]] == ["llmctx"]
