"""Texts that hold a secret, made from the formats that makers, banks and authorities publish; the same ones each time."""

from __future__ import annotations

import base64
import html
import json
import string
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.redaction.document_texts import documents, from_afar
from tests.redaction.maker import ALNUM, HEX, URL64, Maker


class Secret(NamedTuple):
    kind: str
    text: str
    secret: str


def keys(m: Maker) -> dict[str, str]:
    """One key of each maker."""
    s, rng = m.some, m.rng
    up = string.ascii_uppercase + string.digits
    return {
        "openai": f"sk-{s(20)}T3BlbkFJ{s(20)}",
        "openai project": f"sk-proj-{s(74, URL64)}T3BlbkFJ{s(74, URL64)}",
        "openai service": f"sk-svcacct-{s(60, URL64)}",
        "openai admin": f"sk-admin-{s(60, URL64)}",
        "anthropic": f"sk-ant-api03-{s(93, URL64)}AA",
        "anthropic admin": f"sk-ant-admin01-{s(93, URL64)}AA",
        "openrouter": f"sk-or-v1-{s(64, HEX)}",
        "deepseek": f"sk-{s(32, HEX)}",
        "tailscale": f"tskey-auth-{s(12)}CNTRL-{s(32)}",
        "neon": f"napi_{s(64, string.ascii_lowercase + string.digits)}",
        "aiven": f"AVNS_{s(19, URL64)}",
        "dbt": f"dbtc_{s(40, URL64)}",
        "atlas service account": f"mdb_sa_sk_{s(40, URL64)}",
        "nuget": f"oy2{s(43, string.ascii_lowercase + string.digits)}",
        "crates.io": f"cio{s(32)}",
        "infisical": f"st.{s(24, HEX)}.{s(32, HEX)}.{s(32, HEX)}",
        "axiom": f"xaat-{m.uuid()}",
        "launchdarkly": f"sdk-{m.uuid()}",
        "honeycomb": f"hcaik_01{s(58, string.ascii_lowercase + string.digits)}",
        "logfire": f"pylf_v1_us_{s(43)}",
        "circleci": f"CCIPAT_{s(22)}_{s(40, HEX)}",
        "buildkite": f"bkua_{s(40, HEX)}",
        "gitpod": f"gitpod_pat_{s(40, URL64)}",
        "runpod": f"rpa_{s(46)}",
        "anyscale": f"aph0_{s(80, URL64)}",
        "browserbase": f"bb_live_{s(27, URL64)}",
        "coze": f"pat_{s(64)}",
        "fastgpt": f"fastgpt-{s(56)}",
        "llamacloud": f"llx-{s(48)}",
        "segment": f"sgp_{s(64)}",
        "sanity": f"sk{s(178)}",
        "new relic licence": f"{s(36, HEX)}NRAL",
        "paypal": f"access_token$production${s(16, string.ascii_lowercase + string.digits)}${s(32, HEX)}",
        "zapier": f"https://hooks.zapier.com/hooks/catch/{m.digits(7)}/{s(7, string.ascii_lowercase + string.digits)}/",
        "moonshot": f"sk-{s(48)}",
        "google": f"AIza{s(35, URL64)}",
        "google oauth": f"ya29.a0{s(160, URL64)}",
        "google client": f"GOCSPX-{s(28, URL64)}",
        "github": f"ghp_{s(36)}",
        "github oauth": f"gho_{s(36)}",
        "github app": f"ghs_{s(36)}",
        "github fine": f"github_pat_{s(22)}_{s(59)}",
        "gitlab": f"glpat-{s(20, URL64)}",
        "gitlab job": f"glcbt-64_{s(20, URL64)}",
        "gitlab trigger": f"glptt-{s(40, HEX)}",
        "slack bot": f"xoxb-{m.digits(12)}-{m.digits(13)}-{s(24)}",
        "slack user": f"xoxp-{m.digits(12)}-{m.digits(12)}-{m.digits(13)}-{s(32, HEX)}",
        "slack app": f"xapp-1-A{s(10, up)}-{m.digits(13)}-{s(64, HEX)}",
        "slack webhook": f"https://hooks.slack.com/services/T{s(8, up)}/B{s(10, up)}/{s(24)}",
        "aws": f"AKIA{s(16, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')}",
        "aws session": f"ASIA{s(16, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')}",
        "stripe": f"sk_live_{s(24)}",
        "stripe test": f"sk_test_51{s(97)}",
        "stripe restricted": f"rk_live_{s(24)}",
        "stripe webhook": f"whsec_{s(32)}",
        "twilio": f"SK{s(32, HEX)}",
        "sendgrid": f"SG.{s(22, URL64)}.{s(43, URL64)}",
        "hugging face": f"hf_{s(34)}",
        "groq": f"gsk_{s(52)}",
        "replicate": f"r8_{s(37)}",
        "npm": f"npm_{s(36)}",
        "pypi": f"pypi-AgEIcHlwaS5vcmcCJ{s(120, URL64)}",
        "docker": f"dckr_pat_{s(27, URL64)}",
        "digitalocean": f"dop_v1_{s(64, HEX)}",
        "telegram": f"{m.digits(10)}:AA{s(33, URL64)}",
        "discord bot": f"M{s(23)}.{s(6, URL64)}.{s(38, URL64)}",
        "discord webhook": f"https://discord.com/api/webhooks/{m.digits(19)}/{s(68, URL64)}",
        "databricks": f"dapi{s(32, HEX)}",
        "linear": f"lin_api_{s(40)}",
        "notion": f"ntn_{m.digits(11)}{s(35)}",
        "notion old": f"secret_{s(43)}",
        "supabase": f"sbp_{s(40, HEX)}",
        "tavily": f"tvly-dev-{s(32)}",
        "langsmith": f"lsv2_pt_{s(32, HEX)}_{s(10, HEX)}",
        "langfuse": f"sk-lf-{m.uuid()}",
        "pinecone": f"pcsk_{s(6)}_{s(62)}",
        "xai": f"xai-{s(80)}",
        "perplexity": f"pplx-{s(48)}",
        "fireworks": f"fw_{s(24)}",
        "cerebras": f"csk-{s(48, string.ascii_lowercase + string.digits)}",
        "nvidia": f"nvapi-{s(64, URL64)}",
        "zhipu": f"{s(32, HEX)}.{s(16)}",
        "vault": f"hvs.CAES{s(90, URL64)}",
        "terraform": f"{s(14)}.atlasv1.{s(67, URL64)}",
        "doppler": f"dp.pt.{s(43)}",
        "grafana": f"glsa_{s(32)}_{s(8, HEX)}",
        "sentry": f"sntryu_{s(64, HEX)}",
        "postman": f"PMAK-{s(24, HEX)}-{s(34, HEX)}",
        "figma": f"figd_{s(40, URL64)}",
        "shopify": f"shpat_{s(32, HEX)}",
        "mailgun": f"key-{s(32, HEX)}",
        "mailchimp": f"{s(32, HEX)}-us{rng.randint(1, 21)}",
        "brevo": f"xkeysib-{s(64, HEX)}-{s(16)}",
        "new relic": f"NRAK-{s(27, up)}",
        "dynatrace": f"dt0c01.{s(24, up)}.{s(64, up)}",
        "pulumi": f"pul-{s(40, HEX)}",
        "planetscale": f"pscale_tkn_{s(43, URL64)}",
        "rubygems": f"rubygems_{s(48, HEX)}",
        "square": f"sq0atp-{s(22, URL64)}",
        "airtable": f"pat{s(14)}.{s(64, HEX)}",
        "hubspot": f"pat-na1-{m.uuid()}",
        "atlassian": f"ATATT3xFfGF0{s(170, URL64)}={s(8, '0123456789ABCDEF')}",
        "alibaba": f"LTAI5t{s(18)}",
        "age": f"AGE-SECRET-KEY-1{s(58, 'QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L')}",
        "1password": f"ops_eyJ{s(260)}",
        "azure ad": f"{s(3)}8Q~{s(34, URL64 + '~.')}",
        "azure ai": f"{s(52)}JQQJ99{s(26)}",
        "facebook": f"EAAC{s(160)}",
        "heroku": f"HRKU-AA{s(58, URL64)}",
        "fly": f"fo1_{s(43, URL64)}",
        "netlify": f"nfp_{s(36)}",
        "vercel": f"vcp_{s(56)}",
        "clojars": f"CLOJARS_{s(60, string.ascii_lowercase + string.digits)}",
        "artifactory": f"AKCp{s(69)}",
        "sonarqube": f"squ_{s(40, HEX)}",
        "prefect": f"pnu_{s(36)}",
        "readme": f"rdme_{s(70, string.ascii_lowercase + string.digits)}",
        "easypost": f"EZAK{s(54)}",
        "jwt": ".".join(
            base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
            for part in ('{"alg":"HS256","typ":"JWT"}', json.dumps({"sub": m.digits(10), "name": s(8)}))
        )
        + "."
        + s(43, URL64),
    }


CARRIERS: list[Callable[[str], str]] = [
    lambda x: x,
    lambda x: f"My key is {x}, please debug this",
    lambda x: f"我的密钥放在这里：{x}，请帮我检查",
    lambda x: json.dumps({"role": "user", "content": f"use {x} for now"}),
    lambda x: f'client = Client("{x}")\n',
    lambda x: (
        f"AuthenticationError: Incorrect API key provided: {x}. You can find your key at https://platform.example.com."
    ),
    lambda x: f"2024-05-01T10:00:00Z ERROR auth failed for {x} (401)",
    lambda x: f"curl https://api.example.com/v1?x=1 -H 'X-Thing: {x}'",
    lambda x: f"- [{x}](https://example.com)",
    lambda x: f"line one\\n{x}\\nline three",
    lambda x: f"({x})",
    lambda x: f"`{x}`",
]

WRAPPERS: dict[str, Callable[[str], str]] = {
    "terminal colours": lambda x: f"\x1b[1;32m{x}\x1b[0m",
    "colours, written out": lambda x: f"\\u001b[31m{x}\\u001b[0m",
    "hex quotes": lambda x: f"\\x22{x}\\x22",
    "html quotes": lambda x: f"value=&quot;{x}&quot;",
    "html, twice": lambda x: f"<td>&amp;quot;{x}&amp;quot;</td>",
    "html entities": lambda x: "".join(f"&#{ord(c)};" for c in x),
    "percent": lambda x: "https://h.example/?q=" + "".join(f"%{ord(c):02X}" for c in x),
    "percent of signs, twice": lambda x: (
        f"https://h/?u=https%253A%252F%252Fi%252F%253Fk%253D{urllib.parse.quote(urllib.parse.quote(x, safe=''), safe='')}%2526a%253Db"
    ),
    "unicode escapes": lambda x: '{"t": "' + "".join(f"\\u{ord(c):04x}" for c in x) + '"}',
    "json within json": lambda x: json.dumps(json.dumps({"a": {"b": json.dumps({"c": f"see {x}"})}})),
    "zero width": lambda x: "\u200b".join(x),
    "soft hyphens": lambda x: "\u00ad".join(x[i : i + 8] for i in range(0, len(x), 8)),
    "word joiners": lambda x: f"\ufeff{x[:4]}\u2060{x[4:]}",
    "full width": lambda x: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in x),
    "quoted printable": lambda x: f"{x[: len(x) // 2]}=\n{x[len(x) // 2 :]}" if len(x) > 18 else x,
    "chinese around": lambda x: f"密钥{x}是我的",
    "html name": lambda x: html.escape(f'<a href="{x}">'),
    "continued line": lambda x: f"export X={x[:10]}\\\n{x[10:]}",
}
SIMPLE = ["terminal colours", "hex quotes", "html quotes", "html, twice", "html entities", "percent", "unicode escapes",
          "json within json", "zero width", "full width", "colours, written out", "word joiners"]  # fmt: skip


def named(m: Maker) -> Iterator[Secret]:
    """Values that only their names give away."""
    rng = m.rng
    for name in ("API_KEY", "MISTRAL_API_KEY", "DATADOG_APP_KEY", "api-key", "apiKey", "client_secret", "aws_secret_access_key",
                 "SECRET_KEY", "access_token", "auth_token", "refresh_token", "AZURE_STORAGE_KEY", "x-api-key", "license key",
                 "encryption_key", "PRIVATE-TOKEN", "bot token", "webhook_secret", "signing_secret", "credential"):  # fmt: skip
        value = rng.choice([m.some(32), m.some(40, HEX), m.some(44, ALNUM + "+/") + "==", m.some(24, URL64)])
        for form in ("{n}={v}", "{n}: {v}", '"{n}": "{v}"', "{n} = '{v}'", "export {n}={v}", "{n} := {v}", "{n} => \"{v}\"",
                     "| {n} | `{v}` |", "<{n}>{v}</{n}>", '{{"name": "{n}", "value": "{v}"}}', "- name: {n}\n  value: {v}",
                     '<add key="{n}" value="{v}"/>', "{n}:\n  {v}\n", "the {n} is {v}", "{{\\\"{n}\\\": \\\"{v}\\\"}}", "{n}={v};x=1", "?{n}={v}&b=1",
                     "[api]\n{n} = \"{v}\"", "{n}（生产）：{v}", "**{n}**: `{v}`", "{n} {v}"):  # fmt: skip
            yield Secret("named", form.format(n=name, v=value), value)
    for name in ("password", "passwd", "pwd", "DB_PASS", "DB_PASSWORD", "passphrase", "Passwort", "PGPASSWORD", "spring.datasource.password",
                 "SMTP_PASSWORD", "root_password", "user_pass"):  # fmt: skip
        for form in ("{n}={v}", "{n}: {v}", '"{n}": "{v}"', "{n} = '{v}'", "export {n}='{v}'", "<{n}>{v}</{n}>", '<property name="{n}" value="{v}"/>',
                     '{{"name": "{n}", "value": "{v}"}}', "{n}:\n{v}\n", "| {n} | {v} |", "- name: {n}\n  value: '{v}'", "my {n} is {v}"):  # fmt: skip
            value = m.password().replace("&", "x")
            yield Secret("password", form.format(n=name, v=value), value)


def named_in_other_languages(m: Maker) -> Iterator[Secret]:
    """The words for a key of an API, in the languages whose word is not "key"."""
    for form in ("ключ API: {}", "clé API : {}", "API-Schlüssel: {}", "clave de API: {}", "chave de API: {}", "APIキー：{}",
                 "API 金鑰：{}", "API 키: {}", "API-sleutel: {}", "API key\n\n    {}\n"):  # fmt: skip
        value = m.rng.choice([m.some(32), m.some(40, HEX), m.some(24)])
        yield Secret("named, other languages", form.format(value), value)
    for form in ("requests.get(u, auth=('me', '{}'))", "ConvertTo-SecureString '{}' -AsPlainText", "smtp://me%40x.example:{}@h:587",
                 "WIFI:S:net;T:WPA;P:{};;"):  # fmt: skip
        value = m.some(12) + m.digits(2)
        yield Secret("password", form.format(value), value)


def commands(m: Maker) -> Iterator[Secret]:
    """Command lines, headers, connection strings and files."""
    for _ in range(6):
        p, t, hexes, b64 = (
            m.password().replace("&", "9").replace("$", "7"),
            m.some(36),
            m.some(40, HEX),
            m.some(30) + "==",
        )
        opaque = m.some(32)
        yield from (
            Secret("command", form.format(p=p, t=t), value)
            for form, value in (
                ("tool --token {t}", t), ("tool --api-key {t} run", t), ("tool --password {p}", p), ("tool --password={p} x", p), ("curl -u user:{p} https://h", p),
                ("curl --user 'admin:{p}' https://h", p), ("mysql -u root -p{p} app", p), ("sshpass -p {p} ssh root@h", p), ("redis-cli -h h -a {p} ping", p),
                ("docker login -u bob -p {p} registry.example.com", p), ("set -x API_KEY {t}", t), ("setx OPENAI_API_KEY {t}", t), ("ENV SECRET_TOKEN {t}", t),
                ("PGPASSWORD='{p}' psql -h h", p), ("npm config set //registry.npmjs.org/:_authToken={t}", t), ("aws configure set aws_secret_access_key {t}", t),
                ("kubectl create secret generic db --from-literal=password={p}", p), ("helm install x --set auth.password={p}", p), ("openssl rsa -passin pass:{p} -in k.pem", p),
                ("mongosh -u admin -p {p} --host h", p), ("git clone https://oauth2:{t}@gitlab.example.com/a/b.git", t), ("git clone https://{t}@github.com/a/b.git", t),
                ("gh auth login --with-token {t}", t), ("ansible-playbook x.yml -e ansible_password={p}", p), ("vault login token={t}", t),
            )
        )  # fmt: skip
        yield from (
            Secret("header", form, value)
            for form, value in (
                (f"Authorization: Bearer {opaque}", opaque), (f"Authorization: Basic {b64}", b64), (f"authorization: token {hexes}", hexes), (f"Authorization: ApiKey {b64}", b64),
                (f"Proxy-Authorization: Basic {b64}", b64), (f'{{"Authorization": "Bearer {opaque}"}}', opaque), (f"headers = {{'Authorization': 'Token {hexes}'}}", hexes),
                (f'Authorization: Digest username="bob", realm="x", nonce="{m.some(20, HEX)}", response="{hexes}"', hexes), (f"Authorization: {opaque}", opaque),
                (f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA{m.some(16, string.ascii_uppercase)}/20240101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature={hexes}", hexes),
                (f"X-Auth-Token: {opaque}", opaque), (f"apikey: {opaque}", opaque), (f"Ocp-Apim-Subscription-Key: {m.some(32, HEX)}", ""), (f"X-Vault-Token: {opaque}", opaque),
                (f"Cookie: sessionid={opaque}; theme=dark", opaque), (f"Set-Cookie: sid={opaque}; Path=/; HttpOnly", opaque), (f"Cookie: a=b; JSESSIONID={hexes}", hexes),
                (f"curl -H 'Cookie: csrftoken={opaque}; lang=en' https://h", opaque), (f'"cookie": "auth_session={opaque}"', opaque),
            ) if value
        )  # fmt: skip
        at = m.some(4) + "@" + m.some(5) + "#1"
        yield from (
            Secret("connection", form, value)
            for form, value in (
                (f"postgresql://app:{p}@db.example.com:5432/app", p), (f"postgresql+asyncpg://app:{at}@db/app", at), (f"mysql+pymysql://root:{p}@10.0.0.5/x", p),
                (f"mongodb+srv://svc:{p}@cluster0.ab1cd.mongodb.net/?retryWrites=true", p), (f"redis://:{p}@cache:6379/0", p), (f"amqps://guest:{p}@mq:5671//", p),
                (f"Server=tcp:x.database.windows.net,1433;User ID=sa;Password={p};Encrypt=True", p), (f"Driver={{ODBC Driver 18}};Server=h;Uid=sa;Pwd={p};", p),
                (f"jdbc:mysql://h:3306/db?user=root&password={t}", t), (f"jdbc:sqlserver://h;user=sa;password={p};", p), (f"jdbc:oracle:thin:scott/{t}@//h:1521/x", t),
                (f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={m.some(86, ALNUM + '+/')}==;EndpointSuffix=core.windows.net", ""),
                (f"host=db user=app password={p} dbname=x", p), (f"machine api.example.com login bob password {p}", p), (f"machine h\n  login bob\n  password {p}\n", p),
                (f"db.example.com:5432:app:bob:{t}", t), (f"smtp://mailer:{p}@smtp.example.com:587", p), (f"Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={b64}", b64),
                (f"https://{m.some(32, HEX)}:{hexes[:32]}@sentry.io/42", hexes[:32]), (f"ftp://bob:{p}@files.example.com/x", p), (f"snowflake://bob:{p}@acct/db?warehouse=w", p),
            ) if value
        )  # fmt: skip
        yield from (
            Secret("file", form, value)
            for form, value in (
                (f"users:\n- name: admin\n  user:\n    client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVkt{t}\n    token: {opaque}\n", opaque),
                (f'resource "aws_db_instance" "x" {{\n  username = "app"\n  password = "{p}"\n}}', p), (f'provider "aws" {{\n  secret_key = "{t}"\n}}', t),
                (f'{{"auths": {{"h": {{"auth": "{b64}"}}}}}}', b64), (f"[default]\naws_access_key_id = AKIA{m.some(16, string.ascii_uppercase)}\naws_secret_access_key = {m.some(40, ALNUM + '/+')}\n", ""),
                (f"//registry.npmjs.org/:_authToken={t}", t), (f"apiVersion: v1\nkind: Secret\ndata:\n  password: {b64}\n", b64), (f"credentials: admin:{t}", t),
                (f"spring:\n  datasource:\n    username: app\n    password: {p}\n", p), (f"<connectionStrings><add name=\"x\" connectionString=\"Server=h;Password={p};\"/></connectionStrings>", p),
                (f"AKIA{m.some(16, string.ascii_uppercase)},{hexes[:8] + t[:32]}", hexes[:8] + t[:32]), (f"<entry key=\"password\">{t}</entry>", t), (f"PRIVATE_KEY={hexes}{m.some(24, HEX)}", hexes),
                (f"我的密码是{t[:10]}", t[:10]), (f"密码：{p}", p),
            ) if value
        )  # fmt: skip
    for label in ("RSA ", "", "EC ", "OPENSSH ", "ENCRYPTED ", "DSA "):
        body = "\n".join(m.some(64, ALNUM + "+/") for _ in range(8))
        pem = f"-----BEGIN {label}PRIVATE KEY-----\n{body}\n-----END {label}PRIVATE KEY-----"
        for text in (
            pem,
            json.dumps({"type": "service_account", "private_key": pem}),
            f"key: |\n  {pem.replace(chr(10), chr(10) + '  ')}",
            pem.replace("\n", "\\n"),
        ):
            yield Secret("private key", text, body[:64])


def personal(m: Maker) -> Iterator[Secret]:
    """What identifies people, telephone numbers aside."""
    rng = m.rng
    for mail in ("bob@example.com", "first.last+tag@post.example.co.uk", "li.wei@公司.cn", "用户@example.com", '"odd name"@example.com', "info@münchen.de",
                 "a.b@[192.168.1.4]", "josé.garcía@correo.es", "x_y-z@sub.domain.example.org", "почта@пример.рф", "o'brien@example.ie", "user@xn--bcher-kva.example",
                 "john(at)example.com", "jane [at] example [dot] com", "1234567@qq.com", "no-reply@mail.service.io", "用户@例子.中国"):  # fmt: skip
        for carrier in (
            "{}",
            "mail to {} please",
            "<{}>",
            "mailto:{}?subject=hi",
            "from:{}\n",
            "邮箱{}请联系",
            '{{"email": {j}}}',
            "({}),",
            "To: Bob <{}>",
            "contact={}&x=1",
            "email：{}。",
        ):
            yield Secret("email", carrier.format(mail, j=json.dumps(mail, ensure_ascii=False)), mail.strip('"'))
    for begin, length in (
        ("4", 16),
        ("51", 16),
        ("2221", 16),
        ("37", 15),
        ("6011", 16),
        ("62", 16),
        ("3528", 16),
        ("3005", 14),
        ("4", 13),
        ("62", 19),
        ("55", 16),
        ("34", 15),
    ):
        body = begin + m.digits(length - 1 - len(begin))
        total = sum(d if i % 2 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(map(int, reversed(body))))
        number = body + str(-total % 10)
        groups = ("4-6-5" if length == 15 else "4-6-4" if length == 14 else "4-4-4-4-4").split("-")
        at = 0
        parts = []
        for size in groups:
            parts.append(number[at : at + int(size)])
            at += int(size)
        parts = [part for part in parts if part]
        for sep in ("", " ", "-", ".", "\u00a0", "\u2013", "  ", " - "):
            shown = sep.join(parts)
            for carrier in ("{}", "card {} exp 12/29", "卡号：{}。", '{{"card": "{}"}}', "pay with {}, thanks"):
                yield Secret("card", carrier.format(shown), shown)
    from stdnum import iban, luhn  # noqa: F401

    for number in ("DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606", "NL91ABNA0417164300", "ES9121000418450200051332",
                   "IT60X0542811101000000123456", "CH9300762011623852957", "BE68539007547034", "PL61109010140000071219812874", "SA0380000000608010167519", "NO9386011117947"):  # fmt: skip
        for shown in (
            number,
            " ".join(number[i : i + 4] for i in range(0, len(number), 4)),
            "-".join(number[i : i + 4] for i in range(0, len(number), 4)),
        ):
            for carrier in ("{}", "IBAN: {} BIC DEUTDEFF", "账户{}。", '{{"iban": "{}"}}'):
                yield Secret("iban", carrier.format(shown), shown)
    for _ in range(20):
        base = f"{rng.choice(['110105', '440305', '310101', '500103'])}{rng.randint(1950, 2005)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}{rng.randint(1, 999):03}"
        check = "10X98765432"[
            sum(int(d) * w for d, w in zip(base, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), strict=True))
            % 11
        ]
        number = base + check
        for text in (
            f"身份证号{number}",
            f"id {number[:6]} {number[6:14]} {number[14:]}",
            f'{{"id_card": "{number}"}}',
            number,
        ):
            yield Secret("resident id", text, number if number in text else number[6:14])
        ssn = f"{rng.randint(1, 665):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"
        for text in (
            f"SSN {ssn}",
            f"my social security number is {ssn}",
            f'{{"ssn": "{ssn}"}}',
            f"SSN: {ssn.replace('-', ' ')}",
        ):
            yield Secret("ssn", text, ssn if ssn in text else ssn.replace("-", " "))
        yield Secret("passport", f"passport number {m.some(1, 'CEGHKLNPX')}{m.digits(8)}"[:-1] + "7", "")
        nino = f"{rng.choice(['AB', 'CE', 'JK', 'SR'])} {m.digits(2)} {m.digits(2)} {m.digits(2)} {rng.choice('ABCD')}"
        yield Secret("nino", f"NI number {nino}", nino)


def phones(m: Maker) -> Iterator[Secret]:
    """Numbers of every country, as their library writes them."""
    import phonenumbers as p

    cued = (
        "Please call me at {} tomorrow.",
        "Tel {}, thanks",
        "我的手机号是{}，谢谢",
        "联系电话：{}。",
        '{{"phone": "{}"}}',
        "Contact: {}",
        "WhatsApp {}",
        "Mobile: {}\nFax: none",
        "phone={}&x=1",
        "<phone>{}</phone>",
    )
    bare = ("{}", "reach out, {} works", "- {}", "号码 {}", "{} (office)")
    for region in sorted(p.SUPPORTED_REGIONS):
        for kind in (p.PhoneNumberType.MOBILE, p.PhoneNumberType.FIXED_LINE):
            if (number := p.example_number_for_type(region, kind)) is None:
                continue
            abroad = p.format_number(number, p.PhoneNumberFormat.INTERNATIONAL)
            for shown in (
                abroad,
                p.format_number(number, p.PhoneNumberFormat.E164),
                abroad.replace(" ", "-"),
                abroad.replace("+", "00"),
            ):
                carrier = m.rng.choice(cued if shown.startswith("00") else cued + bare)
                yield Secret("phone, foreign", carrier.format(shown), shown)
            national = p.format_number(number, p.PhoneNumberFormat.NATIONAL)
            if sum(map(str.isdigit, national)) >= 8:
                yield Secret("phone, national", m.rng.choice(cued).format(national), national)
    for form in (
        "({a}) {b}-{c}",
        "{a}-{b}-{c}",
        "{a}.{b}.{c}",
        "{a} {b} {c}",
        "+1 ({a}) {b}-{c}",
        "1-{a}-{b}-{c}",
        "+1{a}{b}{c}",
    ):
        for _ in range(6):
            shown = form.format(
                a=m.rng.choice(["415", "646", "212", "702", "312"]), b=f"{m.rng.randint(200, 999)}", c=m.digits(4)
            )
            yield Secret("phone, american", m.rng.choice(cued + bare).format(shown), shown)
    for form in ("1{a}", "1{a}", "+86 1{a}", "0086-1{a}", "+86-1{a}", "(+86) 1{a}"):
        for _ in range(6):
            a = m.rng.choice("3578") + m.digits(9)
            shown = form.format(a=a)
            yield Secret("phone, chinese", m.rng.choice(cued + bare).format(shown), a)
    for _ in range(12):
        for shown in (
            f"0{m.rng.choice(['10', '21', '755', '571'])}-{m.rng.randint(2, 8)}{m.digits(7)}",
            f"400-{m.rng.randint(200, 999)}-{m.digits(4)}",
        ):
            yield Secret("phone, landline", m.rng.choice(cued + bare).format(shown), shown)


def secrets(seed: int = 1) -> Iterator[Secret]:
    """All of them."""
    m = Maker(seed)
    for round_ in range(3):
        for maker, key in keys(m).items():
            for carrier in m.rng.sample(CARRIERS, 4):
                yield Secret("key", carrier(key), key)
            if round_ == 0:
                for name in SIMPLE:
                    yield Secret(
                        f"wrapped: {name}",
                        WRAPPERS[name](key),
                        key if key in WRAPPERS[name](key) else WRAPPERS[name](key)[-len(WRAPPERS[name](key)) // 2 :],
                    )
            if maker in ("openai", "github", "google", "aws"):
                for name, wrap in WRAPPERS.items():
                    yield Secret(
                        f"wrapped: {name}",
                        wrap(key),
                        key if key in wrap(key) else wrap(key)[len(wrap(key)) // 2 - 3 : len(wrap(key)) // 2 + 3],
                    )
    for other in (
        "4111 1111 1111 1111",
        "DE89370400440532013000",
        "13812345678",
        "+44 20 7946 0958",
        "bob@example.com",
    ):
        for name in SIMPLE:
            shown = WRAPPERS[name](other)
            yield Secret(
                f"wrapped: {name}", shown, other if other in shown else shown[len(shown) // 2 - 3 : len(shown) // 2 + 3]
            )
    yield from (one for one in named(m))
    yield from named_in_other_languages(m)
    yield from commands(m)
    yield from (one for one in personal(m) if one.secret)
    yield from phones(m)
    for _ in range(3):
        yield from (Secret(*one) for one in (*documents(m), *from_afar(m)))
