"""How the keys of each known vendor begin, and what follows; how they are looked up is in `vendor_keys.py`."""

from __future__ import annotations

from typing import Final

_W: Final = "[A-Za-z0-9_-]"
_S: Final = "[A-Za-z0-9]"
_H: Final = "[0-9a-fA-F]"
_B64: Final = "[A-Za-z0-9+/]"
_TOLD: Final = "(?=[a-z_-]{0,24}+[A-Z0-9])"  # a key has digits or capitals; `sk-cube-grid-animation` is a class of CSS
_MIXED: Final = "(?=[a-z]{0,40}+[A-Z0-9])"
_END: Final = "(?![A-Za-z0-9])"
_UUID: Final = f"{_H}{{8}}-{_H}{{4}}-{_H}{{4}}-{_H}{{4}}-{_H}{{12}}"

VENDOR_KEYS: Final = {
    # OpenAI, Anthropic, Langfuse, OpenRouter, DeepSeek, Moonshot, DashScope, LiteLLM, Stability, …
    "sk-": rf"(?!sk-)(?:(?:proj|ant|svcacct|service|admin|None|lf|or|live|test|dev)-{_W}{{8,4096}}+"
    rf"|(?![a-z]{{2,}}(?:[A-Z][a-z]{{2,}}){{1,6}}(?![A-Za-z0-9_-]))(?:{_TOLD}|(?={_S}{{20}})){_W}{{16,4096}}+)",
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
    "unkey_": f"{_MIXED}{_S}{{20,60}}+",
    "rootly_": f"{_H}{{64}}{_END}",
    "retool_01": f"[a-z0-9]{{24,40}}+{_END}",
    "xprv": f"(?=[A-Za-z]{{0,40}}+[0-9])[1-9A-HJ-NP-Za-km-z]{{100,112}}{_END}",  # wallets
    "nsec1": f"[02-9ac-hj-np-z]{{58}}{_END}",  # Nostr
    "sbp_": f"{_H}{{40}}{_END}",  # Supabase
    "sb_secret_": f"{_W}{{20,100}}+",
    "pcsk_": f"{_W}{{20,200}}+",  # Pinecone
    "lsv2_": f"{_W}{{20,200}}+",  # LangSmith
    "ls__": f"{_S}{{20,200}}+",
    "e2b_": f"{_H}{{40}}{_END}",
    "wandb_v1_": f"{_W}{{20,200}}+",
    "cal_live_": f"{_S}{{16,100}}+",
    "phc_": f"{_W}{{30,100}}+",  # PostHog
    "phx_": f"{_W}{{30,100}}+",
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
    "ATTA": f"{_H}{{64,80}}{_END}",  # Trello
    "ATATT3": r"[A-Za-z0-9_=-]{40,400}+",  # Atlassian
    "ATCTT3": r"[A-Za-z0-9_=-]{40,400}+",
    "xox": rf"[a-z](?:\.xox[a-z])?-{_W}{{10,400}}+",  # Slack
    "xapp-": f"{_W}{{16,400}}+",
    "xwfp-": f"{_W}{{16,400}}+",
    "sk_": f"(?:(?:live|test|prod)_{_S}{{10,255}}+|(?:[a-z]{{2,8}}_)?{_H}{{32,64}}{_END}"
    f"|V2_{_S}{{10,100}}+_{_S}{{10,100}}+)",
    "rk_": f"(?:live|test|prod)_{_S}{{10,255}}+",
    "whsec_": "[A-Za-z0-9+/=]{16,255}+",
    "AC": f"[0-9a-f]{{32}}{_END}",  # Twilio
    "SK": f"[0-9a-f]{{32}}{_END}",
    "npm_": f"{_S}{{30,100}}+",
    "pypi-AgE": f"{_W}{{16,1024}}+",
    "LTAI": f"{_S}{{12,40}}+",  # Alibaba Cloud
    "AKID": f"{_TOLD}{_S}{{13,60}}+",  # Tencent Cloud
    "AKLT": f"{_TOLD}{_S}{{30,80}}+",  # Volcengine
    "ALTAK-": "[A-Za-z0-9_/-]{20,200}+",  # Baidu
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
    "s.": f"(?=[a-z]{{0,23}}+[A-Z0-9])(?=[A-Za-z]{{0,23}}+[0-9])(?=[a-z0-9]{{0,23}}+[A-Z])"
    f"{_S}{{24}}(?![A-Za-z0-9_(.-])",
    "dckr_": f"(?:pat|oat)_{_W}{{20,100}}+",  # Docker
    "lin_": f"(?:api|oauth)_{_S}{{20,100}}+",  # Linear
    "ntn_": f"{_S}{{30,100}}+",  # Notion
    "secret_": f"(?=[a-z]{{0,20}}+[A-Z0-9])(?=[A-Za-z]{{0,30}}+[0-9])(?=[a-z0-9]{{0,30}}+[A-Z]){_S}{{43}}{_END}",
    "PMAK-": f"{_H}{{24}}-{_H}{{20,64}}+",  # Postman
    "glsa_": f"{_S}{{20,64}}+(?:_{_H}{{8}})?",  # Grafana
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
    "fio-u-": f"{_W}{{40,120}}+",
    "dnkey-": f"{_W}{{40,120}}+",
    "p8e-": f"{_S}{{32}}{_END}",
    "API-": f"[A-Z0-9]{{26}}{_END}",
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
    "tskey-": f"[a-z]{{3,10}}-{_S}{{8,30}}-{_S}{{20,60}}+",  # Tailscale
    "napi_": f"{_S}{{40,100}}+",  # Neon
    "AVNS_": f"{_W}{{16,40}}+",  # Aiven
    "dbtc_": f"{_W}{{30,60}}+",
    "dbtu_": f"{_W}{{30,60}}+",
    "cflt": f"{_B64}{{50,80}}+",  # Confluent
    "mdb_sa_": f"sk_{_W}{{30,60}}+",  # MongoDB Atlas
    "CCDB1_": f"{_W}{{30,80}}+",  # CockroachDB
    "xau_": f"{_S}{{30,60}}+",  # Xata
    "oy2": f"(?=[a-z]{{0,40}}+[0-9])[a-z0-9]{{43}}{_END}",  # NuGet
    "cio": f"(?=[A-Za-z]{{0,31}}+[0-9]){_S}{{32}}{_END}",  # crates.io
    "st.": rf"{_H}{{24}}\.{_H}{{32}}\.{_H}{{32}}{_END}",  # Infisical
    "xaat-": _UUID,  # Axiom
    "xapt-": _UUID,
    "sdk-": _UUID,  # LaunchDarkly
    "mob-": _UUID,
    "api-": _UUID,
    "hca": f"[a-z]{{2}}_{_S}{{50,70}}+",  # Honeycomb
    "pylf_v": rf"\d_[a-z]{{2,6}}_{_S}{{30,60}}+",  # Logfire
    "CCIPAT_": f"{_S}{{20,24}}_{_H}{{40}}",  # CircleCI
    "CCIPRJ_": f"{_S}{{20,24}}_{_H}{{40}}",
    "bkua_": f"{_H}{{40}}{_END}",  # Buildkite
    "bkaj_": f"{_W}{{30,80}}+",
    "gitpod_pat_": f"{_W}{{30,80}}+",
    "depot_": f"(?:org|user|project)_{_S}{{30,80}}+",
    "rpa_": f"{_S}{{40,60}}+",  # RunPod
    "aph0_": f"{_W}{{40,120}}+",  # Anyscale
    "ak-": f"(?=[A-Za-z]{{0,22}}+[0-9])(?=[a-z0-9]{{0,22}}+[A-Z]){_S}{{22}}{_END}",  # Modal
    "as-": f"(?=[A-Za-z]{{0,22}}+[0-9])(?=[a-z0-9]{{0,22}}+[A-Z]){_S}{{22}}{_END}",
    "bb_live_": f"{_W}{{24,50}}+",  # Browserbase
    "pat_": f"(?=[A-Za-z]{{0,40}}+[0-9]){_S}{{60,70}}{_END}",  # Coze
    "fastgpt-": f"(?=[a-z]{{0,40}}+[A-Z0-9]){_S}{{30,80}}+",
    "ragflow-": f"(?=[a-z]{{0,40}}+[A-Z0-9]){_S}{{30,80}}+",
    "m0-": f"(?=[A-Za-z]{{0,40}}+[0-9]){_S}{{40}}{_END}",  # Mem0
    "llx-": f"{_S}{{40,60}}+",  # LlamaCloud
    "nk-": f"(?=[A-Za-z]{{0,40}}+[0-9])(?=[a-z0-9_-]{{0,40}}+[A-Z]){_W}{{40,60}}+",  # Nomic
    "msy_": f"{_S}{{30,60}}+",  # Meshy
    "key_": f"{_H}{{128}}{_END}",  # Runway
    "lsk_": f"{_S}{{30,80}}+",
    "pl_": f"{_H}{{32}}{_END}",
    "signkey-": f"(?:prod|test|branch)-{_H}{{32,80}}+",  # Inngest
    "tr_": f"(?:dev|prod|stg|pat)_{_S}{{16,80}}+",  # Trigger
    "testsk_": f"{_W}{{30,80}}+",
    "secret-": f"(?:(?:live|test)-{_W}{{30,80}}+"  # Stytch, Statsig
    f"|(?=[A-Za-z]{{0,40}}+[0-9])(?=[a-z0-9]{{0,40}}+[A-Z]){_S}{{43}}{_END})",
    "KGAT_": f"{_H}{{32}}{_END}",  # Kaggle
    "waka_": _UUID,
    "tid_": f"{_S}{{30,60}}{_END}",  # Tigris
    "tsec_": f"{_W}{{30,80}}+",
    "pk1_": f"{_H}{{60,70}}{_END}",  # Porkbun
    "sk1_": f"{_H}{{60,70}}{_END}",
    "SCW": f"(?=[A-Z]{{0,17}}+[0-9])[A-Z0-9]{{17}}{_END}",  # Scaleway
    "s-s4t2ud-": f"{_H}{{64}}",
    "bfl_": f"{_S}{{30,60}}+",
    "act.": rf"{_S}{{50,80}}!\d{{4}}\.[a-z]{{2}}",  # TikTok
    "U0pDMTFQMDFQQVMwMHxB": f"{_W}{{40,200}}+",  # RingCentral
    "AAAAAAAAAAAAAAAAAAAAA": "(?=[A-Z0-9%]{0,40}+[a-z])[A-Za-z0-9%+/=_-]{60,200}+",  # X
    "AQE": f"(?<![+/=]AQE){_B64}{{80,200}}+=?-[A-Za-z0-9+/=-]{{30,120}}+",  # Adyen
    "dG9rO": f"{_B64}{{40,80}}+={{0,2}}",  # Intercom: "tok:" in Base64
    "IGQ": f"(?<![+/=]IGQ)(?=[A-Za-z_-]{{0,40}}+[0-9]){_W}{{100,300}}+",  # Instagram
    "ovsxp_": f"{_S}{{30,60}}+",  # Open VSX
    "odt_": f"(?=[a-z]{{0,40}}+[A-Z0-9]){_S}{{30,60}}+",  # Dependency-Track
    "ion_": f"(?=[a-z]{{0,40}}+[A-Z0-9]){_S}{{40,50}}{_END}",
    "aio_": f"(?=[a-z]{{0,40}}+[A-Z0-9]){_S}{{28}}{_END}",  # Adafruit
    "ak_": f"(?=[A-Za-z_-]{{0,20}}+[0-9])(?=[a-z0-9_-]{{0,20}}+[A-Z])(?:{_W}{{20}}|{_S}{{27}})(?![A-Za-z0-9_-])",  # Composio, ngrok
    "ak_live_": f"{_S}{{20,60}}+",
    "scp-": f"(?:live|test)-{_S}{{32}}{_END}",  # Scrapfly
    "tkn.v1_": r"[A-Za-z0-9+/=_-]{60,120}+",
    "hawk.": rf"{_S}{{20}}\.{_S}{{20}}{_END}",
    "sub-c-": _UUID,  # PubNub
    "pub-c-": _UUID,
    "sec-c-": "[A-Za-z0-9=]{40,80}+",
    "VF.": rf"(?:DM|WS)\.{_H}{{24}}\.{_S}{{16}}{_END}",  # Voiceflow
    "NRAA-": f"{_H}{{20,40}}{_END}",
    "live_": rf"(?:\d{{5,12}}_{_S}{{20,60}}+|{_H}{{35}}{_END})",  # Twitch, Lob
    "BSA": f"(?=[A-Za-z_-]{{0,27}}+[0-9])(?=[A-Z0-9_-]{{0,27}}+[a-z]){_W}{{28}}(?![A-Za-z0-9_-])",  # Brave
    "esecret_": f"{_S}{{20,60}}+",
    "os_v2_": f"(?:app|org)_{_S}{{40,120}}+",  # OneSignal
    "WPL_AP1.": rf"{_S}{{10,40}}\.{_B64}{{6,40}}+={{0,2}}",  # LinkedIn
    "amzn.mws.": _UUID,
    "amzn1.oa2-cs.v1.": f"{_H}{{64}}",
    "xoxe-": f"1-{_W}{{40,400}}+",
    "shltm_": f"{_W}{{30,60}}+",
    "BBFF-": f"{_S}{{30}}{_END}",
    "v1.": f"{_H}{{40}}{_END}",  # GitHub's apps
    "b.": f"(?=[a-z]{{0,23}}+[A-Z0-9])(?=[A-Za-z]{{0,23}}+[0-9])(?=[a-z0-9]{{0,23}}+[A-Z]){_S}{{24,26}}(?![A-Za-z0-9_(.-])",
    "lk_": f"(?=[A-Za-z]{{0,40}}+[0-9])(?=[a-z0-9]{{0,40}}+[A-Z]){_S}{{28,40}}{_END}",
    "crsr_": f"{_H}{{64}}{_END}",  # Cursor
    "pk.eyJ": rf"{_W}{{20,400}}+\.{_W}{{20,60}}+",  # Mapbox
    "sk.eyJ": rf"{_W}{{20,400}}+\.{_W}{{20,60}}+",
    "AQX": f"(?<![+/=]AQX){_W}{{120,400}}+",  # LinkedIn
    "BQ": f"(?<![+/=]BQ)(?=[A-Za-z0-9]{{0,60}}+[_-]){_W}{{120,400}}+(?![+/=])",  # Spotify
    "sk": f"(?=[A-Za-z]{{0,60}}+[0-9]){_S}{{150,190}}{_END}",  # Sanity
    "sgp": f"_{_S}{{64}}{_END}",  # Segment
    "sl.": f"(?:u\\.)?{_W}{{60,2048}}+",  # Dropbox
    "dG9rZW46": f"{_B64}{{20,400}}+",  # "token:" in Base64
    "LS0tLS1CRUdJTiBSU0EgUFJJVkFUR": "[A-Za-z0-9+/=]{20,16384}+",  # private keys in Base64
    "LS0tLS1CRUdJTiBQUklWQVRF": "[A-Za-z0-9+/=]{20,16384}+",
    "LS0tLS1CRUdJTiBFQyBQUklWQVRF": "[A-Za-z0-9+/=]{20,16384}+",
    "LS0tLS1CRUdJTiBPUEVOU1NIIFBSSVZBVEUg": "[A-Za-z0-9+/=]{20,16384}+",
    "LS0tLS1CRUdJTiBFTkNSWVBURUQgUFJJVkFURS": "[A-Za-z0-9+/=]{20,16384}+",
    "eyJ": rf"{_W}{{5,8192}}+\.{_W}{{4,16384}}+(?:\.{_W}{{0,4096}}+)?",  # a JWT
}
KIND_OF: Final = {"eyJ": "token"}
"""Beginning -> kind, where that is not api_key."""
