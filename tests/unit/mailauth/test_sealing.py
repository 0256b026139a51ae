"""Sealed DKIM keys open for the one they were sealed for, and for nobody else."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mta.mailauth.sealing import SealError, open_sealed

KEY = bytes(range(32))
SECRET = b"a private key in PKCS #8"
NONCE = b"123456789012"
SEALED = NONCE + AESGCM(KEY).encrypt(NONCE, SECRET, b"t1/demo.test/s1")


def test_it_opens() -> None:
    assert open_sealed(KEY, SEALED, "t1", "demo.test", "s1") == SECRET


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
        (KEY, SEALED[:28], "t1", "demo.test", "s1"),
        (KEY, b"", "t1", "demo.test", "s1"),
    ],
)
def test_it_stays_shut_and_tells_no_secret(key: bytes, sealed: bytes, tenant: str, domain: str, selector: str) -> None:
    with pytest.raises(SealError) as caught:
        open_sealed(key, sealed, tenant, domain, selector)
    text = str(caught.value)
    assert f"the DKIM key {selector} of {domain} (tenant {tenant}) cannot be opened" in text
    for secret in (SECRET, KEY, SEALED):
        assert secret.hex() not in text
        assert repr(secret) not in text
    assert caught.value.__cause__ is None
