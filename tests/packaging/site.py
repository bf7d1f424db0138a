"""Build the site of the docs from mkdocs.yml: `make docs`. Strict, and nothing in it asks a foreign host.

zensical's bundle can load an editor, diagrams and a repository's stars from elsewhere. No page of ours uses them, but
none of it shall be possible: their addresses are taken out of the scripts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_HOST: Final = re.compile(rb"https?://[\w.-]+(?::\d+)?")
_NAMES: Final = (b"http://www.w3.org", b"http://www.sitemaps.org")
"""Names of XML, which nobody fetches."""
_COMMENT: Final = re.compile(rb"/\*!?.*?\*/|<!--.*?-->|\\3c !--!.*?-->", re.DOTALL)
_LINK: Final = re.compile(rb"<a [^>]*>")
_TEXT: Final = re.compile(rb">[^<]*<")


def build(site: Path) -> None:
    """Build the site into `site`, which is made anew. Raise `CalledProcessError` for a link that leads nowhere."""
    with tempfile.TemporaryDirectory(prefix="llmctx-docs-") as folder:
        work = Path(folder)  # zensical wants all of it below one folder
        shutil.copytree(ROOT / "docs", work / "docs")
        for name in ("mkdocs.yml", "CHANGELOG.md"):
            shutil.copy(ROOT / name, work)
        command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=work)
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(work / "site", site)
    shutil.rmtree(site / "snippets")
    for script in site.rglob("*.js"):
        script.write_bytes(_HOST.sub(lambda found: found[0] if found[0] in _NAMES else b"", script.read_bytes()))


def foreign(site: Path) -> Iterator[str]:
    """Yield each place of the site that would make a browser ask another host; links to click are none."""
    for file in sorted(site.rglob("*")):
        if file.suffix in {".html", ".js", ".css", ".xml", ".svg"}:
            text = _COMMENT.sub(b"", file.read_bytes())
            if file.suffix == ".html":
                text = _TEXT.sub(b"><", _LINK.sub(b"", text))
            for found in _HOST.finditer(text):
                if found[0] not in _NAMES:
                    yield f"{file.relative_to(site)}: {found[0].decode()}"


def pages_without_a_place() -> list[str]:
    """Return the pages that the navigation of mkdocs.yml does not name."""
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = (page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md"))
    return sorted(str(page) for page in pages if page.parts[0] != "snippets" and str(page) not in listed)


def main() -> int:
    """Build `site/`. Return 1 if it would ask a foreign host, or if a page cannot be found in it."""
    site = ROOT / "site"
    if missing := pages_without_a_place():
        print("mkdocs.yml does not name", *missing, file=sys.stderr)
        return 1
    try:
        build(site)
    except subprocess.CalledProcessError as problem:
        print(re.sub(r"\x1b\[[0-9;]*m", "", problem.stdout + problem.stderr), file=sys.stderr)
        return 1
    hosts = list(foreign(site))
    print(*hosts, sep="\n", end="\n" if hosts else "", file=sys.stderr)
    return int(bool(hosts))


if __name__ == "__main__":
    sys.exit(main())
