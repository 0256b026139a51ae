"""Opens DKIM private keys as control hands them out: sealed with AES-256-GCM under a key shared by all parts.

Sealed form: 12 octets of nonce, then ciphertext and tag. The additional data is `{tenant_id}/{domain}/{selector}` in
UTF-8, so that a sealed key moved to another tenant, domain or selector does not open.

Errors: SealError, whose text names whose key it is and no secret. Pure; any thread.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_OCTETS = 12
TAG_OCTETS = 16
KEY_OCTETS = 32


class SealError(Exception):
    """A sealed key cannot be opened: wrong sealing key, damaged, or sealed for somebody else."""


def open_sealed(sealing_key: bytes, sealed: bytes, tenant_id: str, domain: str, selector: str) -> bytes:
    """The private key (PKCS #8, DER) in `sealed`. `sealing_key`: 32 octets. Raises SealError."""
    which = f"the DKIM key {selector} of {domain} (tenant {tenant_id})"
    if len(sealing_key) != KEY_OCTETS:
        raise SealError(f"{which} cannot be opened: the sealing key has not {KEY_OCTETS} octets")
    if len(sealed) <= NONCE_OCTETS + TAG_OCTETS:
        raise SealError(f"{which} cannot be opened: it is too short")
    about = f"{tenant_id}/{domain}/{selector}".encode()
    try:
        return AESGCM(sealing_key).decrypt(sealed[:NONCE_OCTETS], sealed[NONCE_OCTETS:], about)
    except InvalidTag:
        raise SealError(f"{which} cannot be opened: wrong sealing key, damaged, or sealed for another") from None
