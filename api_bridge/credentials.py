"""The client's credentials: taken from the request, checked for form, passed on to who can judge them.

The bridge cannot tell a right password from a wrong one and has no power of its own: what a client shows is forwarded
as gRPC metadata. Here it is only made sure that it can be forwarded. Pure.
"""

import base64
import binascii
import re

MAX_LOGIN = 4 * (128 + 256) + 1
"""Octets of user name, colon and password; control takes 128 and 256 characters, UTF-8 has up to 4 octets for each."""

_API_KEY = re.compile(r"bk_[a-z2-7]{12}_[a-z2-7]{32}")


def basic(headers: list[str]) -> str | None:
    """The gRPC ``authorization`` of an HTTP Basic login (RFC 7617), or None if there is none or it is malformed.

    ``headers`` are all Authorization fields of the request: two of them are malformed, too.
    """
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        login = base64.b64decode(token.strip(), validate=True)
        text = login.decode()
    except (binascii.Error, ValueError):
        return None
    username, colon, _ = text.partition(":")
    if not username or not colon or len(login) > MAX_LOGIN:
        return None
    return "Basic " + base64.b64encode(login).decode()


def api_key(key: str) -> str | None:
    """The gRPC ``authorization`` of an API key, or None if no API key looks like this."""
    return f"Bearer {key}" if _API_KEY.fullmatch(key) else None
