"""`make redaction`: recall and precision on a corpus of our own, beside other tools, and what it costs."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llmctx.delivery.redact import Redactor
from tests.redaction.innocent_texts import Innocent, innocent
from tests.redaction.secret_texts import Secret, secrets

Finds = Callable[[str], bool]


def main() -> int:
    """Print one line for each tool, and what ours has missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--show", type=int, default=0, help="how many texts of each kind to show that were judged wrong"
    )
    args = parser.parse_args()
    guilty, clean = list(secrets(args.seed)), list(innocent(args.seed + 1))
    print(f"{len(guilty)} texts with a secret, {len(clean)} without")
    redact = Redactor().redact
    missed = [one for one in guilty if _left(one, redact(one.text))]
    hit = [one for one in clean if redact(one.text) != one.text]
    _line("llmctx", len(guilty), len(missed), len(hit))
    for what, wrong in (("missed", missed), ("hit", hit)):
        for kind, count in Counter(one.kind for one in wrong).most_common():
            print(f"    {what} {count} of {kind}")
            for one in [one for one in wrong if one.kind == kind][: args.show]:
                print(f"        {one.text!r} -> {redact(one.text)!r}"[:320])
    for name, finds in (
        ("detect-secrets", _detect_secrets()),
        ("gitleaks' rules", _gitleaks()),
        ("phonenumbers", _phonenumbers()),
    ):
        if finds is None:
            print(f"{name}: not installed, so not compared")
        else:
            _compare(name, finds, guilty, clean)
    whole = "\n".join(one.text for one in [*guilty, *clean])
    began = time.thread_time()
    redact(whole)
    print(f"the corpus as one text: {(time.thread_time() - began) / len(whole) * 1e9:.0f} µs per kB")
    return 0


def _left(one: Secret, shown: str) -> bool:
    return one.secret in shown or shown == one.text


def _line(name: str, guilty: int, missed: int, hit: int) -> None:
    found = guilty - missed
    print(f"{name}: recall {found / guilty:.4f}, precision {found / max(1, found + hit):.4f}")


def _compare(name: str, finds: Finds, guilty: list[Secret], clean: list[Innocent]) -> None:
    _line(name, len(guilty), sum(not finds(one.text) for one in guilty), sum(finds(one.text) for one in clean))


def _detect_secrets() -> Finds | None:
    if importlib.util.find_spec("detect_secrets") is None:
        return None
    from detect_secrets.core import scan
    from detect_secrets.settings import default_settings

    def finds(text: str) -> bool:
        with default_settings():
            return any(True for line in text.splitlines() for _ in scan.scan_line(line))

    return finds


def _gitleaks() -> Finds | None:
    """The rules of gitleaks, where its configuration is at hand; through google-re2, in whose language they are."""
    rules = Path(tempfile.gettempdir(), "gitleaks.toml")
    if not rules.exists() or importlib.util.find_spec("re2") is None:
        return None
    import tomllib

    import re2

    patterns = [re2.compile(rule["regex"]) for rule in tomllib.loads(rules.read_text())["rules"] if "regex" in rule]
    return lambda text: any(pattern.search(text) for pattern in patterns)


def _phonenumbers() -> Finds | None:
    from phonenumbers import PhoneNumberMatcher

    return lambda text: any(PhoneNumberMatcher(text, region).has_next() for region in ("US", "CN", "GB"))


if __name__ == "__main__":
    sys.exit(main())
