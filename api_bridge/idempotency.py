"""``Idempotency-Key``: a header field that makes the repetition of a request harmless.

The server that stores the messages (or moves the credits) keeps the key for 24 hours for each tenant, with a
fingerprint of the request. The same request again gets the first answer again, and another one with the same key is
refused (``REQUEST_ID_REUSED``). Clients send one that repeat after a timeout or a 503.

Errors: ``Problem`` 400. Pure.
"""

import hashlib
import uuid

from starlette.requests import Request

from api_bridge.backend import IdempotencyKey
from api_bridge.problems import bad_request

HEADER = "idempotency-key"
"""The field (draft-ietf-httpapi-idempotency-key-header); a value in quotes is taken with its quotes."""
MAX_KEY = 200
"""Characters of its value."""

_REQUEST_IDS = uuid.UUID("6a1d0a52-3b7e-5c0f-9d53-8f1c8a0e7b64")
"""Namespace of the request ids that are made from idempotency keys; another one would make repetitions unknown."""


def key_of(request: Request, body: bytes) -> IdempotencyKey | None:
    """The key of a send whose body is ``body``, None if the client gave none. Raises Problem 400."""
    text = _text(request)
    if text is None:
        return None
    # Slashes more or less are the same path everywhere in the bridge, so they are here.
    path = "/".join(part for part in request.scope["path"].split("/") if part)
    digest = hashlib.sha256(f"{request.method} /{path}\n".encode())
    digest.update(body)
    return IdempotencyKey(text, digest.digest())


def request_id(request: Request) -> str:
    """The ``request_id`` for a call to control: a new one, or the same for the same key. Raises Problem 400.

    Control keeps those of each tenant and method apart, and compares the requests itself.
    """
    text = _text(request)
    return str(uuid.uuid4() if text is None else uuid.uuid5(_REQUEST_IDS, text))


def _text(request: Request) -> str | None:
    keys = request.headers.getlist(HEADER)
    if not keys:
        return None
    text = _decoded(keys[0]) if len(keys) == 1 else ""
    if not 1 <= len(text) <= MAX_KEY or not text.isprintable():
        raise bad_request(f"Idempotency-Key must be given once and have 1 to {MAX_KEY} printable characters.")
    return text


def _decoded(value: str) -> str:
    """A field's value, which came as ISO 8859-1, read as UTF-8 if it is that."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value
