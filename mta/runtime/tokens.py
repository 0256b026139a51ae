"""Access tokens of OAuth clients: short-lived, signed with HMAC-SHA-256, judged without asking anybody.

A token says which client it was issued to, for which scopes, in which generation of the client's tokens, and until
when. ``TokenKey.issue`` makes one, ``TokenKey.read`` gives back what it says if the signature is right. What it says
counts only together with the client as it is *now*: the reader looks the client up, in control's database or in the
node's replica, and refuses a client that is gone and a generation that has passed. So a client is revoked with all its
tokens within the second that a change of policy takes, and a token is good everywhere in the moment it is issued.

The key is 32 random octets in ``{home}/secrets/token.key``, the same on every machine of an installation. Another key
ends all tokens.

Errors: ``read`` raises ``ValueError`` for everything that is not a token of ours. Pure, apart from random octets.
Limits: a token has at most ``MAX_TOKEN`` characters.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Collection
from dataclasses import dataclass

PREFIX = "bt_"
"""How tokens begin; API keys begin with "bk_"."""
KEY_OCTETS = 32
LIFE_SECONDS = 3600
"""How long a token is valid."""
MAX_TOKEN = 1500

_TAG_OCTETS = 32


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. Times are Unix seconds."""

    client_id: str
    generation: int
    scopes: frozenset[str]
    issued_at: int
    expires_at: int

    def effective_scopes(self, of_client: Collection[str]) -> frozenset[str]:
        """What it can do: what it was issued for, as far as the client still may."""
        return self.scopes & frozenset(of_client)


class TokenKey:
    """Signs tokens and checks signatures."""

    def __init__(self, key: bytes) -> None:
        # A key of its own for this use, should the octets ever serve another.
        self._key = hmac.digest(key, b"barua access token", "sha256")

    def issue(self, client_id: str, generation: int, scopes: Collection[str], now: float) -> str:
        """A new token for a client, valid for ``LIFE_SECONDS``."""
        body = {
            "c": client_id,
            "g": generation,
            "s": " ".join(sorted(scopes)),
            "i": int(now),
            "e": int(now) + LIFE_SECONDS,
            # Two tokens of one second are two: a log or a cache may tell them apart.
            "n": os.urandom(6).hex(),
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        return PREFIX + _encode(text) + "." + _encode(self._tag(text))

    def read(self, token: str) -> Claims:
        """What a token of ours says, expired or not. Raises ValueError."""
        body, dot, tag = token.removeprefix(PREFIX).partition(".")
        if not token.startswith(PREFIX) or not dot or len(token) > MAX_TOKEN:
            raise ValueError("not a token")
        text = _decode(body)
        if not hmac.compare_digest(_decode(tag), self._tag(text)):
            raise ValueError("the signature is wrong")
        said = json.loads(text)
        return Claims(said["c"], said["g"], frozenset(said["s"].split()), said["i"], said["e"])

    def _tag(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, hashlib.sha256)[:_TAG_OCTETS]


def _encode(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not a token") from error
    if _encode(octets) != text:  # one token has one spelling
        raise ValueError("not a token")
    return octets
