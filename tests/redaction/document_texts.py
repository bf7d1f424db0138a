"""Texts with the numbers of documents of many countries, and with secrets whose name or program stands further away."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import NamedTuple

from tests.redaction.maker import Maker

DOCUMENTS = {  # how a number is written ("#" a digit, "@" a capital) -> what stands before it
    "9##-7#-####": "ITIN {}", "### ### ####": "NHS number: {}", "###.###.###-##": "meu CPF é {}", "########@": "mi DNI es {}", "X#######@": "NIE: {}",
    "@@@P@####@": "PAN card number {}", "8### #### ####": "Aadhaar: {}", "S#######@": "NRIC {}", "12#########": "Steuer-ID: {}", "65 170839 J 003": "Sozialversicherungsnummer {}",
    "T@#######": "Personalausweisnummer {}", "#########": "BSN {}", "85.07.30-###.##": "NISS {}", "800101#####": "PESEL {}", "811218-####": "personnummer {}",
    "131052-###T": "henkilötunnus: {}", "010190-####": "CPR {}", "850101/####": "rodné číslo {}", "1800101######": "CNP {}", "1##########": "TC Kimlik No: {}",
    "############": "ИНН {}", "45## ######": "паспорт {}", "###-###-### ##": "СНИЛС {}", "### ### ###": "my TFN is {}", "8001015###08#": "ID number: {}",
    "GOME800101HDFRRR0#": "CURP {}", "GOME800101@#@": "RFC {}", "1#.###.###-#": "RUT {}", "20-########-#": "CUIT {}", "#-####-#####-##-#": "Thai ID {}",
    "800101-14-####": "MyKad {}", "3171############": "NIK {}", "001#########": "CCCD {}", "35202-#######-#": "CNIC {}", "756.####.####.##": "AHV-Nummer {}",
    "#######@A": "PPS number {}", "A#########": "身分證字號 {}", "@######(#)": "HKID: {}", "@########": "passport number: {}", "##@@#####": "passeport n° {}",
    "#### #### ####": "マイナンバー {}", "@#######": "driver's license {}", "1 85 05 78 006 084 36": "n° sécu {}", "A1B2C3D4E": "Reisepassnummer {}", "784-1980-#######-#": "Emirates ID {}",
    "RSSMRA85T10A562S": "codice fiscale {}", "021000021": "routing number {}", "###########": "bank account no. {}", "########0": "{} is my IRD number",
}  # fmt: skip
NAMES = [
    "Kennwort",
    "wachtwoord",
    "contraseña",
    "mdp",
    "senha",
    "hasło",
    "lösenord",
    "şifre",
    "heslo",
    "parola",
    "salasana",
    "adgangskode",
    "jelszó",
    "mật khẩu",
    "كلمة المرور",
    "סיסמה",
    "पासवर्ड",
    "รหัสผ่าน",
    "пароль",
    "パスワード",
    "비밀번호",
    "密码",
]
AFAR = (
    "INSERT INTO users (name, password) VALUES ('bob', '{p}');", 'CREATE USER x IDENTIFIED BY "{p}";', "secrets:\n  stripe: {t}\n", "{t} is the wallet private key",
    '{p} is my password', 'variable "db_password" {{\n  default = "{p}"\n}}', 'let secret: &str = "{t}";', "password: >-\n    {p}\n", "Set the env var OPENAI_API_KEY to {t}",
    "Login with bob / {p}", 'DriverManager.getConnection(url, "root", "{p}")', "user bob, pw {p}", "openssl enc -aes-256-cbc -k {p} -in f", "zip -P {p} x.zip f",
    "7z x a.7z -p{p}", "net use Z: \\\\srv\\share {p} /user:bob", "mosquitto_pub -u bob -P {p} -t x", "twine upload -u __token__ -p {t} dist/*", "vault login {t}",
    "echo 'bob:{p}' | chpasswd", "nmcli dev wifi connect net password {p}", "gh secret set KEY --body {t}", "recovery key: 040679-411000-435654-721056-863401-328494-904896-689345",
    "curl -u bob:'{p}' https://host", "creds are bob / {p}", "Zugangsdaten: bob / {p}", "passphrase of the ssh key: {p}", "The wifi key is {p}", "Der WLAN-Schlüssel ist {p}",
    "Ich habe das Passwort auf {p} geändert", "contraseña a {p}", "process.env.API_KEY ||= '{t}'", "API_KEY ?= {t}", "the li_at cookie is {t}", "-b 'connect.sid=s%3A{t}'",
    'key = "sk-proj-m8Qx2vT9kL4pZ7wR1c5Y" + "{t}"', "API_KEY=sk-proj-m8Qx2vT9kL4pZ7wR1c5Y\n{t}\n",
    'api_keys = ["{t}", "x"]', 'passwords: ["Winter2024", "{p}"]', "API_KEYS=m8Qx2vT9kL4pZ7wR1c,{t}", "tokens:\n  - m8Qx2vT9kL4pZ7wR1c\n  - {t}\n", "Passwords:\n1. Winter2024\n2. {p}",
    "| user | password |\n|---|---|\n| bob | {p} |", " id | api_key | n\n----+---------+---\n  1 | {t} | 2\n(1 row)", "+----+-----+\n| id | pwd |\n+----+-----+\n| 1 | {p} |\n+----+-----+", "| 用户 | 密码 |\n|:--|:--|\n| bob | {p} |",
)  # fmt: skip
PHRASE = "abandon ability able about above absent absorb abstract absurd abuse access accident"
PHONES = {
    "02 230 5742": "Ruf mich an: {}", "0123465425": "Appelez le {}", "8762148798": "Llámame al {}", "00994123198295": "{}", "00 48 512 397 986": "see {}", "022302651": "{} is my cell",
    "8 912 773-44-51": "номер телефона {}", "070-018 70 79": "Ring mig på {}", "521 049 976": "Zadzwoń: {}", "691 564 2572": "Κινητό: {}", "0812-6168-5039": "HP: {}",
}  # fmt: skip
LABELS = [
    "order number",
    "invoice number",
    "serial number",
    "article number",
    "part number",
    "Bestellnummer",
    "Rechnungsnummer",
    "Kundennummer",
    "número de pedido",
    "numéro de commande",
    "numero fattura",
    "ordernummer",
    "numer zamówienia",
    "номер заказа",
    "订单号",
    "运单号",
    "注文番号",
    "주문번호",
    "job id",
    "reference",
]
NUMBERS = (
    "########",
    "##########",
    "############",
    "###-#######",
    "#### ####",
    "2026-#####",
    "##/######",
    "@@@#######",
    "2026/##/####",
)


class Text(NamedTuple):
    kind: str
    text: str
    secret: str


def documents(m: Maker) -> Iterator[Text]:
    """Numbers of documents behind the word for them."""
    for form, carrier in DOCUMENTS.items():
        number = _number(m, form)
        yield Text("document", carrier.format(number), number)


def from_afar(m: Maker) -> Iterator[Text]:
    """Secrets with names of other languages, in statements and blocks, and behind options; words of a wallet; telephones."""
    for name in NAMES:
        for form in ("{}: {}", '"{}": "{}"', "{}:\n{}\n", "**{}**: `{}`"):
            value = m.password().replace("&", "x")
            yield Text("password, other languages", form.format(name, value), value)
    for form in AFAR:
        password, token = m.some(8) + m.digits(3) + "!", m.some(40)
        text = form.format(p=password, t=token)
        yield Text("named from afar", text, password if password in text else token if token in text else text[14:])
    yield Text("phrase", f"seed phrase: {PHRASE}", PHRASE)
    for number, carrier in PHONES.items():
        yield Text("phone, other notations", carrier.format(number), number)


def labelled(m: Maker) -> Iterator[tuple[str, str]]:
    """Numbers that are named, and no secret."""
    for label in LABELS:
        for form in NUMBERS:
            yield (
                "labelled number",
                m.rng.choice(["{}: {}", "{} {}", "| {} | {} |", '{{"{}": "{}"}}']).format(label, _number(m, form)),
            )


def _number(m: Maker, form: str) -> str:
    return "".join(
        m.digits(1) if sign == "#" else m.some(1, string.ascii_uppercase) if sign == "@" else sign for sign in form
    )
