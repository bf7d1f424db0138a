"""The docs: what is generated is up to date, what is printed can be typed, and the site asks nobody else."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from llmctx.cli import app
from llmctx.dashboard import pages as dashboard_pages
from llmctx.dashboard import view
from llmctx.delivery.pricing import load_file
from llmctx.prometheus import ASSETS
from llmctx.settings import Settings, load
from llmctx.telemetry.metrics import MEASURES
from llmctx.telemetry.shipper_metrics import SHIPPER
from tests.packaging import matrix, reference, site

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SNIPPETS = DOCS / "snippets"
PAGES = sorted(DOCS.rglob("*.md"))
SHOWN = {"text", "sh"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.M | re.S):
        yield found[2], "\n".join(line.removeprefix(found[1]) for line in found[3].splitlines())


def relative(page: Path) -> str:
    return str(page.relative_to(DOCS))


def test_the_reference_is_what_the_code_says() -> None:
    """Settings, commands, columns and errors: `make reference` writes them."""
    behind = [name for name, make in reference.PAGES.items() if (reference.FOLDER / name).read_text() != make()]
    assert behind == [], "run `make reference`"


def test_the_site_asks_no_foreign_host(tmp_path: Path) -> None:
    """Built strictly: a link or an anchor that leads nowhere fails."""
    site.build(tmp_path / "site")
    assert (tmp_path / "site/zh/index.html").exists()
    assert list(site.foreign(tmp_path / "site")) == []


def test_every_block_of_code_is_a_file() -> None:
    """What can be run is a file of docs/snippets, which a test runs, or stands in a page whose blocks a test runs.

    The rest are commands and what they print.
    """
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        if f'"{relative(page)}"' in tests or f"docs/{relative(page)}" in tests:
            continue
        for language, text in blocks(page):
            if language not in SHOWN:
                assert re.fullmatch(r'--8<-- "[\w/.]+"', text.strip()), f"{relative(page)}: {text}"


ANY = {"python", ".", "uvicorn", "curl", "rm", "pytest", "docker"}


def test_every_command_can_be_typed() -> None:
    """Options exist, extras exist, settings are such, targets of make are there."""
    texts = [text for page in PAGES for language, text in blocks(page) if language == "sh"]
    for line in sorted({line for text in texts for line in text.splitlines()}):
        try:
            check_command(shlex.split(line))
        except Exception as problem:
            problem.add_note(line)
            raise


def check_command(words: list[str]) -> None:
    """Raise if a line of a shell block is not what a reader can type."""
    if words[0] == "llmctx":
        parse(get_command(app), words)
    elif words[:2] == ["pip", "install"]:
        extras = re.fullmatch(r"llmctx\[([\w,]+)\]", words[2])
        assert extras is not None
        assert set(extras[1].split(",")) <= set(EXTRAS)
    elif words[0] == "export":
        values = dict(word.split("=", 1) for word in words[1:])
        settings = {name.removeprefix("LLMCTX_").lower(): value for name, value in values.items()}
        assert set(settings) <= set(Settings.model_fields)
        settings.pop("price_file", None)
        load(**settings)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    else:
        assert words[0] in ANY


def parse(command: Any, words: list[str]) -> None:
    """Parse as the command line does, and run nothing."""
    context = command.make_context(words[0], words[1:], ignore_unknown_options=False)
    with context:
        rest = [*context._protected_args, *context.args]
        if rest and hasattr(command, "get_command"):
            below = command.get_command(context, rest[0])
            assert below is not None, words
            parse(below, rest)


NAMING = [
    ROOT / "README.md",
    *(file for folder in (DOCS, ROOT / "examples", ASSETS) for file in sorted(folder.rglob("*.*")) if file.is_file()),
]
"""What is printed for users: pages, programs, examples, alert rules and dashboards."""
READ = {".md", ".py", ".sh", ".yaml", ".yml", ".json", ".sql", ".txt", ".service", ".ini"}


def named() -> Iterator[tuple[Path, str]]:
    return ((file, file.read_text(encoding="utf-8")) for file in NAMING if file.suffix in READ)


def commands() -> dict[str, set[str]]:
    """Each command, `migrate sql` for one in a group, and its options, those of former spellings as well."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, *path: str) -> None:
        found[" ".join(path)] = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        for name, below in getattr(command, "commands", {}).items():
            walk(below, *path, name)

    walk(get_command(app))
    return found


def test_every_command_and_option_that_a_sentence_names_exists() -> None:
    """Not only in blocks that are checked line by line: in sentences, tables, units and programs."""
    known = commands()
    options = {"--help", "--llmctx-strict", "--profile"}.union(*known.values())
    for file, text in named():
        for words in re.findall(r"(?:`|^|ExecStart=\S*/)llmctx ((?:[\w-][^`\n|;#]*|))", text, re.M):
            verb, *more = words.replace(",", " ").split() or [""]
            if verb.startswith("--"):
                verb, more = "", [verb, *more]
            if verb not in known:
                assert "`llmctx " + words not in text, f"{file}: llmctx {words}"
                continue
            verb = f"{verb} {more[0]}" if more and f"{verb} {more[0]}" in known else verb
            given = {word.split("=")[0].rstrip(".,)") for word in more if word.startswith("--")}
            assert given <= known[verb] | known[""] | {"--help"}, f"{file}: llmctx {words}"
        assert set(re.findall(r"`(--[a-z-]+)", text)) <= options, file


def test_every_metric_that_is_named_exists() -> None:
    """In pages, alert rules and dashboards; a histogram is asked for its buckets, its sum and its count."""
    parts = {f"{one.name}_{part}" for one in MEASURES for part in ("bucket", "sum", "count") if one.kind == "histogram"}
    known = parts | {one.name for one in (*MEASURES, *SHIPPER.values())}
    endings = r"total|seconds|bytes|rows|calls|info|bucket|sum|count|waiting|held|in_hand|set_aside"
    for file, text in named():
        if file.suffix != ".sql":
            assert set(re.findall(rf"\bllmctx_\w+_(?:{endings})\b", text)) <= known, file


def test_every_setting_that_is_named_exists() -> None:
    """`LLMCTX_…` in the text is a setting."""
    others = {"TEST_DATABASE_URL", "TEST", "RECORDED", "REFUSED", "REFUSED_CLICKHOUSE"}  # the last are streams
    for file, text in named():
        settings = set(re.findall(r"LLMCTX_([A-Z_]*[A-Z])", text)) - others
        assert {name.lower() for name in settings} <= set(Settings.model_fields), file


def test_every_page_and_parameter_of_the_dashboard_is_listed() -> None:
    """In docs/reference/pages.md."""
    page = (DOCS / "reference/pages.md").read_text()
    listed = set(re.findall(r"`([\w/]+?)(?:\.json|\?id=)?`", page))
    assert {*dashboard_pages.PAGES} - listed == set()
    assert {*view._KNOWN} - {"view", "id", "lazy", "texts"} - listed == set()


def test_what_make_matrix_noted_is_what_the_docs_show() -> None:
    """The table is made from what ran, and from nothing else."""
    cells = json.loads(matrix.NOTED.read_text()) if matrix.NOTED.exists() else {}
    assert matrix.TABLE.read_text() == matrix.table(cells)


def test_files_that_are_shown_can_be_read() -> None:
    """Those that are no program: YAML, JSON, prices."""
    assert list(yaml.safe_load_all((SNIPPETS / "how_to/kubernetes.yaml").read_text()))
    assert len(json.loads((SNIPPETS / "how_to/prices.json").read_text())) == len(
        load_file(SNIPPETS / "how_to/prices.json")
    )


@pytest.mark.parametrize("page", ["tutorial.md", "zh/tutorial.md"])
def test_what_a_step_adds_is_marked(page: str) -> None:
    """The lines that the step before does not have; a line that only moved is none."""
    marked = re.findall(r'hl_lines="([\d ]+)"\n--8<-- "([\w/.]+)"', (DOCS / page).read_text(encoding="utf-8"))
    assert len(marked) == 3
    for numbers, name in marked:
        step = int(name[-4])
        before = (SNIPPETS / f"tutorial/step{step - 1}.py").read_text().split("\n")
        lines = (SNIPPETS / name).read_text().split("\n")
        added = [number for number, line in enumerate(lines, 1) if line not in before and line[4:] not in before]
        assert [int(number) for number in numbers.split()] == added, name


def test_every_snippet_is_shown() -> None:
    """And so none is run for nothing."""
    shown = {name for page in PAGES for name in re.findall(r'--8<-- "([\w/.]+)"', page.read_text(encoding="utf-8"))}
    files = {
        str(one.relative_to(SNIPPETS))
        for one in SNIPPETS.rglob("*.*")
        if one.is_file() and "__pycache__" not in str(one)
    }
    assert files - {"matrix.json"} <= shown
