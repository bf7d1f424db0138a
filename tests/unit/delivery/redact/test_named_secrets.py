"""Secrets that are told by the name before them, however far from it they stand."""

from __future__ import annotations

import pytest

from llmctx.delivery.redact import Redactor

redact = Redactor().redact


@pytest.mark.parametrize(
    "text",
    [
        "password={}", '"api_key": "{}"', "--token {}", "client_secret: {}", "password:\n{}",
        "<password>{}</password>",
        'AWS_SECRET_ACCESS_KEY="{}"', "db_password = '{}'", "name,value\napp_secret,{}\n", "API_KEY是{}，谢谢",
        '<input name="csrf_token" type="hidden" value="{}">', '<meta name="webhook-secret" content="{}">',
        'public string ApiKey {{ get; }} = "{}";', "root_password:{}@tcp(127.0.0.1:3306)/x", "auth_token -> {}",
        "api_key <- '{}'", "the client secret should be {} but it fails", "I changed my access key from x to {}",
        "use `{}` as bearer token", "**client secret**\n```\n{}\n```", "secret_key:\n  - {}\n", "auth_token: &x {}",
        '{{"token": {{"value": "{}"}}}}', "gh auth login --with-token <<< {}", '["X-API-Key","{}"]',
        "ssm put --name /auth_token --value {} --type x", "what is wrong with this API secret? {}",
        '{{\\\\\\"private_key\\\\\\":\\\\\\"{}\\\\\\"}}', "my db password ({}) was rejected",
        "mein API-Schlüssel lautet {}", "Geheimschlüssel: {}", "la clé d'API est {}", "jeton d'accès : {}",
        "chave da API: {}", "token de acceso: {}", "gizli anahtar: {}", "mật khẩu là {}", "токен доступа: {}",
        "アクセストークン：{}", "비밀 키: {}", "المفتاح السري: {}",
        "the client secret is: {}", "password for the guest wifi: {}", "Passwort für das WLAN: {}",
        "the root password has been set to {}",
        "the password you need is {}", "<input name='api_key' id=k required type=text value='{}'>",
        "Our API key, {}, was revoked",
        "authToken,{}AbCdEfGhIjKl", '${{env:API_KEY}}="{}"', "setx PARTNER_KEY {}", '["db_password", "{}!"]',
        '<td class="k">API key</td>\n  <td class="v"><code>{}</code></td>', 'name="password"\r\n\r\n{}\r\n',
        "DB password?\nA: it is {}",
        "秘钥是{}", "CREATE LOGIN app WITH PASSWORD = N'{}'", "api_key=SecretStr('{}')", 'token = b"{}"',
        "password: pa1x&{}",
        "process.env.API_KEY ||= '{}'", "API_KEY ?= {}", "config.token ??= '{}'", "passphrase of the ssh key: {}",
        "Ich habe das Passwort auf {} geändert", "contraseña a {}", "mot de passe en {}", "The wifi key is {}",
        "Der WLAN-Schlüssel ist {}",
    ],
)  # fmt: skip
def test_the_value_goes_and_the_name_stays(text: str) -> None:
    secret = "Zk9pQ2mL7xW1vB4tR5yU8i"
    shown = redact(text.format(secret))
    assert secret not in shown
    assert "[redacted:" in shown


@pytest.mark.parametrize(
    "text",
    [
        "password=os.environ['PW']", "token = get_token()", "the password is required", "max_tokens: 4096",
        "key: value", "f(api_key, someOtherVariable)", "password (at least 12 signs)", "password - step-two",
        "token,count\nabc,12", "keys: [a1, b2]", "key: value1234", "treat user123 as the password",
        "is this the key? item-12", "what is your password? abc",
        "password must be 8-64 characters long", "password: !vault |", "password: !secret wifi",
        "токенов: 4096", "ключ: user-profile-cache-entry", "token details: abcd1234",
        "second pass: 0.98", "pass: 12/13", "SET password = :password WHERE id = :id", "password = #{password}",
        "--secret id=npmrc,src=x",
        "le mot de passe en 2026", "Passwort auf Seite 12b", "token ?? 'none'",
        "密码长度为6-16位", "令牌有效期为3600秒", "密码修改时间：2026-11-30", "Пароль изменён 12.11.2026",
    ],
)  # fmt: skip
def test_code_and_prose_about_secrets_stay(text: str) -> None:
    assert redact(text) == text
