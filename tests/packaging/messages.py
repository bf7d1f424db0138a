"""The Chinese of the dashboard: which messages there are, and the catalogue as gettext reads it.

`make messages` adds what templates and codes have gained to the catalogue, for a person to translate, and compiles it.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2 import Environment

from llmctx.identity.reasons import REASONS, REMEDIES, SOURCES, STATUSES, VERDICTS

DASHBOARD: Final = Path(__file__).parents[2] / "llmctx/dashboard"
WRITTEN: Final = DASHBOARD / "locale/zh/LC_MESSAGES/dashboard.po"
COMPILED: Final = WRITTEN.with_suffix(".mo")
CODES: Final = {"source": SOURCES, "reason": REASONS, "remedy": REMEDIES, "status": STATUSES, "verdict": VERDICTS}
FAILURES: Final = (
    "not_found", "forbidden", "too_slow", "internal_error", "no_table", "no_rights", "database_away", "invalid_since",
    "invalid_until", "invalid_min_cost", "invalid_min_ms", "invalid_n", "invalid_tz", "invalid_before", "invalid_after",
    "invalid_cursor", "too_many_buckets",
)  # fmt: skip


def of_templates() -> dict[str, str | None]:
    """Return the messages of the templates, each once, and what it is of more than one where that differs."""
    environment = Environment(extensions=["jinja2.ext.i18n"], autoescape=True)
    found: dict[str, str | None] = {}
    for path in sorted((DASHBOARD / "templates").glob("*.html")):
        for _, _, message in environment.extract_translations(path.read_text()):  # type: ignore[attr-defined]  # i18n's
            one, many, *_ = message if isinstance(message, tuple) else (message, None)
            found[one] = many
    return found


def wanted() -> list[str]:
    """Return everything that wants a translation."""
    codes = [f"{kind}.{code}" for kind, known in CODES.items() for code in known]
    return [*of_templates(), *codes, *(f"failure.{code}" for code in FAILURES)]


def read() -> dict[str, str]:
    """Return the translations, by message."""
    return {_first(one.id): _first(one.string) for one in _catalogue() if one.id}


def _first(text: object) -> str:
    """Return the text; of messages that have a plural the one that there is: Chinese has none."""
    return str(text[0] if isinstance(text, tuple) else text)


def compiled() -> bytes:
    """Return the catalogue as gettext reads it."""
    stream = io.BytesIO()
    write_mo(stream, _catalogue())
    return stream.getvalue()


def _catalogue() -> Catalog:
    with WRITTEN.open("rb") as stream:
        return read_po(stream, locale="zh")


def main() -> int:
    """Write both files anew; what is no longer used goes. Return 1 where a message lacks its Chinese."""
    known = read()
    catalogue = Catalog(locale="zh", project="llmctx", fuzzy=False, header_comment="# Chinese of the dashboard.")
    plurals = of_templates()
    for key in wanted():
        words = known.get(key, "")
        if (many := plurals.get(key)) is None:
            catalogue.add(key, words)
        else:
            catalogue.add((key, many), (words,))
    with WRITTEN.open("wb") as stream:
        write_po(stream, catalogue, width=120, no_location=True, sort_output=True, omit_header=False)
    COMPILED.write_bytes(compiled())
    missing = [key for key in wanted() if not known.get(key)]
    print(*(f"no Chinese: {key}" for key in missing), sep="\n", file=sys.stderr)
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
