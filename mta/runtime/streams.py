"""Names of streams: the kinds of mail that a tenant sends, such as "news" or "receipts".

A stream needs no registration: a message that names one belongs to it, and a message that names none belongs to none.
Suppressions can be for one stream, and statistics are kept per stream. The same rule holds for every way in.

Pure. Errors: ``ValueError`` with a text that is fit for the peer.
"""

import re

MAX_STREAM = 63
"""Characters of a name."""

_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_STREAM - 1}}}")


def stream_name(text: str) -> str:
    """The name in its kept form, lower case; "" stays "". Raises ValueError."""
    name = text.lower()
    # Some letters outside ASCII, such as the Kelvin sign, become ASCII in lower case.
    if name and not (text.isascii() and _NAME.fullmatch(name)):
        raise ValueError(
            f'a stream is named with 1 to {MAX_STREAM} of a-z, 0-9, ".", "_" and "-", and begins with a letter or digit'
        )
    return name
