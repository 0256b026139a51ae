"""Sealed DKIM keys open for the one they were sealed for, and for nobody else."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mta.mailauth.sealing import SealError, open_sealed

KEY = bytes(range(32))
SECRET = b"a private key in PKCS #8"
NONCE = b"123456789012"
ID = b"\x11\x22\x33\x44"
OLD = NONCE + AESGCM(KEY).encrypt(NONCE, SECRET, b"t1/demo.test/s1")
SEALED = b"\x01" + ID + OLD


@pytest.mark.parametrize("sealed", [SEALED, OLD])
@pytest.mark.parametrize("keys", [{ID: KEY}, {b"zero": bytes(32), ID: KEY}, {ID: KEY, b"zero": bytes(32)}])
def test_it_opens(keys: dict[bytes, bytes], sealed: bytes) -> None:
    assert open_sealed(keys, sealed, "t1", "demo.test", "s1") == SECRET


def test_an_old_one_that_looks_like_a_new_one_opens() -> None:
    nonce = b"\x01" + ID + NONCE[5:]
    sealed = nonce + AESGCM(KEY).encrypt(nonce, SECRET, b"t1/demo.test/s1")
    assert open_sealed({ID: KEY}, sealed, "t1", "demo.test", "s1") == SECRET


@pytest.mark.parametrize(
    ("key", "sealed", "tenant", "domain", "selector"),
    [
        (bytes(32), SEALED, "t1", "demo.test", "s1"),
        (KEY[:16], SEALED, "t1", "demo.test", "s1"),
        (b"", SEALED, "t1", "demo.test", "s1"),
        (KEY, SEALED, "t2", "demo.test", "s1"),
        (KEY, SEALED, "t1", "evil.test", "s1"),
        (KEY, SEALED, "t1", "demo.test", "s2"),
        (KEY, SEALED[:-1], "t1", "demo.test", "s1"),
        (KEY, SEALED[:-1] + bytes([SEALED[-1] ^ 1]), "t1", "demo.test", "s1"),
        (KEY, bytes([SEALED[0] ^ 1]) + SEALED[1:], "t1", "demo.test", "s1"),
        (KEY, SEALED[:33], "t1", "demo.test", "s1"),
        (KEY, OLD[:28], "t1", "demo.test", "s1"),
        (bytes(32), OLD, "t1", "demo.test", "s1"),
        (KEY, b"", "t1", "demo.test", "s1"),
    ],
)
def test_it_stays_shut_and_tells_no_secret(key: bytes, sealed: bytes, tenant: str, domain: str, selector: str) -> None:
    with pytest.raises(SealError) as caught:
        open_sealed({ID: key}, sealed, tenant, domain, selector)
    text = str(caught.value)
    assert f"the DKIM key {selector} of {domain} (tenant {tenant}) cannot be opened" in text
    for secret in (SECRET, KEY, SEALED):
        assert secret.hex() not in text
        assert repr(secret) not in text
    assert caught.value.__cause__ is None


def test_without_keys_it_stays_shut() -> None:
    with pytest.raises(SealError):
        open_sealed({}, SEALED, "t1", "demo.test", "s1")
