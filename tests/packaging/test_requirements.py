"""The lowest versions: pyproject.toml says them, README repeats them, requirements/lowest.lock installs them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FOR_DEVELOPMENT = {"all", "demo"}  # extras that are no feature of their own


def lowest(requirements: list[str]) -> dict[str, str]:
    """The lower bound of each requirement that is not llmctx itself."""
    bounds = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", line) for line in requirements if "llmctx" not in line]
    assert all(bounds), "a requirement has a lower bound and nothing else: an upper one would replace a host's library"
    return {bound[1]: bound[2] for bound in bounds if bound}


def locked() -> dict[str, str]:
    """The version of each package that requirements/lowest.lock installs on Python 3.11."""
    lines = re.findall(
        r"^([\w-]+)(?:\[[\w,]+\])?==([\w.]+)(.*) \\$", (ROOT / "requirements/lowest.lock").read_text(), re.M
    )
    return {name: version for name, version, marker in lines if not re.search(r">= '3\.1|== '3\.1[2-9]", marker)}


def normal(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version)


def test_the_lowest_versions_are_what_the_lock_installs() -> None:
    """`make test-lowest` proves the bounds of pyproject.toml, not others. genai-prices needs a newer pydantic."""
    names = [name for name in EXTRAS if name != "prices"]
    bounds = lowest(PROJECT["dependencies"]) | lowest([line for name in names for line in EXTRAS[name]])
    installed = locked()
    assert {name: normal(installed[name]) for name in bounds} == {name: normal(bounds[name]) for name in bounds}


def test_the_readme_says_the_lowest_versions() -> None:
    """Each library of the core, and those of extras that README names, with its version."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    listed = readme[readme.index("the lowest that fit:") : readme.index("The suite runs with")]
    of_extras = lowest([line for name in ("redis", "cli") for line in EXTRAS[name]])
    for name, version in (lowest(PROJECT["dependencies"]) | of_extras).items():
        assert re.search(rf"\b{re.escape(name)} {re.escape(version)}[,;.]( |$)", listed), f"{name} {version}"
    for language in re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"])):
        assert language in readme


def test_the_extra_all_has_every_feature() -> None:
    """A new extra goes into `all`, and into the sentence of README."""
    features = sorted(set(EXTRAS) - FOR_DEVELOPMENT)
    assert EXTRAS["all"] == [f"llmctx[{','.join(features)}]"]
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in features)


def test_no_lock_names_an_index_and_every_package_has_a_hash() -> None:
    """Locks install from whatever index pip is set up with."""
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert not re.search(r"^--|://", text, re.M), lock
        assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text.strip())), lock
