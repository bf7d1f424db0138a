"""Keys that are recognized by their look: each vendor begins them in a way of its own, or builds them in one.

A key has no gap and at least `_LONG` characters, among them a digit or a capital and some more behind that: few words
of ordinary texts are like that. Those alone are looked up by how they begin, so that the length of the table below
costs nothing. Where a key may begin within a word, it does so behind a dash or underscore.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText, for_sieve
from llmctx.delivery.redact.sieve import ANY_ASCII, sieve, widen
from llmctx.delivery.redact.text_spans import Span
from llmctx.delivery.redact.vendor_key_table import KIND_OF, VENDOR_KEYS

_LONG: Final = 14
_BUILT_LONG: Final = 32
_TRIES: Final = 16  # places within a word
# letters, digits and dashes are one word; those that give a key away, digits and capitals, are "B", others "a"
_WORDS: Final = bytes(
    0x42
    if chr(c) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    else 0x61
    if chr(c) in "abcdefghijklmnopqrstuvwxyz-_."
    else 0x20
    for c in range(256)
)
_TELLING: Final = re.compile(b"B[aB]{7,}+")
_HEADS_WITHIN: Final = (
    "sk-", "sk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "AKIA", "ASIA", "AIza", "eyJ", "hf_",
    "gsk_", "npm_", "SG.", "hvs.", "dapi", "pypi-", "lin_", "ntn_",
)  # fmt: skip
_WITHIN: Final = re.compile(f"(?<=[-_.])(?:{'|'.join(map(re.escape, _HEADS_WITHIN))})".encode())
_HAS_HEADS_WITHIN: Final = sieve(f"[-_.](?:{'|'.join(map(re.escape, _HEADS_WITHIN))})")
_FIRST_WORD: Final = re.compile(rb"(?<![A-Za-z0-9_.-])[A-Za-z0-9_.-]{8,40}+[:|]\Z")
_LOWER: Final = re.compile(rb"sk-(?<![A-Za-z0-9]sk-)(?!sk-)[a-z0-9]{20,200}+(?![A-Za-z0-9-])")

_TERRAFORM: Final = r"\.atlasv1\."
_BUILT: Final = (  # what begins with nothing special, by the sign that stands in it, or behind the first word
    (b".", "api_key", rb"[0-9a-f]{32}\.[A-Za-z0-9]{16}(?![A-Za-z0-9_-])"),  # Zhipu
    (b".", "token", rb"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,45}(?![A-Za-z0-9])"),  # Discord
    (b".", "api_key", rb"[A-Za-z0-9]{14}%b[A-Za-z0-9_=-]{40,80}+" % _TERRAFORM.encode()),  # Terraform
    (b":", "api_key", rb"(?:bot)?[0-9]{8,10}:A[A-Za-z0-9_-]{32,36}(?![A-Za-z0-9_-])"),  # Telegram
    (b":", "api_key", rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}:fx(?![A-Za-z0-9])"),  # DeepL
    (
        b":",
        "api_key",
        rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}:[0-9a-f]{32}(?![A-Za-z0-9])",
    ),  # Fal
    (b".", "token", rb"1000\.[0-9a-f]{32,34}\.[0-9a-f]{30,34}(?![A-Za-z0-9])"),  # Zoho
    (
        b".",
        "api_key",
        rb"0\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.[A-Za-z0-9]{30}:[A-Za-z0-9+/]{22}==",
    ),  # Bitwarden
    (b".", "token", rb"(?:v[1-4]\.(?:local|public)\.)[A-Za-z0-9_-]{40,2048}+(?:\.[A-Za-z0-9_-]{2,400}+)?"),  # PASETO
    (b"|", "api_key", rb"[0-9]{15,16}\|[A-Za-z0-9_-]{27,40}(?![A-Za-z0-9_-])"),  # Meta
)
_UNKNOWN: Final = re.compile(  # of makers that are not in the table: small letters, and much that a machine made
    rb"(?!(?:chatcmpl|cmpl|call|tool|toolu|srvtoolu|msg|resp|rs|fc|asst|thread|file|run|batch|req|request|org|proj|project|user|step|vs|gen|trace|span|img"
    rb"|image|evt|event|cus|pi|ch|price|prod|sub|in|txn|sha\d{1,3}|md|id|uid|ref|css|session|node|pod|job|task|item|build|cache|etag|blob|obj|doc)[_-])"
    rb"(?![a-z0-9]{1,11}(?:[prs]k|gh[oprsu]|github|glpat|hf|gsk|npm|lin|ntn)[_-])"  # a word that runs into a key
    rb"[a-z][a-z0-9]{1,11}(?:[_-](?:[a-z]{2,10}|v[0-9]{1,2}|[0-9]{1,12})){0,3}[_-]"
    rb"(?=[a-z0-9]{0,29}[A-Z])(?=[A-Z0-9]{0,29}[a-z])(?=[A-Za-z]{0,29}[0-9][A-Za-z]{0,28}[0-9])[A-Za-z0-9]{30,200}+(?![A-Za-z0-9_+/=.-])"
)
_BUILT_SIGNS: Final = (b".", b":", b"|")
_HEX_PARTS: Final = re.compile(rb"[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}")  # Mailgun
_TASKS: Final = re.compile(rb"(?<![0-9/])[0-9]/[0-9]{10,20}(?:/[0-9]{10,20})?:\Z")  # Asana, before 32 digits
_HEXADECIMAL: Final = b"0123456789abcdef-."
_MARKED: Final = tuple(
    (sign, mark, kind, re.compile(pattern))
    for sign, mark, kind, pattern in (
        (b"/", b"hooks.", "api_key", rb"hooks\.(?:slack(?:-gov)?\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20,200}+|zapier\.com/hooks/[a-z]{5,9}/[A-Za-z0-9/_-]{8,100}+)"),
        (b"$", b"access_token$", "api_key", rb"access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[0-9a-f]{32}"),  # PayPal
        (b"/", b"/webhooks/", "api_key", rb"discord(?:app)?\.com/api/(?:v\d{1,2}/)?webhooks/\d{15,20}/[A-Za-z0-9_-]{40,100}+"),
        (b"/", b".office.com/", "api_key", rb"(?:webhook|outlook)\.office\.com/webhook(?:b2)?/[A-Za-z0-9@/-]{40,300}+"),
        (b"/", b"bot/v2/hook/", "api_key", rb"open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/[A-Za-z0-9-]{20,60}+"),
        (b"/", b"/webhook/send?key=", "api_key", rb"(?<=/webhook/send\?key=)[A-Za-z0-9-]{20,60}+"),
        (b"/", b"/with/key/", "api_key", rb"trigger/(?<=maker\.ifttt\.com/trigger/)[^/\s]{1,80}/(?:json/)?with/key/[A-Za-z0-9_-]{20,60}+"),
        (b"/", b"1//0", "token", rb"(?<![A-Za-z0-9_:/.-])1//0[A-Za-z0-9_-]{40,200}+"),
        (b"~", b"Q~", "api_key", rb"(?<![A-Za-z0-9_~.-])[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}(?![A-Za-z0-9])"),
        (b"~", b"sha256~", "api_key", rb"sha256~[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"),  # OpenShift
        (b":", b"AstraCS:", "api_key", rb"AstraCS:[A-Za-z0-9]{20,40}:[0-9a-fA-F]{60,70}"),
        (b":", b":APA91b", "api_key", rb"(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{11})?:APA91b[A-Za-z0-9_-]{60,200}+"),  # Firebase
        (b"_", b"glc_", "api_key", rb"glc_(?<![A-Za-z0-9_-]glc_)[A-Za-z0-9+/=]{32,400}+"),  # with signs in them that part words
        (b"_", b"ops_eyJ", "api_key", rb"ops_eyJ(?<![A-Za-z0-9_-]ops_eyJ)[A-Za-z0-9+/=_-]{40,4096}+"),
        (b"_", b"fm", "api_key", rb"fm(?<![A-Za-z0-9_-]fm)(?:1a|1r|2)_[A-Za-z0-9+/=_,-]{40,2048}+"),
        (b"_", b"sntrys_", "api_key", rb"sntrys_(?<![A-Za-z0-9_-]sntrys_)[A-Za-z0-9+/=_-]{20,500}+"),
        (b"S", b"SSWS 00", "token", rb"(?<=SSWS )00[A-Za-z0-9_-]{38,60}+"),  # Okta
        *((b"|", mark, "api_key", mark + rb"(?<![a-z]%b)[a-z0-9:-]{3,80}\|[A-Za-z0-9+/=_-]{40,400}+" % mark) for mark in (b"prod:", b"dev:")),  # Convex
        (b"=", b"sig=", "api_key", rb"(?<![A-Za-z0-9])sig=[A-Za-z0-9%+/=_-]{20,200}+"),  # a signed URL of Azure's
        (b"=", b"-Signature=", "token", rb"(?<=-Signature=)[A-Za-z0-9]{32,1024}+"),  # of AWS's and Google's
        (b"-", b"django-insecure-", "api_key", rb"django-insecure-[^\s\"'`]{30,80}+"),
        (b"=", b"&Signature=", "token", rb"(?<=&Signature=)[A-Za-z0-9%+/=_~-]{20,1024}+"),  # of Amazon's older ones, and Alibaba's
        (b"=", b"AQE", "api_key", rb"AQE(?<![A-Za-z0-9+/=]AQE)[A-Za-z0-9+/]{40,160}+={0,2}-[A-Za-z0-9+/]{40,60}+=-[^\s\"'`]{8,40}+"),  # Adyen
        (b"P", b"PuTTY", "private_key", rb"(?<=Private-Lines: )\d{1,4}\s{1,4}(?:[A-Za-z0-9+/=]{1,76}\s{1,4}){1,200}"),  # PuTTY
    )
)  # fmt: skip
_PARTS: Final = tuple(
    (part, re.compile(pattern))  # of words
    for part, pattern in (
        (b"JQQJ99", rb"(?<![A-Za-z0-9])[A-Za-z0-9]{40,60}JQQJ99[A-Za-z0-9]{20,30}(?![A-Za-z0-9])"),
        (b"AZDO", rb"(?<![A-Za-z0-9])[A-Za-z0-9]{75,80}AZDO[A-Za-z0-9]{4}(?![A-Za-z0-9])"),  # Azure DevOps
        (b"_mmk", rb"(?<![A-Za-z0-9_])[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk(?![A-Za-z0-9])"),
        (b"NRAL", rb"(?<![A-Za-z0-9])[0-9a-f]{36}NRAL(?![A-Za-z0-9])"),  # New Relic
        (b"-us", rb"(?<![A-Za-z0-9])[0-9a-f]{32}-us\d{1,2}(?![A-Za-z0-9])"),  # Mailchimp
        (b"T3BlbkFJ", rb"(?<![A-Za-z0-9])[A-Za-z0-9_-]{20,100}T3BlbkFJ[A-Za-z0-9_-]{20,100}"),
    )
)  # fmt: skip


class VendorKeys:
    """Find keys by their look, as kinds api_key, token and private_key."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._by_head: dict[bytes, list[tuple[str, str]]] = {}
        heads = [widen(pattern) for _, _, pattern in _BUILT if _TERRAFORM.encode() not in pattern]
        inner = []
        for prefix, body in VENDOR_KEYS.items():
            kind = "private_key" if prefix.startswith("LS0t") else KIND_OF.get(prefix, "api_key")
            if kind in kinds:
                whole = f"{re.escape(prefix)}{body}"
                heads.append(widen(whole))
                if any(prefix.startswith(head) or head.startswith(prefix) for head in _HEADS_WITHIN):
                    inner.append(heads[-1])
                self._by_head.setdefault(prefix[:2].encode(), []).append((kind, whole))
        self._built = {
            sign: [(kind, re.compile(pattern)) for its, kind, pattern in _BUILT if its == sign and kind in kinds]
            for sign in _BUILT_SIGNS
        }
        self._lower = _LOWER if "api_key" in kinds else None
        self._marked = [entry for entry in _MARKED if entry[2] in kinds]
        within = "|".join(
            (_TERRAFORM, *(part.decode() for part, _ in _PARTS), widen(_HEX_PARTS.pattern), widen(_TASKS.pattern))
        )
        self.heads = (
            f"(?:^|[{ANY_ASCII}--[A-Za-z0-9_.-]])(?:{'|'.join(heads)})|[_.-](?:{'|'.join(inner)})|{within}"
            "|[_-][A-Za-z0-9]{30}"  # of unknown makers
        )
        self.marks = "|".join(["sk-[a-z0-9]", *(re.escape(mark.decode()) for _, mark, _, _ in self._marked)])
        """Both of `raw`."""

    def find(self, raw: bytes, spans: list[Span]) -> None:
        """Append to `spans` the keys that are one word."""
        first = len(spans)
        words = raw.translate(_WORDS)
        has_heads_within = _HAS_HEADS_WITHIN(for_sieve(raw))
        for match in _TELLING.finditer(words):
            start, end = words.rfind(b" ", 0, match.start()) + 1, match.end()
            if end - start >= _LONG:
                self._look(raw, start, end, spans, has_heads_within)
        if _is_made_up(raw):
            spans[first:] = [span for span in spans[first:] if not _is_made_up(raw[span[0] : span[1]])]

    def find_marked(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` the keys that are told by a mark in them."""
        raw = view.raw
        if self._lower is not None and b"sk-" in raw:
            spans += [(*found.span(), "api_key") for found in self._lower.finditer(raw) if not _is_made_up(found[0])]
        for sign, mark, kind, pattern in self._marked:
            if sign in raw and mark in raw:
                spans += [(*found.span(), kind) for found in pattern.finditer(raw)]

    def _look(self, raw: bytes, start: int, end: int, spans: list[Span], has_heads_within: bool) -> None:
        """Look up the word between `start` and `end`, then the places within it where a key may begin."""
        word = raw[start:end]
        if not word.strip(_HEXADECIMAL) and self._is_plain(raw, start, end, spans):
            return
        for kind, pattern in self._by_head.get(word[:2], ()):
            if found := _compiled(pattern).match(raw, start):
                spans.append((start, found.end(), kind))
                return
        if has_heads_within:
            for within in islice(_WITHIN.finditer(raw, start + 1, end), _TRIES):
                at = within.start()
                for kind, pattern in self._by_head.get(raw[at : at + 2], ()):
                    if found := _compiled(pattern).match(raw, at):
                        spans.append((at, found.end(), kind))
                        return
        if (
            len(word) > _BUILT_LONG
            and self._lower is not None
            and (found := _part_in(raw, start, end) or _UNKNOWN.match(raw, start))
        ):
            spans.append((*found.span(), "api_key"))
            return
        before, behind = raw[start - 1 : start], raw[end : end + 1]
        if before in self._built or behind in self._built or b"." in word:
            self._look_for_built(raw, start, word, spans)

    def _look_for_built(self, raw: bytes, start: int, word: bytes, spans: list[Span]) -> None:
        """Append to `spans` the key that `word`, which begins at `start`, is with what stands beside it."""
        before, end = raw[start - 1 : start], start + len(word)
        for sign, patterns in self._built.items():
            if sign == before or sign in word or raw.startswith(sign, end):
                first = start
                if sign == before and (opened := _FIRST_WORD.search(raw, max(0, start - 40), start)):
                    first = opened.start()
                for kind, built in patterns:
                    if found := built.match(raw, first):
                        spans.append((*found.span(), kind))
                        return

    def _is_plain(self, raw: bytes, start: int, end: int, spans: list[Span]) -> bool:
        """Return False for a word of hexadecimal digits that may be part of a key, or append it to `spans`."""
        word, before = raw[start:end].rstrip(b"."), raw[start - 1 : start]
        end = start + len(word)
        if _HEX_PARTS.fullmatch(word) and self._lower is not None:
            spans.append((start, end, "api_key"))
        elif before == b":" and len(word) == 32 and (head := _TASKS.search(raw, max(0, start - 48), start)):
            spans.append((head.start(), end, "api_key"))
        else:
            return not word.startswith(b"fc-") and raw[end : end + 1] not in _BUILT_SIGNS and before not in _BUILT_SIGNS
        return True


def _part_in(raw: bytes, start: int, end: int) -> re.Match[bytes] | None:
    """Return the key in a word that is told by a part of it."""
    for part, whole in _PARTS:
        if raw.find(part, start, end) >= 0 and (found := whole.search(raw, start, end)):
            return found
    return None


def _is_made_up(key: bytes) -> bool:
    """Return True for what stands for a key in documentation: `sk-xxxxxxxxxxxxxxxx`."""
    return b"xxxxxxxx" in key or b"XXXXXXXX" in key or b"00000000000000" in key


@cache
def _compiled(pattern: str) -> re.Pattern[bytes]:
    """Return a pattern of the table; most are never needed."""
    return re.compile(pattern.encode())
