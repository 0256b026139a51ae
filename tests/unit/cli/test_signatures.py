"""DKIM in the inbox: messages signed by dkimpy, keys as control tells them."""

import base64

import dkim
import nacl.signing
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from barua_client import Unreachable
from control.demo.signatures import Keys, signatures, verify

MESSAGE = b"From: a@demo.test\r\nTo: b@example.com\r\nSubject: hello\r\n\r\nbody\r\n"


@pytest.fixture(scope="module")
def signed() -> tuple[bytes, dict[str, str]]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    seed = nacl.signing.SigningKey.generate()
    message = dkim.sign(MESSAGE, b"r1", b"demo.test", pem) + MESSAGE
    message = (
        dkim.sign(message, b"e1", b"demo.test", base64.b64encode(bytes(seed)), signature_algorithm=b"ed25519-sha256")
        + message
    )
    records = {
        "r1._domainkey.demo.test": f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}",
        "e1._domainkey.demo.test": f"v=DKIM1; k=ed25519; p={base64.b64encode(bytes(seed.verify_key)).decode()}",
    }
    return message, records


def test_both_signatures_pass(signed: tuple[bytes, dict[str, str]]) -> None:
    assert verify(*signed) == [
        {"domain": "demo.test", "selector": "e1", "algorithm": "ed25519-sha256", "result": "pass"},
        {"domain": "demo.test", "selector": "r1", "algorithm": "rsa-sha256", "result": "pass"},
    ]


def test_a_changed_body_fails_with_a_reason(signed: tuple[bytes, dict[str, str]]) -> None:
    message, records = signed
    results = verify(message.replace(b"body", b"b0dy"), records)
    assert [result["result"] for result in results] == ["fail", "fail"]
    assert all(result["detail"] for result in results)


def test_an_unknown_key_fails(signed: tuple[bytes, dict[str, str]]) -> None:
    message, records = signed
    only = {"r1._domainkey.demo.test": records["r1._domainkey.demo.test"]}
    assert [result["result"] for result in verify(message, only)] == ["fail", "pass"]


def test_no_signature_no_result() -> None:
    assert verify(MESSAGE, {}) == []


@pytest.mark.parametrize("field", [b"DKIM-Signature: \xff\xfe", b"DKIM-Signature:", b"DKIM-Signature: b=;;=;s"])
def test_nonsense_fails_quietly(field: bytes) -> None:
    (result,) = verify(field + b"\r\n" + MESSAGE, {})
    assert result["result"] == "fail"


def test_tags_are_read_from_folded_fields() -> None:
    field = b"DKIM-Signature: v=1; a=rsa-sha256; d=demo.test;\r\n\ts=r1; h=from:\r\n\tto; b=aa\r\n bb\r\n"
    assert signatures(field + MESSAGE) == [
        {"v": "1", "a": "rsa-sha256", "d": "demo.test", "s": "r1", "h": "from:to", "b": "aabb"}
    ]


async def test_keys_are_fetched_once_and_when_control_is_away_later(signed: tuple[bytes, dict[str, str]]) -> None:
    calls = 0
    away = True

    async def fetch() -> dict[str, str]:
        nonlocal calls
        calls += 1
        if away:
            raise Unreachable("127.0.0.1:1", "refused")
        return signed[1]

    keys = Keys(fetch)
    assert await keys.for_message(signed[0]) is None
    away = False
    assert await keys.for_message(signed[0]) == signed[1]
    assert await keys.for_message(signed[0]) == signed[1]
    assert calls == 2
    assert await keys.for_message(MESSAGE) == signed[1]
    assert calls == 2
