"""DKIM key pairs: RSA and Ed25519, made or brought along, with ``cryptography``.

RSA takes 50 ms to several seconds of CPU, so it is made in a thread; ``cryptography`` lets the loop run meanwhile.

Errors: the INVALID_ARGUMENT Refusal for a key or length that is not taken; its text names no key material.
"""

import asyncio
import re
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from control.model.apikeys import random_name
from control.model.fields import invalid

RSA_BITS = (2048, 3072, 4096)
"""RFC 8301 §3.2: at least 1024, should be 2048. Records of longer keys do not fit one UDP answer."""
WEAKEST_RSA_BITS = 1024
MAX_PEM = 16 * 1024
"""Octets of a key that is brought along."""

_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Algorithm(StrEnum):
    """Kinds of keys, as "k=" names them."""

    RSA = "rsa"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair. ``public_key`` is what "p=" encodes, ``private_key`` is PKCS #8 in DER, ``bits`` that of RSA."""

    selector: str
    algorithm: Algorithm
    bits: int
    public_key: bytes
    private_key: bytes = field(repr=False)
    imported: bool = False


def checked_selector(selector: str, field_name: str = "selector") -> str:
    """A selector that may be used: one label, so that it is one owner name below _domainkey."""
    if not _SELECTOR.fullmatch(selector):
        raise invalid(
            field_name,
            f'{field_name} must be 1 to 63 of a-z, 0-9, "-" and "_", and begin and end with a letter or digit',
        )
    return selector


def checked_bits(algorithm: Algorithm, bits: int, field_name: str = "bits") -> int:
    """The length of a key to make; 0 is the default."""
    if algorithm is Algorithm.ED25519:
        if bits:
            raise invalid(field_name, f"{field_name} is for RSA keys; Ed25519 keys have one length")
        return 0
    if bits not in (0, *RSA_BITS):
        raise invalid(field_name, f"{field_name} must be one of {', '.join(map(str, RSA_BITS))}; it is {bits}")
    return bits or RSA_BITS[0]


def new_selector(algorithm: Algorithm, mark: str = "") -> str:
    """A selector that was never used before."""
    return f"barua-{mark or random_name(6)}-{algorithm}"


async def generate() -> list[KeyPair]:
    """One key pair of each kind, for a new domain."""
    mark = random_name(6)
    return [await generate_one(kind, checked_bits(kind, 0), new_selector(kind, mark)) for kind in Algorithm]


async def generate_one(algorithm: Algorithm, bits: int, selector: str) -> KeyPair:
    """One key pair; ``bits`` as ``checked_bits`` gives them."""
    if algorithm is Algorithm.ED25519:
        return _pair(selector, ed25519.Ed25519PrivateKey.generate())
    return _pair(selector, await asyncio.to_thread(rsa.generate_private_key, 65537, bits))


async def from_pem(pem: bytes, selector: str, *, allow_weak: bool, field_name: str = "private_key_pem") -> KeyPair:
    """A key pair that is brought along: PKCS #1 or PKCS #8, not encrypted."""
    if not pem or len(pem) > MAX_PEM:
        raise invalid(field_name, f"{field_name} must be a private key in PEM of at most {MAX_PEM} octets")
    try:
        # In a thread: the full check of an RSA key takes a while, and damaged ones have to be found here.
        key = await asyncio.to_thread(load_pem_private_key, pem, None)
    except TypeError:
        raise invalid(field_name, f"{field_name} is encrypted; bring it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise invalid(field_name, f"{field_name} is no private key in PEM (PKCS #1 or PKCS #8), or damaged") from None
    if isinstance(key, rsa.RSAPrivateKey):
        _check_length(key.key_size, allow_weak, field_name)
    elif not isinstance(key, ed25519.Ed25519PrivateKey):
        raise invalid(field_name, f"{field_name} must be an RSA or Ed25519 key: DKIM has no others")
    return _pair(selector, key, imported=True)


def _check_length(bits: int, allow_weak: bool, field_name: str) -> None:
    if bits < WEAKEST_RSA_BITS or bits > RSA_BITS[-1]:
        text = f"{field_name} has {bits} bits; RSA keys of {WEAKEST_RSA_BITS} to {RSA_BITS[-1]} bits are taken"
        raise invalid(field_name, text)
    if bits < RSA_BITS[0] and not allow_weak:
        text = f"{field_name} has {bits} bits; RFC 8301 asks for {RSA_BITS[0]}. Make a longer one, or set allow_weak"
        raise invalid(field_name, text)


def _pair(selector: str, key: _PrivateKey, *, imported: bool = False) -> KeyPair:
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return KeyPair(selector, Algorithm.RSA, key.key_size, public, private, imported)
    # RFC 8463 §4: the 32 octets themselves, without the structure around them.
    return KeyPair(selector, Algorithm.ED25519, 0, key.public_key().public_bytes_raw(), private, imported)
