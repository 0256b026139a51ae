"""What a node knows of tenants, logins, keys, OAuth clients and sender domains. Values; nothing here does anything."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

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
    max_message_bytes: int = 0
    """Size of a message as submitted, for it and those below it; 0: no limit of its own."""
    max_message_recipients: int = 0
    """Recipients of a message, likewise."""


@dataclass(frozen=True, slots=True)
class Login:
    """A username and the argon2id hash of its password."""

    username: str
    tenant_id: str
    password_hash: str
    allowed_networks: tuple[str, ...] = ()
    """Networks it may be used from, in CIDR form; none: from anywhere."""
    expire_time: float = 0.0
    """Unix time in seconds from which on it is refused; 0: never."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its id, with the SHA-256 of its secret."""

    key_id: str
    tenant_id: str
    secret_sha256: bytes
    scopes: tuple[str, ...]
    allowed_networks: tuple[str, ...] = ()
    """Networks it may be used from, in CIDR form; none: from anywhere."""
    expire_time: float = 0.0
    """Unix time in seconds from which on it is refused; 0: never."""
    previous_sha256: bytes = b""
    """Of the secret before the last rotation; empty: there is none."""
    previous_expire_time: float = 0.0
    """Until when that one is valid."""


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A client by its id: what its tokens are judged by."""

    client_id: str
    tenant_id: str
    scopes: tuple[str, ...]
    token_generation: int
    """Tokens of another generation are no longer valid."""
    allowed_networks: tuple[str, ...] = ()
    """Networks its tokens may be used from, in CIDR form; none: from anywhere."""
    expire_time: float = 0.0
    """Unix time in seconds from which on its tokens are refused; 0: never."""


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
    signs_for_senders: bool = False
    """Its keys sign for verified senders, whose own domains are not here. The operator has one such domain at most."""


@dataclass(frozen=True, slots=True)
class Sender:
    """A single address that a tenant and those below may send from without having its domain."""

    tenant_id: str
    address: str
    """Canonical."""


class Suppression(NamedTuple):
    """An address that gets no mail from a tenant and those below. A NamedTuple: there are millions."""

    tenant_id: str
    address: str
    """Canonical."""
    reason: str
    stream: str = ""
    """The stream it is for; empty: all of them."""
    expire_time: float = 0.0
    """Unix time in seconds from which on it no longer holds; 0: it holds for good."""
