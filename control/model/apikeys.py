"""API keys: ``bk_{id}_{secret}``, lower-case base32. Only the SHA-256 of the secret is kept.

The secret has 160 random bits, so a fast hash is enough: there is nothing to guess.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass, field

ID_CHARACTERS = 12
SECRET_CHARACTERS = 32
PREFIX = "bk_"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; the only time its secret is known."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole key."""
        return f"{PREFIX}{self.key_id}_{self.secret}"

    @property
    def secret_sha256(self) -> bytes:
        """What is kept of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    @property
    def last_four(self) -> str:
        """To recognise the key by."""
        return self.secret[-4:]


def generate() -> NewKey:
    """A new random key."""
    return NewKey(random_name(ID_CHARACTERS), random_name(SECRET_CHARACTERS))


def random_name(characters: int) -> str:
    """So many random characters of a-z and 2-7, five bits each."""
    return base64.b32encode(secrets.token_bytes(characters)).decode().lower()[:characters]
