"""Opens DKIM private keys and passwords as control hands them out: sealed with AES-256-GCM under keys shared by all.

Sealed form: an octet 1, 4 octets of key id, 12 of nonce, then ciphertext and tag. An older form without the first five
octets is opened as well, by trying the keys. The additional data is `{tenant_id}/{domain}/{selector}` in UTF-8, so that
a sealed key moved to another tenant, domain or selector does not open.

Keys come by their ids (`mta.runtime.keyring`). Errors: SealError, whose text names whose key it is and no secret. Pure;
any thread.
"""

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
ID_OCTETS = 4
NONCE_OCTETS = 12
TAG_OCTETS = 16
KEY_OCTETS = 32


class SealError(Exception):
    """Something sealed cannot be opened: its key is not here, it is damaged, or it was sealed for somebody else."""


def open_sealed(keys: Mapping[bytes, bytes], sealed: bytes, tenant_id: str, domain: str, selector: str) -> bytes:
    """The private key (PKCS #8, DER) in `sealed`. `keys`: 32 octets each, by id. Raises SealError."""
    which = f"the DKIM key {selector} of {domain} (tenant {tenant_id})"
    return open_for(keys, sealed, f"{tenant_id}/{domain}/{selector}", which)


def open_for(keys: Mapping[bytes, bytes], sealed: bytes, about: str, which: str) -> bytes:
    """What was sealed with `about` as additional data; `which` names it in the error. Raises SealError."""
    start = len(VERSION) + ID_OCTETS
    key = keys.get(sealed[len(VERSION) : start]) if sealed.startswith(VERSION) else None
    attempts = [(key, sealed[start:])] if key is not None else []
    for one, content in (*attempts, *((one, sealed) for one in keys.values())):
        if len(one) != KEY_OCTETS or len(content) <= NONCE_OCTETS + TAG_OCTETS:
            continue
        try:
            return AESGCM(one).decrypt(content[:NONCE_OCTETS], content[NONCE_OCTETS:], about.encode())
        except InvalidTag:
            continue
    raise SealError(f"{which} cannot be opened: wrong sealing key, damaged, or sealed for another")
