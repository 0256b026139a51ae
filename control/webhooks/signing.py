"""Signatures of webhook requests: HMAC-SHA256 over time and body.

The header ``Barua-Signature`` is ``t=<Unix seconds>,v1=<hex>``, with one ``v1`` for each secret that is good at the
time, so that a receiver may take either of two while a secret is rotated. What is signed is the time in decimal, a full
stop and the body as it is sent. A receiver checks it so::

    import hashlib, hmac, time

    def is_genuine(header: str, body: bytes, secret: str, tolerance: float = 300) -> bool:
        parts = [part.partition("=") for part in header.split(",")]
        sent = next((value for name, _, value in parts if name == "t"), "")
        wanted = hmac.new(secret.encode(), sent.encode() + b"." + body, hashlib.sha256).hexdigest()
        fresh = sent.isdecimal() and abs(time.time() - int(sent)) <= tolerance
        return fresh and any(name == "v1" and hmac.compare_digest(value, wanted) for name, _, value in parts)

The secret is used as it was told, ``whsec_`` included. Pure.
"""

import hmac
from collections.abc import Sequence

HEADER = "Barua-Signature"
SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with
SECRET_CHARACTERS = 40
"""Random characters after the prefix: 200 bits."""


def signature(secrets: Sequence[str], time: int, body: bytes) -> str:
    """The value of the header for a body sent at ``time`` (Unix seconds), signed with each of ``secrets``."""
    content = b"%d.%s" % (time, body)
    signed = (hmac.digest(secret.encode(), content, "sha256").hex() for secret in secrets)
    return ",".join([f"t={time}", *(f"v1={digest}" for digest in signed)])
