"""Run the compatibility tests over Python x libraries x PostgreSQL, and note what ran: `make matrix`.

    make matrix                                               all cells that this machine has, for hours
    make matrix ARGS="--python 3.12 --libraries newest --postgresql 15"

Each cell is `make test-lowest` or `make test-newest` with an interpreter of pyenv or of the PATH, on PostgreSQL 18 of
the wheel, or on one of /usr/lib/postgresql; what fails beside others runs once more alone. docs/snippets/matrix.json
holds what ran last in each cell, and matrix.md, which is made from it, the table of the docs. Nothing else may go in
there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llmctx import __version__

ROOT: Final = Path(__file__).parents[2]
NOTED: Final = ROOT / "docs/snippets/matrix.json"
TABLE: Final = NOTED.with_suffix(".md")
PYTHONS: Final = ("3.11", "3.12", "3.13")
LIBRARIES: Final = ("lowest", "newest")
POSTGRESQL: Final = ("15", "18")
SHOWN: Final = ("langchain-core", "langgraph", "sqlalchemy", "pydantic", "starlette")
_COUNTED: Final = re.compile(r"(\d+) (passed|failed|errors?)")


def interpreter(version: str) -> str | None:
    """Return an interpreter of this version, of pyenv or of the PATH."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    return str(found[-1]) if found else shutil.which(f"python{version}")


@contextlib.contextmanager
def postgresql(version: str) -> Iterator[dict[str, str]]:
    """The environment of tests with this server: 18 is that of the wheel, which the tests start by themselves."""
    if version == "18":
        yield {}
        return
    programs = Path(f"/usr/lib/postgresql/{version}/bin")
    if not (programs / "postgres").exists():
        sys.exit(f"there is no PostgreSQL {version} in {programs}: install Debian's postgresql-{version}")
    with tempfile.TemporaryDirectory(prefix="llmctx-pg-") as folder:
        user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
        if user:
            shutil.chown(folder, "nobody")
        data = Path(folder, "data")
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "llmctx", "-A", "trust", "-E", "UTF8"],
            check=True, stdout=subprocess.DEVNULL, cwd=folder, **user,
        )  # fmt: skip
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=300"]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *options, "-c", "max_prepared_transactions=10"],
            cwd=folder, stderr=subprocess.DEVNULL, **user,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            ready = [programs / "pg_isready", "-q", "-h", folder]
            while subprocess.run(ready, check=False).returncode:
                assert time.monotonic() < deadline, "PostgreSQL does not start"
                assert server.poll() is None, "PostgreSQL has ended"
                time.sleep(0.2)
            yield {"LLMCTX_TEST_DATABASE_URL": f"postgresql+asyncpg://llmctx@/postgres?host={folder}"}
        finally:
            server.terminate()
            server.wait(60)


def run(python: str, libraries: str, server: str, arguments: str) -> dict[str, Any]:
    """Run one cell. Return what is noted of it."""
    found = interpreter(python)
    if found is None:
        sys.exit(f"there is no Python {python}: pyenv install {python}")
    with postgresql(server) as environment:
        command = ["make", "--no-print-directory", f"test-{libraries}", f"PYTHON={found}"]
        counted, code = _tested([*command, f"ARGS={arguments}"], environment)
        programs = ROOT / ".venvs" / f"{libraries}-{Path(found).name}" / "bin"
        alone = 0
        if failed := counted["failed"] + counted["error"]:  # as `make test`: it counts if it fails again
            again = f"ARGS={arguments} -n 0 --last-failed --last-failed-no-failures none"
            second, code = _tested([*command, again], environment)
            alone = failed - second["failed"] - second["error"]
    listed = json.loads(subprocess.check_output([programs / "pip", "list", "--format", "json"], text=True))
    versions = {one["name"].lower(): one["version"] for one in listed}
    exact = subprocess.check_output([programs / "python", "-c", "import platform; print(platform.python_version())"])
    return {
        "python": exact.decode().strip(), "libraries": libraries, "postgresql": server, "llmctx": __version__,
        "passed": counted["passed"] + alone, "alone": alone, "failed": failed - alone,
        "exit_code": code, "selected": arguments, "at": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {name: versions[name] for name in SHOWN},
    }  # fmt: skip


def _tested(command: Sequence[str], environment: dict[str, str]) -> tuple[Counter[str], int]:
    """Run tests. Return how many passed, failed, and had an error, and the exit status."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout[-20_000:])
    last = done.stdout.rpartition("\n===")[2]
    return Counter({words[1].rstrip("s"): int(words[0]) for words in _COUNTED.findall(last)}), done.returncode


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Return what ran, as the docs show it."""
    if not cells:
        return "Nothing has been noted yet.\n"
    head = ["Python", "libraries", "PostgreSQL", *SHOWN, "passed", "of them alone", "failed", "selection", "on"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for _, one in sorted(cells.items()):
        versions = [one["versions"][name] for name in SHOWN]
        chosen = f"`{one['selected']}`" if one["selected"] else ""
        row = [
            one["python"],
            one["libraries"],
            one["postgresql"],
            *versions,
            one["passed"],
            one.get("alone", 0),
            one["failed"],
            chosen,
            one["at"],
        ]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the chosen cells and note each as soon as it has run. Return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="*", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--postgresql", nargs="*", choices=POSTGRESQL, default=POSTGRESQL)
    parser.add_argument("--select", default="", help="arguments for pytest; they are noted beside what ran")
    chosen = parser.parse_args()
    code = 0
    for python in chosen.python:
        for libraries in chosen.libraries:
            for server in chosen.postgresql:
                cell = run(python, libraries, server, chosen.select)
                cells = json.loads(NOTED.read_text()) if NOTED.exists() else {}
                cells[f"{python} {libraries} {server}"] = cell
                NOTED.write_text(json.dumps(cells, indent=1, sort_keys=True) + "\n")
                TABLE.write_text(table(cells))
                code |= cell["exit_code"] != 0
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
