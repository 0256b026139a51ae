"""What a node knows of tenants, logins, API keys and sender domains. Values; nothing here does anything."""

from dataclasses import dataclass
from enum import StrEnum

MAIL_SCOPE = "mail"
"""Scope of an API key that may send."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account in the tree."""

    tenant_id: str
    parent_id: str
    """Empty for the operator, the root."""
    suspended: bool
    default_sender: str


@dataclass(frozen=True, slots=True)
class Login:
    """A username and the argon2id hash of its password."""

    username: str
    tenant_id: str
    password_hash: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its id, with the SHA-256 of its secret."""

    key_id: str
    tenant_id: str
    secret_sha256: bytes
    scopes: tuple[str, ...]


class KeyAlgorithm(StrEnum):
    """Algorithms of DKIM (RFC 6376, RFC 8463)."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A DKIM key that only the sealing key opens."""

    selector: str
    algorithm: KeyAlgorithm
    sealed_private_key: bytes


@dataclass(frozen=True, slots=True)
class SenderDomain:
    """A verified domain. The tenant it belongs to and those below may send from it."""

    domain: str
    tenant_id: str
    signing_off: bool
    keys: tuple[SealedKey, ...]


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that gets no mail from a tenant and those below."""

    tenant_id: str
    address: str
    """Canonical."""
    reason: str
