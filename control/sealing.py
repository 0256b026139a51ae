"""What is done with the sealing keys: secrets that must be had again are sealed, request bodies are fingerprinted.

The keys are in ``{home}/secrets/sealing.key`` (``mta.runtime.keyring``), the same on every machine of an installation.
What is sealed begins with the id of its key, so that several keys can be in use while one takes the place of another:
new things are sealed with the newest, ``control.resealing`` seals the others anew. Workers open what ``Sealer.seal``
makes, by the form in ``barua.policy.v1.DkimKey``.

Fingerprints are made with the oldest key, so they stay the same until that is forgotten.

Errors: ``OptionsError`` if the key file cannot be used, ``ValueError`` for what cannot be opened. A changed key file is
noticed at the next use. One thread.
"""

import functools
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control import secrets
from mta.runtime.keyring import ID_OCTETS, KEY_OCTETS, KeyFile, key_id

VERSION = b"\x01"
"""First octet of what is sealed. What was sealed without a key id begins with a random one."""
NONCE_OCTETS = 12
TAG_OCTETS = 16


class Sealer:
    """Seals with the newest key and opens with all."""

    def __init__(self, file: KeyFile) -> None:
        self._file = file

    @property
    def mark(self) -> bytes:
        """What everything sealed with the newest key begins with."""
        return VERSION + key_id(self._file.ring().sealing)

    def seal(self, secret: bytes, tenant_id: str, kind: str, name: str) -> bytes:
        """A secret, sealed for exactly this use: of a DKIM key, ``kind`` is the domain and ``name`` the selector."""
        sealing = self._file.ring().sealing
        nonce = os.urandom(NONCE_OCTETS)
        return VERSION + key_id(sealing) + nonce + AESGCM(sealing).encrypt(nonce, secret, _about(tenant_id, kind, name))

    def open(self, sealed: bytes, tenant_id: str, kind: str, name: str) -> bytes:
        """What ``seal`` was given for the same three. Raises ValueError if it cannot be opened."""
        start = len(VERSION) + ID_OCTETS
        keys = self._file.keys()
        marked = keys.get(sealed[len(VERSION) : start]) if sealed.startswith(VERSION) else None
        attempts = [(marked, sealed[start:])] if marked is not None else []
        about = _about(tenant_id, kind, name)
        for key, content in (*attempts, *((key, sealed) for key in keys.values())):
            if len(content) <= NONCE_OCTETS + TAG_OCTETS:
                continue
            try:
                return AESGCM(key).decrypt(content[:NONCE_OCTETS], content[NONCE_OCTETS:], about)
            except InvalidTag:
                continue
        raise ValueError(f"what is sealed for {about.decode()} cannot be opened with the keys that are here")

    def fingerprint(self, content: bytes) -> bytes:
        """A keyed hash: tells contents apart, and tells nothing about them to somebody without the key."""
        return hmac.digest(_fingerprint_key(self._file.ring().oldest), content, "sha256")


def load(path: Path) -> Sealer:
    """A sealer with the keys in ``path``, which is made if it is not there. Raises OptionsError."""
    secrets.make(path, KEY_OCTETS)
    return Sealer(KeyFile(path))


@functools.lru_cache(maxsize=1)
def _fingerprint_key(oldest: bytes) -> bytes:
    """A key of its own for each use."""
    return hmac.digest(oldest, b"barua request fingerprint", "sha256")


def _about(tenant_id: str, kind: str, name: str) -> bytes:
    return f"{tenant_id}/{kind}/{name}".encode()
