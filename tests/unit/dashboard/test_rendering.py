"""Templates and static files keep the promises of the content security policy, and speak both languages."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from llmctx.dashboard.rendering import HERE, STATIC, verdict_of
from llmctx.identity.reasons import REASONS, REMEDIES, SOURCES, STATUSES, VERDICTS, Outcome
from tests.packaging import messages

TEMPLATES = sorted((HERE / "templates").glob("*.html"))
FORBIDDEN = {
    "inline script": r"<script(?![^>]*\bsrc=)",
    "inline style": r"<style|\sstyle=",
    "inline handler": r"\son[a-z]+=|hx-on|hx-live|hx-vals=.js:",
    "another host": r"https?://|//[a-z]+\.",
    "markup that is not escaped": r"\|\s*safe|Markup|autoescape",
    "a form that writes": r"method=[\"']?post|hx-(post|put|delete|patch)",
}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_nothing_that_the_policy_forbids(path: object) -> None:
    """Nor anything that would need a policy less strict."""
    assert hasattr(path, "read_text")
    text = path.read_text()
    assert {what for what, pattern in FORBIDDEN.items() if re.search(pattern, text)} == set()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_sentence_is_outside_of_the_catalogue(path: object) -> None:
    """Words between tags are translated; what is left are names of commands and marks."""
    assert hasattr(path, "read_text")
    text = re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"<pre>.*?</pre>|<[^>]*>", "\n", text, flags=re.DOTALL)
    words = set(re.findall(r"[A-Za-z][a-z]{2,}", text)) - {"llmctx", "English", "conversation", "attributes", "show"}
    assert words <= {"NULL", "JSON", "CSV", "cost", "usd"}, words


def test_every_message_and_code_has_its_chinese() -> None:
    """And the compiled catalogue is that of the written one."""
    catalogue = messages.read()
    assert [one for one in messages.wanted() if not catalogue.get(one)] == []
    codes = [(kind, code) for kind, known in messages.CODES.items() for code in known]
    assert len(codes) == len(REASONS) + len(REMEDIES) + len(SOURCES) + len(STATUSES) + len(VERDICTS)
    assert [f"{kind}.{code}" for kind, code in codes if not catalogue.get(f"{kind}.{code}")] == []
    assert messages.COMPILED.read_bytes() == messages.compiled()


def test_vendored_files_are_those_of_the_manifest() -> None:
    """By their hashes, each with its licence; `make vendor` fetches them anew."""
    manifest = json.loads((STATIC / "vendor.json").read_text())
    assert {one["file"] for one in manifest} == {"htmx.min.js", "chart.umd.min.js"}
    for one in manifest:
        assert hashlib.sha256((STATIC / one["file"]).read_bytes()).hexdigest() == one["sha256"], one["file"]
        assert "ermission" in (STATIC / one["licence"]).read_text()


@pytest.mark.parametrize("code", VERDICTS)
def test_a_verdict_in_both_languages(code: str) -> None:
    """With the names of its witnesses, and what the witness noted."""
    verdict = Outcome(code, {"mine": "task", "theirs": "context"}, "seen twice")
    assert verdict_of("en", verdict) == verdict
    chinese = verdict_of("zh", verdict)
    assert re.search(r"[\u4e00-\u9fff]", chinese)
    assert not re.search(r"believed|another|agrees|%", chinese)
    assert ("context" in chinese) is ("context" in verdict)
    assert chinese.endswith("(seen twice)")
