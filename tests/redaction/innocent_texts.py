"""Texts that hold no secret, and look as if they did: what must stay as it is. The same ones each time."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from tests.redaction.document_texts import labelled
from tests.redaction.maker import HEX, Maker


class Innocent(NamedTuple):
    kind: str
    text: str


PROSE = """The quick brown fox, in 2024, saw well-established results (see Table 3, pp. 112-119).
Meet at 10:30 on 2024-01-02, room 3.14; 1,234,567 people; 99.95 %.
Forgot your password? Choose a new one: it must have at least 12 characters, a digit and a sign.
The password is required and must not be shared. Password is too short. Password: must contain 8 characters.
A token is a piece of text; the model reads 128000 tokens. Token: a unit of text. Tokens are words.
The key is to listen. Key: see legend. Primary key: id. The secret is out. A secret is best kept by three.
Press any key to continue. The API key is missing. Your API key is invalid. Set the API key in settings.
今天是2024年1月2日，订单号 20240102123456789，共 3 件，合计 1234.56 元。
密码不能为空。密码是必填项。请输入密码：。忘记密码？密钥管理服务。令牌已过期。
Call me Ishmael. Contact us for details. Call 911 in an emergency. Text me when you are there. Ring twice.
The phone costs 1299 dollars and weighs 206 grams. The number 1729 is interesting. My number is up.
He lives at 1600 Pennsylvania Avenue, Washington, DC 20500. Flight BA 0117, gate 22, seat 14C, 08:35.
Basic authentication sends a user name and a password. Bearer tokens authorize requests. Cookies: accept all?
the card has 16 digits, the number of the house is 12, the IBAN begins with two letters
support ticket #12345678 was closed; invoice 2024-000123; PO 4500012345; RMA-2024-5567; SKU 8806090-123
Score: 3-2-4 after 90 minutes. Ratio 16:9. Chapter 12-34-5678? No: 12:34, 56-78.
Version 1.2.3-beta.4+build.20240102, chrome/120.0.6099.129, kernel 5.15.0-91-generic, python 3.12.1
DOI 10.1038/s41586-021-03819-2, ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 2049-3630, arXiv:2401.12345v2
ISO 8601: 2024-01-02T10:20:30.123456+00:00, 20240102T102030Z, epoch 1704189630, 1704189630123, 1704189630123456
EAN 4006381333931, UPC 036000291452, VIN 1HGCM82633A004352, IMEI unknown, MAC 00:1a:2b:3c:4d:5e, 00-1A-2B-3C-4D-5E
coordinates 37.7749295, -122.4194155; 52.5200066° N, 13.404954° E; (48.858370, 2.294481)
$1,299.00 + €450.50 = 1.749,50; ¥12,345,678; USD 1 000 000; 1.234.567,89; 12 345 678 people; 1'234'567
127.0.0.1 10.0.0.1:8080 192.168.100.200 2001:db8::ff00:42:8329 255.255.255.0 172.16.254.1/24
E = mc^2, $\\alpha_{12} = \\frac{1}{2}\\sum_{i=0}^{100} x_i^{2}$, \\textbf{12345}, \\cite{smith2024a}, \\num{1234567890}
3.14159265358979323846 2.718281828459045 1.6180339887498949 0.00001234567890 -1.4111111111111111e10 6.02214076e23
gpt-4o-mini-2024-07-18 claude-sonnet-4-5-20250929 text-embedding-3-large ft:gpt-3.5:org::7p4lURel
call_abc123DEF456ghi789JKL012 chatcmpl-9abcDEF123ghiJKL456mno789 toolu_01A09q90qw90lq917835lq9 run-1 msg_01XFDUDYJgAACzvnptvVoYEL
sk-cube-grid-animation sk-cubeGridScaleDelay sk-foldCubeAngle sk-folding-cube risk-assessment-methodology task-oriented-dialogue key-value-store-12
npm i @scope/name@1.2.3 icon@2x.png git clone git@github.com:langchain-ai/langgraph.git pip install llmctx==0.4.1
@app.get('/x') @pytest.mark.parametrize("a", [1]) self.weights@other.T user@ @user @2024 a@b (x@y) A @ B
postgresql://localhost:5432/app https://example.com:8443/path?x=1#frag https://user@host/ redis://cache:6379/0
https://en.wikipedia.org/wiki/Large_language_model_(2023)?action=edit&section=12 https://youtu.be/dQw4w9WgXcQ?t=42
SELECT id, password_hash FROM users WHERE token IS NULL AND key = 'theme' LIMIT 10; -- 12 rows
ALTER USER app PASSWORD NULL; GRANT SELECT ON t TO app; CREATE INDEX ix_token_key ON t (token, key);
primary_key: user_1234567890 cache_key=session:1234567 idempotency-key partition_key: 2024-01-01 sort_key=42
page_token=CAUQAA next_token: null max_tokens=4096 total_tokens: 123456789 prompt_tokens: 12345678 eos_token: </s>
token_type: bearer, token_count: 12, tokenizer: cl100k_base, key_id: 7, keyboard: us, keyword: foo, keystone: v3
secretKeyRef: app-secrets-v2 secretName: tls-prod-2024 secret: my-app-secret imagePullSecrets: regcred-2
token: invalid_grant_error_2 error: token_expired reason: secret_not_found code: password_reset_required_1
password is required12, secret_key_base_length: 1234567890ab, password_min_length: 12, passwordless: true
password: string(64) password: <your password> password: ******** password: ${DB_PASSWORD} password: {{ vault_pw }}
token: Optional[str] = None; api_key=os.environ["OPENAI_API_KEY"]; secret = config.get("secret"); key = sha256(data)
OPENAI_API_KEY=<your-key> API_KEY=$API_KEY TOKEN=%TOKEN% SECRET=changeme key=value token=null secret=none
Authorization: Bearer <token> Authorization: Bearer $TOKEN Authorization: required authorization: role-based
-u 1000:1000 docker run -p 8080:80 -u root:root mkdir -p a/b curl -sSL https://example.com ssh -p 2222 host
Set-Cookie: theme=dark; Path=/ Cookie: lang=en cookie_policy: strict cookies: yes; cookie: accept
ETag: "33a64df551425fcc55e4d42a148795d9f25f89d4" If-None-Match: W/"0815" X-Request-Id: 7f3b8a2c-1d4e-4f5a-9b6c-8d7e6f5a4b3c
line 1234, in <module> File "/usr/lib/python3.12/site-packages/x/y.py", line 567, in f: KeyError: 'token'
0x7fff5fbff8c0 0xDEADBEEF 0b101010 0o755 1e-12 NaN -0.0 1_000_000 0xffffffffffffffff
pod/web-7d4f8b9c6d-x2x5k default-token-abc12 node-10-0-12-34.ec2.internal job-20240102-103000-9f8e7 svc.cluster.local
i-0abcd1234efgh5678 vol-049df61146c4d7901 arn:aws:iam::123456789012:role/app subnet-0bb1c79de3EXAMPLE sha256:e3b0c44298fc
2024-01-02 10:20:30,123 INFO [main-12] c.e.App - took 1234567 us, rows=12345678, id=1234567890, status 200
Jan  2 10:20:30 host sshd[12345]: Accepted publickey for bob from 10.0.0.1 port 54321 ssh2: RSA SHA256:abcDEF0123456789abcDEF0123456789abcDEF01234
10.0.0.1 - - [02/Jan/2024:10:20:30 +0000] "GET /api/v1/items/12345678 HTTP/1.1" 200 5123 "-" "Mozilla/5.0"
ORD13812345678X inv-100000000000000000012 part 4111-1111-1111-1112 serial C02XK0AAJG5H ref 20240102-0001-0002
tracking 1Z999AA10123456784, RA123456785US, 9400 1000 0000 0000 0000 00; container MSKU1234565; booking ABC123
150 2000 3500 1200 138 1234 5678 9012; 12 34 56; 100-200-300; 1-2-3-4-5-6-7; 2023/2024; 24/7; 1/2/3
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqk bob; -----BEGIN CERTIFICATE-----; -----BEGIN PUBLIC KEY-----
ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 abcdefghijklmnopqrstuvwxyz AA0000000000000000 DE00370400440532013000
gene ENSG00000139618, CAS 7732-18-5, ATC N02BE01, PMID 31452104, NCT04280705, rs1234567, chr7:55019017-55211628
IPv4 header 4500 003c 1c46 4000 4006 b1e6 ac10 0a63; crc 0xcbf43926; md5sum ok; uuid4 is random
#ff5733 #1a2b3c rgba(12, 34, 56, 0.78) 1920x1080 300dpi 16bit 48kHz 5G NR n78 3300-3800 MHz
LIKE '%40%', '%-10s %3d', 100%25, %20 is a space, \\d{3}-\\d{4}, ^[A-Z]{2}\\d{2}$, \\u4f60\\u597d \\x41
""".strip().splitlines()


def innocent(seed: int = 2) -> Iterator[Innocent]:
    """All of them."""
    m = Maker(seed)
    rng, some, digits = m.rng, m.some, m.digits
    for line in PROSE:
        yield Innocent("line", line)
        yield Innocent("line, in JSON", json.dumps({"role": "user", "content": line}))
        yield from (Innocent("sentence", part) for part in line.split(". ") if len(part) > 8)
    for _ in range(40):
        word, other, number = rng.choice(WORDS), rng.choice(WORDS), rng.randint(1, 999)
        raw = rng.randbytes(rng.choice([16, 20, 32, 48]))
        stamp = f"20{rng.randint(10, 30)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        hour = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
        forms = {
            "order": [f"order {digits(12)} shipped", f"Order number: {digits(10)}", f"订单号：{digits(16)[:-1]}", f"order #{digits(8)}-{digits(3)}", f"PO-{digits(8)}", f"invoice INV-{digits(4)}-{digits(6)}"],
            "hash": [raw.hex(), f"md5: {hashlib.md5(raw).hexdigest()}", f"commit {hashlib.sha1(raw).hexdigest()}", f"sha256:{hashlib.sha256(raw).hexdigest()}", f"sha512-{base64.b64encode(hashlib.sha512(raw).digest()).decode()}", f"checksum={hashlib.md5(raw).hexdigest()}"],
            "uuid": [m.uuid(), f"request_id={m.uuid()}", f'{{"id": "{m.uuid()}", "run_id": "{uuid.UUID(bytes=raw[:16])}"}}', f"user {m.uuid()} logged in", m.uuid().upper()],
            "time": [f"{stamp}T{hour}.{digits(6)}Z", f"{stamp} {hour}", f"ts={rng.randint(1500000000, 1900000000)}", f"{rng.randint(1500000000000, 1900000000000)}", f"at {rng.randint(1500000000, 1900000000)}.{digits(6)}", stamp.replace("-", "") + hour.replace(":", "")],
            "number": [str(rng.random() * 1000), f"[{rng.random()}, {rng.random()}, {-rng.random()}]", f"{rng.randint(10**6, 10**9):,}", f"{rng.uniform(-90, 90):.7f}, {rng.uniform(-180, 180):.7f}", f"${rng.randint(1, 10**6)}.{digits(2)}", f"{rng.randint(10**6, 10**7)} rows"],
            "base64": [f"data:image/png;base64,{base64.b64encode(rng.randbytes(300)).decode()}", base64.b64encode(rng.randbytes(120)).decode(), f'{{"type": "image", "data": "{base64.b64encode(rng.randbytes(200)).decode()}"}}'],
            "kubernetes": [f"pod/{word}-{some(10, 'bcdfghjklmnpqrstvwxz2456789')}-{some(5, 'bcdfghjklmnpqrstvwxz2456789')}", f"secretName: {word}-{other}-tls", f"name: {word}-token-{some(5, HEX)}", f"secret: {word}-{other}-v{number}", f"configmap/{word}-{some(10, HEX)} created", f"secretKeyRef:\n  name: {word}-db\n  key: password"],
            "code": [f"{word}_token = get_token({word}_id)", f"const {word}Key = `{word}:${{id}}`;", f"self.{word}_key = {word}_key_{number}", f"password = input('{word}: ')", f"if token == '{word}': return {number}", f"tokens[{number}] = {word}.key", f'key="{word}.{other}.title"', f"def {word}(password: str, token: str = '') -> None:", f"api_key: str = Field(default='', alias='{word}_api_key')", f"<input type=\"password\" name=\"{word}\" id=\"pwd{number}\">", f"assert {word}.secret is not None", f"token = tokenizer.eos_token_id  # {number}"],
            "version": [f"{rng.randint(0, 20)}.{rng.randint(0, 99)}.{rng.randint(0, 9999)}", f"{word}=={rng.randint(0, 9)}.{number}.0rc1", f"{word}:v{rng.randint(1, 9)}.{number}.{number}-{some(7, HEX)}", f"build {stamp.replace('-', '')}.{number}"],
            "address": [f"{rng.randint(1, 254)}.{rng.randint(0, 254)}.{rng.randint(0, 254)}.{rng.randint(1, 254)}", f"10.0.{rng.randint(0, 254)}.{rng.randint(1, 254)}:{rng.randint(1024, 65535)}", ":".join(some(4, HEX) for _ in range(8)), ":".join(some(2, HEX) for _ in range(6))],
            "book": [f"ISBN 978-{rng.randint(0, 9)}-{digits(2)}-{digits(6)}-{rng.randint(0, 9)}", f"ISBN-10: {rng.randint(0, 9)}-{digits(3)}-{digits(5)}-{rng.randint(0, 9)}", f"doi:10.{digits(4)}/{word}.{digits(6)}", f"arXiv:{digits(4)}.{digits(5)}", f"EAN {digits(13)}"],
            "log": [f"{stamp} {hour},{digits(3)} INFO [{word}-{number}] took {digits(6)} us, id={digits(9)}", f"{hour} {word}[{digits(5)}]: key={word} hits={digits(7)} token_count={number}", f"level=info ts={stamp}T{hour}Z msg=\"{word} done\" key={word}/{other} size={digits(8)}", f"GET /api/{word}/{digits(8)}?page={number} 200 {digits(4)}", f"WARN {word}: password check failed for user {word}{number}", f"ERROR 401 token expired at {stamp}T{hour}Z user={word}"],
            "row": [",".join([digits(10), digits(12), f"{digits(3)}.{digits(2)}", word]), "\t".join(digits(rng.randint(4, 11)) for _ in range(6)), "|".join([digits(9), word, stamp, digits(7)]), f"{digits(4)} {digits(4)} {digits(3)}", f"{digits(3)},{digits(3)},{digits(3)}"],
            "named, but plain": [f"key: {word}", f"token: {word}_{other}", f"password: {rng.choice(['required', 'none', 'null', 'true', 'hidden', 'string'])}", f"secret = {word}.{other}", f"api_key = settings.{word}_api_key", f"key={word}-{number}", f"token={word.upper()}_TOKEN", f"cache key {word}:{other}:{digits(6)}", f"sort key {digits(8)}", f"credentials: {word}", f"auth: {rng.choice(['basic', 'oauth2', 'none', 'required'])}", f"session key {word}", f"the {word} key is {other}", f"public_key: {base64.b64encode(rng.randbytes(32)).decode()}", f"key: {hashlib.md5(raw).hexdigest()}"],
            "figures": [f"error code: {digits(6)}", f"exit code is {number}", f"the zip code is {digits(5)}", f"HP: {digits(4)}", f"the {word} cookie is {other}", f"Kapitel {number} auf Seite {number}", f"creds are read from {word}", f"const {word} = '{other}' + '{word}{number}';"],
            "table": [f"| Key | Value |\n|---|---|\n| {word} | {other}{number} |", f"| model | tokens | cost |\n|---|---|---|\n| {word} | {digits(6)} | 0.{digits(4)} |", f"| Column | Primary key | Foreign key |\n|---|---|---|\n| {word}_id | yes | {other}.id |", f" id | password_changed_at | token_count \n----+----+----\n {number} | {stamp} {hour} | {digits(5)}\n(1 row)", f"| Endpoint | Auth token | Password |\n|---|---|---|\n| /{word}/{number} | required | optional |", f"| Shortcut key | Action |\n|---|---|\n| Ctrl+{number} | {word} |", f"| suite | pass | fail |\n|---|---|---|\n| {word} | {number}/999 | 0.5% |", f'tokens = ["{word}", "{other}{number}"]', f'secrets = ["{word}-{other}", "{word}-tls-{number}"]', f"keys: ['{word}:{other}:{number}', '{other}/{stamp}']", f"Passwords:\n- at least {number} signs\n- no {word}", f"tokens:\n- {word}\n- {other}-{number}\n"],
            "id": [f"call_{some(24)}", f"chatcmpl-{some(29)}", f"toolu_{some(22)}", f"thread_{some(24)}", f"req_{some(24, HEX)}", f"{word}_{some(12, HEX)}", f"prod_{some(14)}", f"price_1{some(23)}", f"cus_{some(14)}", f"run-{m.uuid()}", f"msg_{some(24)}", f"asst_{some(24)}", f"file-{some(22)}"],
            "card-like": [f"8{digits(15)}", f"1{digits(15)}", f"ref {digits(4)}-{digits(4)}-{digits(4)}", f"{digits(20)}", f"{digits(24)}"],
            "phone-like": [f"item {digits(3)}-{digits(3)}", f"case {digits(2)}-{digits(5)}", f"zip {digits(5)}-{digits(4)}", f"model {word}-{digits(4)}-{digits(2)}", f"dial {rng.randint(1, 9)} for {word}", f"call number {digits(3)}.{digits(2)} {word}", f"contact {word} {digits(4)}", f"phone model {word} {digits(4)}", f"{digits(4)}/{digits(2)}/{digits(2)}"],
        }  # fmt: skip
        for kind, texts in forms.items():
            yield from (Innocent(kind, text) for text in texts)
    yield from (Innocent(*one) for one in labelled(m))


WORDS = [
    "alpha",
    "billing",
    "cache",
    "delta",
    "engine",
    "folder",
    "gateway",
    "harbor",
    "index",
    "journal",
    "kernel",
    "ledger",
    "market",
    "network",
    "orders",
    "payments",
    "queue",
    "report",
    "search",
    "tenant",
    "upload",
    "vector",
    "worker",
    "archive",
    "backend",
    "cluster",
    "dispatch",
    "events",
    "frontend",
]
