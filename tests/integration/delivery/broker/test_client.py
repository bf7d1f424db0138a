"""The connection to a broker is encrypted where that is wanted, and says in a sentence what is wrong."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmctx.delivery.broker.client import BrokerConnection, BrokerUnavailable
from llmctx.settings.transport_url import parse_transport
from tests.kit.brokers import Brokers, brokers

pytestmark = pytest.mark.timeout(600)


def write_certificate(folder: Path, host: str) -> None:
    """Write a certificate for `host` that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a broker of tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Brokers]:
    """A broker that speaks TLS alone, with users."""
    tls = f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}'
    made = Brokers(settings=f'{tls}\nauthorization {{ user: app, password: "hunter2" }}')
    write_certificate(tmp_path, made.all[0].host)
    try:
        yield made.start()
    finally:
        made.remove()


def connect(url: str) -> str:
    """Connect, and ask something. Return nothing, or the sentence that says why not."""

    async def run() -> str:
        connection = BrokerConnection(parse_transport(url), connect_s=30, timeout_s=30)
        try:
            await connection.open()
            await connection.jetstream.account_info()
        except BrokerUnavailable as problem:
            return str(problem)
        else:
            return ""
        finally:
            await connection.close()

    return asyncio.run(run())


def test_a_certificate_is_believed_that_was_named(encrypted: Brokers, tmp_path: Path) -> None:
    """Another one is not, nor is a password shown that is wrong."""
    server = encrypted.url.partition("://")[2]
    assert connect(f"tls://app:hunter2@{server}?ca={tmp_path}/cert.pem") == ""
    assert "certificate" in connect(f"tls://app:hunter2@{server}")
    refused = connect(f"tls://app:hunter3@{server}?ca={tmp_path}/cert.pem")
    assert "authorization" in refused.lower()
    assert "hunter3" not in refused


def test_no_word_is_said_to_a_broker_that_does_not_encrypt(tmp_path: Path) -> None:
    """Whoever stands between may have struck the encryption out: the password would be told."""
    with brokers() as server:
        assert "secure" in connect(f"tls://app:hunter2@{server.url.partition('://')[2]}").lower()
        assert connect(server.url) == ""


def test_another_server_is_taken_for_one_that_is_away() -> None:
    """Only when none is there, that is said, with the servers and without users."""
    with brokers() as server:
        away = "nats://127.0.0.1:9"
        assert connect(f"{away},{server.url}") == ""
        assert "nats://127.0.0.1:9" in connect("nats://app:hunter2@127.0.0.1:9")
        assert "hunter2" not in connect("nats://app:hunter2@127.0.0.1:9")


def a_key(prefix: int) -> tuple[nkeys.KeyPair, bytes, str]:
    """Return a new key of NATS, its seed, and its public name."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    key = nkeys.from_seed(bytearray(seed))
    return key, bytes(seed), key.public_key.decode()


def signed(key: nkeys.KeyPair, subject: str, kind: str, **claims: object) -> str:
    """Return a JWT as NATS has them."""
    body = {"jti": "x", "iat": 1, "iss": key.public_key.decode(), "sub": subject, "name": kind}
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {**claims, "type": kind, "version": 2}})
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{text}.{base64.urlsafe_b64encode(key.sign(text.encode())).decode().rstrip('=')}"


def test_a_credentials_file_opens_the_door(tmp_path: Path) -> None:
    """As NATS's own tools write it; without it the door stays shut."""
    (operator, _, operator_name) = a_key(nkeys.PREFIX_BYTE_OPERATOR)
    (account, _, account_name) = a_key(nkeys.PREFIX_BYTE_ACCOUNT)
    (_, _, system) = a_key(nkeys.PREFIX_BYTE_ACCOUNT)
    (_, seed, user_name) = a_key(nkeys.PREFIX_BYTE_USER)
    limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1,
              "wildcards": True, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}  # fmt: skip
    may = signed(operator, account_name, "account", limits=limits)
    user = signed(account, user_name, "user", subs=-1, data=-1, payload=-1, pub={}, sub={})
    creds = tmp_path / "app.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    settings = (
        f"operator: {signed(operator, operator_name, 'operator')}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account_name}: {may}\n{system}: {signed(operator, system, 'account', limits={})} }}\n"
        f"system_account: {system}"
    )
    with brokers(settings=settings) as server:
        assert connect(f"{server.url}?creds={creds}") == ""
        assert "authorization" in connect(server.url).lower()
