"""Keys that are told by how they look: each maker begins them in a way of its own, or builds them in one.

A key has no gap and at least `_LONG` characters, among them a digit or a capital and some more behind that: few words
of ordinary texts are like that. Those alone are looked up by how they begin, so that the length of the table below
costs nothing. Where a key may begin within a word, it does so behind a dash or underscore.
"""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.spans import Span

_LONG: Final = 14
_BUILT_LONG: Final = 32
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
_WITHIN: Final = re.compile(
    rb"(?<=[-_.])(?:sk[-_]|gh[pousr]_|github_pat_|glpat-|xox|AKIA|ASIA|AIza|eyJ|hf_|gsk_|npm_|SG\.|hvs\.|dapi|pypi-|lin_|ntn_)"
)
_FIRST_WORD: Final = re.compile(rb"(?<![A-Za-z0-9_.-])[A-Za-z0-9_.-]{8,40}+[:|]\Z")
_LOWER: Final = re.compile(rb"sk-(?<![A-Za-z0-9]sk-)(?!sk-)[a-z0-9]{20,200}+(?![A-Za-z0-9-])")

_W: Final = "[A-Za-z0-9_-]"
_S: Final = "[A-Za-z0-9]"
_H: Final = "[0-9a-fA-F]"
_B64: Final = "[A-Za-z0-9+/]"
_TOLD: Final = "(?=[a-z_-]{0,24}+[A-Z0-9])"  # a key has digits or capitals; `sk-cube-grid-animation` is a class of CSS
_MIXED: Final = "(?=[a-z]{0,40}+[A-Z0-9])"
_END: Final = "(?![A-Za-z0-9])"
_UUID: Final = f"{_H}{{8}}-{_H}{{4}}-{_H}{{4}}-{_H}{{4}}-{_H}{{12}}"

_MAKERS: Final = {
    # OpenAI, Anthropic, Langfuse, OpenRouter, DeepSeek, Moonshot, DashScope, LiteLLM, Stability, …
    "sk-": rf"(?!sk-)(?:(?:proj|ant|svcacct|service|admin|None|lf|or|live|test|dev)-{_W}{{8,4096}}+"
    rf"|(?:{_TOLD}|(?={_S}{{20}})){_W}{{16,4096}}+)",
    "pk-lf-": f"{_W}{{8,200}}+",
    "sess-": f"{_TOLD}{_S}{{24,400}}+",
    "AIza": f"{_W}{{30,60}}+",  # Google
    "GOCSPX-": f"{_W}{{20,60}}+",
    "ya29.": "[A-Za-z0-9_.-]{20,2048}+",
    "AQ.Ab8": f"{_W}{{20,200}}+",
    "AKIA": f"[A-Z0-9]{{16}}{_END}",  # AWS
    "ASIA": f"[A-Z0-9]{{16}}{_END}",
    "ABIA": f"[A-Z0-9]{{16}}{_END}",
    "ACCA": f"[A-Z0-9]{{16}}{_END}",
    "ABSK": f"{_B64}{{40,300}}+={{0,2}}",
    "bedrock-api-key-": f"{_B64}{{20,4096}}+={{0,2}}",
    "FwoGZXIvYXdz": f"{_B64}{{40,4096}}+={{0,2}}",
    "IQoJb3JpZ2lu": f"{_B64}{{40,4096}}+={{0,2}}",
    "gsk_": f"{_S}{{20,200}}+",  # Groq
    "csk-": f"{_S}{{20,200}}+",  # Cerebras
    "hf_": f"{_S}{{20,200}}+",
    "api_org_": f"{_S}{{20,200}}+",
    "r8_": f"{_S}{{20,200}}+",  # Replicate
    "xai-": f"{_TOLD}{_S}{{20,400}}+",
    "pplx-": f"{_TOLD}{_S}{{20,400}}+",
    "fw_": f"{_TOLD}{_S}{{16,200}}+",  # Fireworks
    "fpk_": f"{_MIXED}{_S}{{16,200}}+",
    "tgp_v1_": f"{_W}{{20,200}}+",  # Together
    "nvapi-": f"{_W}{{20,400}}+",
    "tvly-": f"(?:(?:dev|prod|test)-)?{_TOLD}{_W}{{16,200}}+",
    "jina_": f"{_W}{{20,200}}+",
    "pa-": f"(?=[a-z_-]{{0,24}}+[A-Z0-9])(?=[A-Za-z_-]{{0,40}}+[0-9]){_W}{{40,100}}+",  # Voyage
    "fc-": f"{_H}{{32}}{_END}",  # Firecrawl
    "app-": f"(?=[a-z]{{0,20}}+[A-Z0-9])(?=[A-Za-z]{{0,24}}+[0-9]){_S}{{24}}{_END}",  # Dify
    "dataset-": f"(?=[a-z]{{0,20}}+[A-Z0-9])(?=[A-Za-z]{{0,24}}+[0-9]){_S}{{24}}{_END}",
    "sbp_": f"{_H}{{40}}{_END}",  # Supabase
    "sb_secret_": f"{_W}{{20,100}}+",
    "pcsk_": f"{_W}{{20,200}}+",  # Pinecone
    "lsv2_": f"{_W}{{20,200}}+",  # LangSmith
    "ls__": f"{_S}{{20,200}}+",
    "e2b_": f"{_H}{{40}}{_END}",
    "wandb_v1_": f"{_W}{{20,200}}+",
    "cal_live_": f"{_S}{{16,100}}+",
    "phc_": f"{_S}{{30,100}}+",  # PostHog
    "phx_": f"{_S}{{30,100}}+",
    "ghp_": f"{_S}{{20,255}}+",
    "gho_": f"{_S}{{20,255}}+",
    "ghu_": f"{_S}{{20,255}}+",
    "ghs_": f"{_S}{{20,255}}+",
    "ghr_": f"{_S}{{20,255}}+",
    "github_pat_": "[A-Za-z0-9_]{20,255}+",
    **{
        f"{kind}-": r"[A-Za-z0-9_.-]{16,320}+"
        for kind in [
            "glpat",
            "gldt",
            "glrt",
            "glcbt",
            "glptt",
            "glft",
            "glimt",
            "glagent",
            "gloas",
            "glsoat",
            "glffct",
            "glrtr",
            "glwt",
        ]
    },
    "GR1348941": f"{_W}{{16,64}}+",
    "ATBB": f"{_TOLD}{_S}{{28,40}}{_END}",  # Bitbucket
    "ATATT3": r"[A-Za-z0-9_=-]{40,400}+",  # Atlassian
    "ATCTT3": r"[A-Za-z0-9_=-]{40,400}+",
    "xox": rf"[a-z](?:\.xox[a-z])?-{_W}{{10,400}}+",  # Slack
    "xapp-": f"{_W}{{16,400}}+",
    "xwfp-": f"{_W}{{16,400}}+",
    "sk_": f"(?:(?:live|test|prod)_{_S}{{10,255}}+|(?:[a-z]{{2,8}}_)?{_H}{{32,64}}{_END}|V2_{_S}{{10,100}}+_{_S}{{10,100}}+)",
    "rk_": f"(?:live|test|prod)_{_S}{{10,255}}+",
    "whsec_": "[A-Za-z0-9+/=]{16,255}+",
    "AC": f"[0-9a-f]{{32}}{_END}",  # Twilio
    "SK": f"[0-9a-f]{{32}}{_END}",
    "npm_": f"{_S}{{30,100}}+",
    "pypi-AgE": f"{_W}{{16,1024}}+",
    "LTAI": f"{_S}{{12,40}}+",  # Alibaba Cloud
    "AKID": f"{_TOLD}{_S}{{13,60}}+",  # Tencent Cloud
    "AKLT": f"{_TOLD}{_S}{{30,80}}+",  # Volcengine
    "bce-v3/ALTAK-": "[A-Za-z0-9_/-]{20,200}+",  # Baidu
    "ALTAK-": "[A-Za-z0-9_/-]{20,200}+",
    "dop_v1_": f"{_S}{{20,100}}+",
    "doo_v1_": f"{_S}{{20,100}}+",
    "dor_v1_": f"{_S}{{20,100}}+",
    "shp": f"(?:at|ca|pa|ss)_{_S}{{20,100}}+",
    "dapi": rf"[0-9a-f]{{32}}(?:-\d)?{_END}",  # Databricks
    "dose": f"[0-9a-f]{{32}}{_END}",
    "dkea": f"[0-9a-f]{{32}}{_END}",
    "hvs.": f"{_W}{{20,400}}+",  # Vault
    "hvb.": f"{_W}{{20,400}}+",
    "hvr.": f"{_W}{{20,400}}+",
    "s.": f"(?=[a-z]{{0,23}}+[A-Z0-9])(?=[A-Za-z]{{0,23}}+[0-9])(?=[a-z0-9]{{0,23}}+[A-Z]){_S}{{24}}(?![A-Za-z0-9_(.-])",
    "dckr_": f"(?:pat|oat)_{_W}{{20,100}}+",  # Docker
    "lin_": f"(?:api|oauth)_{_S}{{20,100}}+",  # Linear
    "ntn_": f"{_S}{{30,100}}+",  # Notion
    "secret_": f"(?=[a-z]{{0,20}}+[A-Z0-9])(?=[A-Za-z]{{0,30}}+[0-9])(?=[a-z0-9]{{0,30}}+[A-Z]){_S}{{43}}{_END}",
    "PMAK-": f"{_H}{{24}}-{_H}{{20,64}}+",  # Postman
    "glsa_": f"{_S}{{20,64}}+(?:_{_H}{{8}})?",  # Grafana
    "glc_": "[A-Za-z0-9+/=]{32,400}+",
    "sntrys_": "[A-Za-z0-9+/=_-]{20,500}+",  # Sentry
    "sntryu_": f"{_H}{{40,64}}+",
    "figd_": f"{_W}{{20,100}}+",
    "figu_": f"{_W}{{20,100}}+",
    "key-": f"{_H}{{32}}{_END}",  # Mailgun
    "pubkey-": f"{_H}{{32}}{_END}",
    "xkeysib-": f"{_W}{{40,120}}+",
    "xsmtpsib-": f"{_W}{{40,120}}+",
    "re_": "(?=[A-Za-z_]{0,30}+[0-9])(?=[a-z0-9_]{0,30}+[A-Z])[A-Za-z0-9_]{24,60}+",  # Resend
    "SG.": rf"{_W}{{16,64}}+\.{_W}{{16,128}}+",  # SendGrid
    "EZAK": f"{_S}{{54}}{_END}",
    "EZTK": f"{_S}{{54}}{_END}",
    "EAA": f"(?=[A-Za-z]{{0,40}}+[0-9])(?=[A-Z0-9]{{0,40}}+[a-z]){_S}{{60,400}}+",  # Meta
    "EAAA": f"{_W}{{22,100}}+",  # Square
    "sq0": f"(?:atp|csp|idp)-{_W}{{20,60}}+",
    "A3-": "[A-Z0-9]{6}-[A-Z0-9-]{20,40}+",  # 1Password
    "ops_": "eyJ[A-Za-z0-9+/=_-]{40,2048}+",
    "AGE-SECRET-KEY-1": "[A-Z0-9]{50,64}+",
    "AGE-PLUGIN-": "[A-Z0-9-]{20,400}+",
    "AKCp": f"{_S}{{60,80}}+",  # Artifactory
    "cmVmd": f"{_S}{{59}}{_END}",
    "cfut_": f"{_W}{{30,60}}+",  # Cloudflare
    "cfat_": f"{_W}{{30,60}}+",
    "cfk_": f"{_W}{{30,60}}+",
    "v1.0-": f"{_H}{{24}}-{_H}{{100,200}}+",
    "vcp_": f"{_S}{{20,100}}+",  # Vercel
    "vck_": f"{_S}{{20,100}}+",
    "vca_": f"{_S}{{20,100}}+",
    "vci_": f"{_S}{{20,100}}+",
    "vcr_": f"{_S}{{20,100}}+",
    "vercel_blob_rw_": f"{_W}{{20,100}}+",
    "nfp_": f"{_S}{{30,60}}+",  # Netlify
    "nfc_": f"{_S}{{30,60}}+",
    "rnd_": f"(?=[A-Za-z]{{0,30}}+[0-9]){_S}{{26,40}}+",  # Render
    "HRKU-": f"{_W}{{30,80}}+",
    "fo1_": f"{_W}{{30,80}}+",  # Fly
    "fm1a_": "[A-Za-z0-9+/=_,-]{40,2048}+",
    "fm1r_": "[A-Za-z0-9+/=_,-]{40,2048}+",
    "fm2_": "[A-Za-z0-9+/=_,-]{40,2048}+",
    "pscale_": r"(?:tkn|oauth|pw)_[A-Za-z0-9_=.-]{20,100}+",
    "pul-": f"{_H}{{40}}{_END}",
    "rubygems_": f"{_H}{{40,64}}+",
    "rdme_": f"{_S}{{40,100}}+",
    "CLOJARS_": f"{_S}{{40,80}}+",
    "CFPAT-": f"{_W}{{30,60}}+",  # Contentful
    "dt0": rf"[cs]\d\d\.{_S}{{20,40}}+\.{_S}{{40,80}}+",  # Dynatrace
    "dp.": rf"(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_-]{{2,40}}\.)?{_S}{{40,60}}+",  # Doppler
    "NRAK-": f"{_S}{{20,60}}+",  # New Relic
    "NRII-": f"{_W}{{20,60}}+",
    "NRJS-": f"{_S}{{15,60}}+",
    "NRRA-": f"{_S}{{20,60}}+",
    "ddp_": f"{_S}{{20,100}}+",
    "duffel_": f"(?:test|live)_{_W}{{30,60}}+",
    "shippo_": f"(?:test|live)_{_H}{{30,60}}+",
    "FLWSECK": rf"(?:_TEST)?-{_W}{{12,60}}+",
    "FLWPUBK": rf"(?:_TEST)?-{_W}{{12,60}}+",
    "test_sk_": f"{_S}{{16,100}}+",
    "live_sk_": f"{_S}{{16,100}}+",
    "rzp_": f"(?:test|live)_{_S}{{14,40}}+",
    "access-": f"(?:sandbox|development|production)-{_UUID}",  # Plaid
    "ico-": f"{_S}{{32}}{_END}",
    "pnu_": f"{_S}{{30,60}}+",
    "tfp_": r"[A-Za-z0-9_.=-]{40,80}+",
    "fio-u-": f"{_W}{{40,80}}+",
    "dnkey-": f"{_W}{{40,120}}+",
    "p8e-": f"{_S}{{32}}{_END}",
    "API-": f"[A-Z0-9]{{26}}{_END}",
    "sha256~": f"{_W}{{43}}{_END}",  # OpenShift
    "tk-us-": f"{_W}{{40,60}}+",
    "sgp_": f"(?:(?:{_H}{{16}}|local)_)?{_H}{{40}}{_END}",
    "slk_": f"{_H}{{64}}{_END}",
    "squ_": f"{_H}{{40}}{_END}",  # SonarQube
    "sqp_": f"{_H}{{40}}{_END}",
    "sqa_": f"{_H}{{40}}{_END}",
    "sm_": f"(?:aat|pat|sat)_{_S}{{16,64}}+",
    "snyk_": f"(?:uat|sat|pat)\\.{_S}{{4,10}}\\.[A-Za-z0-9._-]{{20,400}}+",
    "AQVN": f"{_W}{{30,60}}+",  # Yandex
    "y0_": f"{_W}{{30,100}}+",
    "t1.": rf"{_W}{{20,400}}+=?=?\.{_W}{{60,120}}+",
    "4b1d": f"{_S}{{38}}{_END}",  # ClickHouse
    "cb_": f"{_S}{{40,60}}{_END}",
    "apify_api_": f"{_S}{{30,60}}+",
    "patch_": f"{_S}{{40,60}}{_END}",
    "mul_": f"{_S}{{40,60}}{_END}",
    "amk_": f"{_S}{{30,60}}+",
    "uak_": f"{_S}{{30,60}}+",
    "keymux_": f"{_S}{{20,60}}+",
    "pk_": f"(?:live|prod)_{_S}{{20,200}}+",
    "pat": rf"(?:{_S}{{14}}\.[a-f0-9]{{64}}|\.{_W}{{22}}\.{_S}{{24}}\.{_S}{{20}}|-(?:na|eu|ap)\d-{_UUID}){_END}",
    "sat.": rf"{_W}{{22}}\.{_S}{{24}}\.{_S}{{20}}{_END}",
    "cs_": f"(?:live|test)_{_S}{{40,100}}+",
    "ck_": f"{_H}{{40}}{_END}",  # WooCommerce
    "ghost_": f"{_S}{{30,80}}+",
    "sl.": f"(?:u\\.)?{_W}{{60,2048}}+",  # Dropbox
    "dG9rZW46": f"{_B64}{{20,400}}+",  # "token:" in Base64
    "LS0tLS1CRUdJTiBSU0EgUFJJVkFUR": "[A-Za-z0-9+/=]{20,16384}+",  # private keys in Base64
    "LS0tLS1CRUdJTiBQUklWQVRF": "[A-Za-z0-9+/=]{20,16384}+",
    "LS0tLS1CRUdJTiBFQyBQUklWQVRF": "[A-Za-z0-9+/=]{20,16384}+",
    "LS0tLS1CRUdJTiBPUEVOU1NIIFBSSVZBVEUg": "[A-Za-z0-9+/=]{20,16384}+",
    "LS0tLS1CRUdJTiBFTkNSWVBURUQgUFJJVkFURS": "[A-Za-z0-9+/=]{20,16384}+",
    "eyJ": rf"{_W}{{5,8192}}+\.{_W}{{4,16384}}+(?:\.{_W}{{0,4096}}+)?",  # a JWT
}
_KINDS: Final = {"eyJ": "token"}

_BUILT: Final = (  # what begins with nothing special, by the sign that stands in it, or behind the first word
    (b".", "api_key", rb"[0-9a-f]{32}\.[A-Za-z0-9]{16}(?![A-Za-z0-9_-])"),  # Zhipu
    (b".", "token", rb"[MNO][A-Za-z0-9_-]{22,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,45}(?![A-Za-z0-9])"),  # Discord
    (b".", "api_key", rb"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,80}+"),  # Terraform
    (b":", "api_key", rb"(?:bot)?[0-9]{8,10}:A[A-Za-z0-9_-]{32,36}(?![A-Za-z0-9_-])"),  # Telegram
    (b":", "api_key", rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}:fx(?![A-Za-z0-9])"),  # DeepL
    (
        b":",
        "api_key",
        rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}:[0-9a-f]{32}(?![A-Za-z0-9])",
    ),  # Fal
    (b"|", "api_key", rb"[0-9]{15,16}\|[A-Za-z0-9_-]{27,40}(?![A-Za-z0-9_-])"),  # Meta
)
_BUILT_SIGNS: Final = (b".", b":", b"|")
_HEXADECIMAL: Final = b"0123456789abcdef-."
_MARKED: Final = tuple(
    (sign, mark, kind, re.compile(pattern))
    for sign, mark, kind, pattern in (
        (b"/", b"hooks.slack", "api_key", rb"(?:https?://)?hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20,200}+"),
        (b"/", b"/webhooks/", "api_key", rb"(?:https?://)?[a-z]{0,8}\.?discord(?:app)?\.com/api/(?:v\d{1,2}/)?webhooks/\d{15,20}/[A-Za-z0-9_-]{40,100}+"),
        (b"/", b".office.com/", "api_key", rb"(?:https://)?[a-z0-9-]{1,60}\.webhook\.office\.com/webhookb2/[A-Za-z0-9@/-]{40,300}+"),
        (b"/", b"bot/v2/hook/", "api_key", rb"(?:https://)?open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/[A-Za-z0-9-]{20,60}+"),
        (b"/", b"/webhook/send?key=", "api_key", rb"(?<=/webhook/send\?key=)[A-Za-z0-9-]{20,60}+"),
        (b"/", b"1//0", "token", rb"(?<![A-Za-z0-9_:/.-])1//0[A-Za-z0-9_-]{40,200}+"),
        (b"~", b"Q~", "api_key", rb"(?<![A-Za-z0-9_~.-])[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}(?![A-Za-z0-9])"),
        (b"=", b"sig=", "api_key", rb"(?<![A-Za-z0-9])sig=[A-Za-z0-9%+/=_-]{20,200}+"),  # a signed URL of Azure's
        (b"=", b"-Signature=", "token", rb"(?<=-Signature=)[A-Za-z0-9]{32,1024}+"),  # of AWS's and Google's
        (b"P", b"PuTTY", "private_key", rb"(?<=Private-Lines: )\d{1,4}\s{1,4}(?:[A-Za-z0-9+/=]{1,76}\s{1,4}){1,200}"),  # PuTTY
    )
)  # fmt: skip
_PARTS: Final = tuple(
    (part, re.compile(pattern))  # of words
    for part, pattern in (
        (b"JQQJ99", rb"(?<![A-Za-z0-9])[A-Za-z0-9]{40,60}JQQJ99[A-Za-z0-9]{20,30}(?![A-Za-z0-9])"),
        (b"_mmk", rb"(?<![A-Za-z0-9_])[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk(?![A-Za-z0-9])"),
        (b"-us", rb"(?<![A-Za-z0-9])[0-9a-f]{32}-us\d{1,2}(?![A-Za-z0-9])"),  # Mailchimp
        (b"T3BlbkFJ", rb"(?<![A-Za-z0-9])[A-Za-z0-9_-]{20,100}T3BlbkFJ[A-Za-z0-9_-]{20,100}"),
    )
)  # fmt: skip


class Makers:
    """Finds keys by their look, as kinds api_key, token and private_key."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._by_head: dict[bytes, list[tuple[str, re.Pattern[bytes]]]] = {}
        for prefix, body in _MAKERS.items():
            kind = "private_key" if prefix.startswith("LS0t") else _KINDS.get(prefix, "api_key")
            if kind in kinds:
                pattern = re.compile(f"{re.escape(prefix)}{body}".encode())
                self._by_head.setdefault(prefix[:2].encode(), []).append((kind, pattern))
        self._built = {
            sign: [(kind, re.compile(pattern)) for its, kind, pattern in _BUILT if its == sign and kind in kinds]
            for sign in _BUILT_SIGNS
        }
        self._lower = _LOWER if "api_key" in kinds else None
        self._marked = [entry for entry in _MARKED if entry[2] in kinds]

    def find(self, raw: bytes, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        words = raw.translate(_WORDS)
        for match in _TELLING.finditer(words):
            start, end = words.rfind(b" ", 0, match.start()) + 1, match.end()
            if end - start >= _LONG:
                self._look(raw, start, end, spans)
        if self._lower is not None and b"sk-" in raw:
            spans += [(*found.span(), "api_key") for found in self._lower.finditer(raw)]
        for sign, mark, kind, pattern in self._marked:
            if sign in raw and mark in raw:
                spans += [(*found.span(), kind) for found in pattern.finditer(raw)]

    def _look(self, raw: bytes, start: int, end: int, spans: list[Span]) -> None:
        """Look up the word between `start` and `end`, then the places within it where a key may begin."""
        word = raw[start:end]
        if (
            not word.strip(_HEXADECIMAL)
            and raw[end : end + 1] not in _BUILT_SIGNS
            and raw[start - 1 : start] not in _BUILT_SIGNS
        ):
            return  # a hash, a UUID, a number
        for kind, pattern in self._by_head.get(word[:2], ()):
            if found := pattern.match(raw, start):
                spans.append((start, found.end(), kind))
                return
        if b"-" in word or b"_" in word or b"." in word:
            for within in _WITHIN.finditer(raw, start + 1, end):
                at = within.start()
                for kind, pattern in self._by_head.get(raw[at : at + 2], ()):
                    if found := pattern.match(raw, at):
                        spans.append((at, found.end(), kind))
                        return
        if len(word) > _BUILT_LONG and self._lower is not None:
            for part, pattern in _PARTS:
                if part in word and (found := pattern.search(raw, start, end)):
                    spans.append((*found.span(), "api_key"))
                    return
        before = raw[start - 1 : start]
        for sign in _BUILT_SIGNS:
            if sign == before or sign in word:
                first = start
                if sign == before and (opened := _FIRST_WORD.search(raw, max(0, start - 40), start)):
                    first = opened.start()
                for kind, pattern in self._built[sign]:
                    if found := pattern.match(raw, first):
                        spans.append((*found.span(), kind))
                        return
