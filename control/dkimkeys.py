"""DKIM key pairs: RSA-2048 and Ed25519, made with ``cryptography``.

RSA takes 50 to 300 ms of CPU, so it is made in a thread.
"""

import asyncio
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from control.model.apikeys import random_name

RSA_BITS = 2048
"""RFC 8301 §3.2: at least 1024, should be 2048; more does not fit one UDP answer."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair. ``public_key`` is what "p=" encodes, ``private_key`` is PKCS #8 in DER."""

    selector: str
    algorithm: str
    public_key: bytes
    private_key: bytes = field(repr=False)


async def generate() -> list[KeyPair]:
    """One key pair of each kind, under selectors that were never used before."""
    mark = random_name(6)
    rsa_key = await asyncio.to_thread(rsa.generate_private_key, 65537, RSA_BITS)
    ed25519_key = ed25519.Ed25519PrivateKey.generate()
    return [
        KeyPair(
            f"barua-{mark}-rsa",
            "rsa",
            rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            rsa_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        ),
        KeyPair(
            f"barua-{mark}-ed25519",
            "ed25519",
            # RFC 8463 §4: the 32 octets themselves, without the structure around them.
            ed25519_key.public_key().public_bytes_raw(),
            ed25519_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        ),
    ]
