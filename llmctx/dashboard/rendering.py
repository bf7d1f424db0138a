"""Pages as HTML: jinja2 with everything escaped, and a name that a template misspells is an error.

There is no inline script, no inline style and no foreign host in a template: the content security policy forbids
them, and a test reads every template for them.
"""

from __future__ import annotations

import gettext
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llmctx.core.record import COLUMNS
from llmctx.dashboard import formats
from llmctx.dashboard.view import LANGUAGES
from llmctx.identity.reasons import REASONS, SOURCES, STATUSES, VERDICTS, Outcome
from llmctx.storage.queries.usage import OTHERS

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"
_UNENCODABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Characters that a terminal acts on, or that UTF-8 does not have: a browser shows the latter as U+FFFD."""


def render(template: str, lang: str, **context: Any) -> str:
    """Return the HTML of `template` in the language `lang`."""
    html = _environment(lang).get_template(template.replace("/", "_")).render(context)
    return _UNENCODABLE.sub(lambda match: f"&#{ord(match.group())};", html)


def words_of(lang: str, kind: str, code: object, english: str) -> str:
    """Return what a code of a row means in `lang`: what the catalogue has as `kind.code`, else `english`."""
    key = f"{kind}.{code}"
    words = _translations(lang).gettext(key)
    return english if words == key else words


def verdict_of(lang: str, verdict: Outcome) -> str:
    """Return why a witness was believed, or was not, in `lang`."""
    pattern = words_of(lang, "verdict", verdict.code, VERDICTS[verdict.code])
    return Outcome.render(pattern, verdict.names, verdict.note)


@cache
def _translations(lang: str) -> gettext.NullTranslations:
    return gettext.translation("dashboard", HERE / "locale", [lang], fallback=True)


@cache
def _environment(lang: str) -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    made.install_gettext_translations(_translations(lang), newstyle=True)  # type: ignore[attr-defined]  # the extension's
    made.filters.update(
        count=formats.count, money=formats.money, duration=formats.duration, short_id=formats.short_id,
        shell_word=formats.shell_word, json_text=formats.json_text,
    )  # fmt: skip
    made.globals.update(
        percent=formats.percent, DASH=formats.DASH, HIDDEN=formats.HIDDEN, LANGUAGES=LANGUAGES, lang=lang,
        OTHERS=OTHERS, COLUMNS=COLUMNS, day=timedelta(days=1), SOURCES=SOURCES, STATUSES=STATUSES,
        REASONS={code: one.text for code, one in REASONS.items()},
        words_of=partial(words_of, lang), verdict_of=partial(verdict_of, lang),
    )  # fmt: skip
    return made


@cache
def static_versions() -> Mapping[str, str]:
    """Return the beginning of a hash of each static file, by its name: it goes into the URL, which may be kept."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in STATIC.iterdir() if path.is_file()
    }
