"""API keys, ``bk_{id}_{secret}``, and the secrets of OAuth clients: lower-case base32. Only their SHA-256 is kept.

A secret has 160 random bits, so a fast hash is enough: there is nothing to guess.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

ID_CHARACTERS = 12
SECRET_CHARACTERS = 32
PREFIX = "bk_"

_ID = re.compile(f"[a-z2-7]{{{ID_CHARACTERS}}}")
_NOTHING = bytes(32)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key or client that was just made; the only time its secret is known."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole key."""
        return f"{PREFIX}{self.key_id}_{self.secret}"

    @property
    def secret_sha256(self) -> bytes:
        """What is kept of the secret."""
        return digest(self.secret)

    @property
    def last_four(self) -> str:
        """To recognise the key by."""
        return self.secret[-4:]


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """What is kept of a secret, and of the one before it for as long as that is valid, too."""

    sha256: bytes = field(repr=False)
    last_four: str
    previous_sha256: bytes | None = field(default=None, repr=False)
    previous_expires_at: datetime | None = None

    def rotated(self, new: NewKey, previous_expires_at: datetime | None) -> "KeptSecret":
        """With another secret; the current one becomes the previous, unless there is no time for it."""
        previous = None if previous_expires_at is None else self.sha256
        return KeptSecret(new.secret_sha256, new.last_four, previous, previous_expires_at)


def generate(key_id: str = "") -> NewKey:
    """A new random key, or another secret for a key that exists."""
    return NewKey(key_id or random_name(ID_CHARACTERS), random_name(SECRET_CHARACTERS))


def split(text: str) -> tuple[str, str]:
    """Id and secret of a key as it is written; what is no key has the id ""."""
    key_id, _, secret = text.removeprefix(PREFIX).partition("_")
    return (key_id, secret) if text.startswith(PREFIX) and is_id(key_id) else ("", "")


def is_id(text: str) -> bool:
    """Whether it can be the id of a key or client."""
    return _ID.fullmatch(text) is not None


def digest(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def matches(secret: str, kept: KeptSecret | None, now: datetime) -> bool:
    """Whether a secret is the kept one, or the one before in its time. None takes as long and is false."""
    given = digest(secret)
    current = hmac.compare_digest(given, kept.sha256 if kept else _NOTHING)
    previous = hmac.compare_digest(given, (kept.previous_sha256 if kept else None) or _NOTHING)
    if kept is None:
        return False
    in_time = kept.previous_expires_at is not None and now < kept.previous_expires_at
    return current or (previous and in_time)


def random_name(characters: int) -> str:
    """So many random characters of a-z and 2-7, five bits each."""
    return base64.b32encode(secrets.token_bytes(characters)).decode().lower()[:characters]
