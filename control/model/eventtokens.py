"""Resume tokens of event streams: where a stream goes on, readable by nobody but us.

Numbers of events would tell a tenant how much mail the whole platform sends, so a token is sealed (AES-256-GCM, RFC
5116) with a key made from the lineage of the order of events, a UUID that never leaves the database. The same place
gives the same token. Pure.
"""

import base64
import binascii
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control.model.fields import invalid
from mta.runtime.refusals import Reason, Refusal

_MARK_OCTETS = 6
_NONCE_OCTETS = 12


def encode(lineage: str, number: int) -> str:
    """The token for what comes after event ``number``."""
    key, mark = _key(lineage)
    place = number.to_bytes(8, "big")
    # Made from the content: two places never share one, and no randomness is needed.
    nonce = hmac.digest(key, place, "sha256")[:_NONCE_OCTETS]
    sealed = AESGCM(key).encrypt(nonce, place, mark)
    return base64.urlsafe_b64encode(mark + nonce + sealed).decode().rstrip("=")


def decode(lineage: str, token: str) -> int:
    """The number in a token. INVALID_ARGUMENT if it is none of ours, POSITION_LOST if it is of another lineage."""
    key, mark = _key(lineage)
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if len(content) != _MARK_OCTETS + _NONCE_OCTETS + 8 + 16:
        raise invalid("resume_token", "resume_token must be the resume_token of an answer of this method")
    if content[:_MARK_OCTETS] != mark:
        raise lost("the order of events is another one since a backup was restored")
    nonce = content[_MARK_OCTETS : _MARK_OCTETS + _NONCE_OCTETS]
    try:
        place = AESGCM(key).decrypt(nonce, content[_MARK_OCTETS + _NONCE_OCTETS :], mark)
    except InvalidTag:
        raise invalid("resume_token", "resume_token was changed; send it as it came") from None
    return int.from_bytes(place, "big")


def lost(why: str) -> Refusal:
    """The refusal for a place from which a stream cannot go on."""
    message = f"the stream cannot go on from this resume_token: {why}; begin without one"
    return Refusal(Reason.POSITION_LOST, message, field="resume_token", metadata={"why": why})


def _key(lineage: str) -> tuple[bytes, bytes]:
    """The key, and a mark that tells lineages apart without giving it away."""
    return (
        hashlib.sha256(b"barua event token key " + lineage.encode()).digest(),
        hashlib.sha256(b"barua event token mark " + lineage.encode()).digest()[:_MARK_OCTETS],
    )
