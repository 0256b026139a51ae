"""What is done with the sealing key: DKIM private keys are sealed with it, request bodies are fingerprinted with it.

The key is 32 random octets, as hexadecimal text in ``{home}/secrets/sealing.key``, the same on every machine of an
installation. Workers open what ``Sealer.seal`` makes, by the form in ``barua.policy.v1.DkimKey``.

Errors: ``OptionsError`` if the key file cannot be used. Values are immutable; any thread.
"""

import hmac
import os
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control import secrets
from mta.runtime.options import OptionsError

KEY_OCTETS = 32
NONCE_OCTETS = 12


class Sealer:
    """Seals with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        # A key of its own for each use.
        self._fingerprint_key = hmac.digest(key, b"barua request fingerprint", "sha256")

    def seal(self, private_key: bytes, tenant_id: str, domain: str, selector: str) -> bytes:
        """A DKIM private key, sealed for exactly this tenant, domain and selector: nonce, ciphertext, tag."""
        nonce = os.urandom(NONCE_OCTETS)
        return nonce + self._cipher.encrypt(nonce, private_key, f"{tenant_id}/{domain}/{selector}".encode())

    def fingerprint(self, content: bytes) -> bytes:
        """A keyed hash: tells contents apart, and tells nothing about them to somebody without the key."""
        return hmac.digest(self._fingerprint_key, content, "sha256")


def load(path: Path) -> Sealer:
    """A sealer with the key in ``path``, which is made if it is not there. Raises OptionsError."""
    key = bytes.fromhex(secrets.ensure(path, KEY_OCTETS))
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise OptionsError(f"{path} has mode {mode:04o}: others may read the key; run chmod 600 on it")
    return Sealer(key)
