"""Find secrets of machines: keys of the known vendors, tokens, passwords, private keys.

Keys of known vendors are recognized by their look (`vendor_keys.py`), others by the name before them
(`named_secrets.py`) or by the format in which they stand (`credential_formats.py`); here are private keys, and what
belongs to a key that was found. Every quantifier is bounded, and hardly one can give back what it took, so that a
hostile text costs no more than others.
"""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.command_lines import CommandLines
from llmctx.delivery.redact.continuations import find_continuations
from llmctx.delivery.redact.credential_formats import SAID, SAID_KEYS, CredentialFormats, find_said, find_said_keys
from llmctx.delivery.redact.detectors import Detector
from llmctx.delivery.redact.distant_names import DistantNames
from llmctx.delivery.redact.listed_secrets import ListedSecrets
from llmctx.delivery.redact.named_secrets import NamedSecrets
from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.secret_values import is_random
from llmctx.delivery.redact.text_spans import Span
from llmctx.delivery.redact.vendor_keys import VendorKeys

_MARGIN: Final = rb"(?:[\s\"'`>|#*,;().&+]|\\[nr]?){0,24}"
"""What may stand around the lines of a key: in mail that is quoted, in a list, in the source of a program."""
_PEM: Final = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:(?:[\s\\]|(?<=\\)[nr]){1,8}+[A-Za-z-]{4,20}: [^\n\\]{1,120}+){0,4}"
    rb"(?:[A-Za-z0-9+/=\s\\]{1,16384}+|[\"'`>|#*,;().&+-]{1,4}(?="
    + _MARGIN
    + rb"(?:[A-Za-z0-9+/]{24}|-----END|[A-Za-z0-9+/=]{1,76}"
    + _MARGIN
    + rb"-----END))){0,400}+"
    rb"(?:-----END [A-Z0-9 ]{0,80}-----)?"
)
_PEM_END: Final = re.compile(rb"-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \r\n\t"
_AMAZON: Final = re.compile(rb"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])")
_NEAR: Final = 200  # characters between the id of a key of AWS and the secret that belongs to it


class Credentials:
    """Find the wanted kinds of api_key, token, password, private_key."""

    KINDS: Final = frozenset({"api_key", "token", "password", "private_key"})

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._vendor_keys = VendorKeys(kinds)
        named, distant, listed = NamedSecrets(kinds), DistantNames(kinds), ListedSecrets(kinds)
        commands, formats = CommandLines(kinds), CredentialFormats(kinds)
        self.detectors = [
            Detector("at", formats.find_in_urls, formats.urls),
            Detector("keys", self._find_keys, self._vendor_keys.heads),
            Detector("marks", self._vendor_keys.find_marked, self._vendor_keys.marks),
            Detector("names", named.find, named.heads),
            Detector("words", named.find_foreign, named.heads_of_foreign),
            Detector("words", distant.find, distant.heads),
            Detector("words", listed.find, listed.lists),
            Detector("at", listed.find_columns, listed.tables, below=True),
            Detector("words", commands.find, commands.heads),
            Detector("words", formats.find, formats.heads),
        ]
        if "password" in kinds:
            self.detectors.append(Detector("beyond", find_said, SAID))
        if "token" in kinds:
            self.detectors.append(Detector("beyond", find_said_keys, SAID_KEYS))
        self.detectors = [detector for detector in self.detectors if detector.pattern]

    def find_beyond_lines(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what goes over many lines, and the rest of what was found in one."""
        if spans:
            find_continuations(view.raw, spans)
        if "private_key" in self._kinds and b"PRIVATE KEY" in view.raw:
            _find_private_keys(view.raw, spans)

    def _find_keys(self, view: SearchText, spans: list[Span]) -> None:
        raw = view.raw
        first = len(spans)
        self._vendor_keys.find(raw, spans)
        if "api_key" in self._kinds and (b"AKIA" in raw or b"ASIA" in raw):
            for start, end, _ in spans[first:]:
                if (
                    raw.startswith((b"AKIA", b"ASIA"), start)
                    and (near := _AMAZON.search(raw, end, end + _NEAR))
                    and is_random(near[0])
                ):
                    spans.append((*near.span(), "api_key"))


def _find_private_keys(raw: bytes, spans: list[Span]) -> None:
    spans += [(*match.span(), "private_key") for match in _PEM.finditer(raw)]
    last = 0
    for match in _PEM_END.finditer(raw):  # the beginning may have been cut off
        start, end = match.span()
        before = raw[max(last, start - 16384) : start]
        spans.append((start - len(before) + len(before.rstrip(_PEM_BODY)), end, "private_key"))
        last = end
