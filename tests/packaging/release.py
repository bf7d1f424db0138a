"""Build what is published, inspect it, and try the wheel alone: `make build`.

    dist/*.whl, *.tar.gz    by hatchling
    inspected               twine, check-wheel-contents, pyroma, and the list of the wheel's files in wheel_files.txt
    tried                   the wheel in fresh environments: bare, [cli], [all] and [all,demo]; see tried.py
    dist/sbom.cdx.json      what the environment of [all] holds, as CycloneDX
    dist/SHA256SUMS         of all of it

`--accept` writes wheel_files.txt anew. `--skip-environments` only builds and inspects.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DIST: Final = ROOT / "dist"
FILES: Final = Path(__file__).with_name("wheel_files.txt")
TRIED: Final = Path(__file__).with_name("tried.py")
ENVIRONMENTS: Final = ("", "cli", "all", "all,demo")


def run(*command: str | Path, cwd: Path = ROOT, **more: str) -> None:
    """Run `command`; end with its output where it fails."""
    print("$", *command, file=sys.stderr)
    done = subprocess.run([*map(str, command)], cwd=cwd, env={**os.environ, **more}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\n{command[0]} ended with {done.returncode}")


def tool(name: str) -> Path:
    """Return a program of this environment."""
    return Path(sys.executable).with_name(name)


def build() -> Path:
    """Make `dist/` anew. Return the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", DIST)
    (sdist,) = DIST.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:  # the wheel comes from the sdist, as it does at whoever has no wheel
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", DIST, cwd=Path(folder, sdist.stem[:-4]))
    (wheel,) = DIST.glob("*.whl")
    return wheel


def contents(wheel: Path) -> list[str]:
    """Return the wheel's files but for the modules of the package, without the version in their names."""
    version = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        names = [name.replace(f"llmctx-{version}", "llmctx-VERSION") for name in archive.namelist()]
    return sorted(name for name in names if not name.endswith(".py") or "/migrations/" in name)


def modules(wheel: Path) -> set[str]:
    """Return the modules of the package that are in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.endswith(".py") and "/migrations/" not in name}


def inspect(wheel: Path, *, accept: bool) -> None:
    """Let the tools look at what was built, and compare the wheel's files with those that are expected."""
    (sdist,) = DIST.glob("*.tar.gz")
    run(tool("twine"), "check", "--strict", wheel, sdist)
    run(tool("check-wheel-contents"), wheel)
    run(tool("pyroma"), "--min", "10", sdist)
    here = {str(file.relative_to(ROOT)) for file in (ROOT / "llmctx").rglob("*.py")}
    if strange := modules(wheel) ^ here:
        sys.exit(f"the wheel's modules are not those of the checkout: {sorted(strange)}")
    listed = "".join(f"{name}\n" for name in contents(wheel))
    if accept:
        FILES.write_text(listed)
    elif listed != FILES.read_text():
        changed = set(listed.splitlines()) ^ set(FILES.read_text().splitlines())
        sys.exit(f'the wheel has other files: {sorted(changed)}. If that is right: make build ARGS="--accept"')


def attempt(wheel: Path, python: str, extras: str, folder: Path) -> Path:
    """Install the wheel alone with `extras`, and use it from a folder without a checkout. Return the interpreter."""
    venv = folder / (extras.replace(",", "-") or "bare")
    run(python, "-m", "venv", venv)
    interpreter = venv / "bin/python"
    run(interpreter, "-m", "pip", "install", "-qq", "--no-compile", f"{wheel}[{extras}]" if extras else wheel)
    elsewhere = venv / "elsewhere"
    elsewhere.mkdir()
    run(interpreter, "-I", TRIED, extras, cwd=elsewhere, LLMCTX_JOURNAL_DIR=str(elsewhere / "journal"))
    return interpreter


def main() -> int:
    """Do all of it; the first thing that fails is the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3", help="the interpreter of the fresh environments")
    parser.add_argument("--accept", action="store_true")
    parser.add_argument("--skip-environments", action="store_true")
    chosen = parser.parse_args()
    wheel = build()
    inspect(wheel, accept=chosen.accept)
    if not chosen.skip_environments:
        with tempfile.TemporaryDirectory(prefix="llmctx-build-") as name:
            found = {extras: attempt(wheel, chosen.python, extras, Path(name)) for extras in ENVIRONMENTS}
            sbom = DIST / "sbom.cdx.json"
            run(tool("cyclonedx-py"), "environment", "--output-reproducible", "-o", sbom, found["all"])
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(DIST.iterdir())]
    (DIST / "SHA256SUMS").write_text("".join(sums))
    print(*sums, sep="", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
