"""The server's side of SASL PLAIN (RFC 4616) and LOGIN, as lines of base64 in and replies or credentials out.

One :class:`SaslDialogue` lives from AUTH to its outcome. It knows nothing of whether the credentials are right.
Errors: none escape; every outcome is a value. Limits: ``AUTH_LINE_LIMIT``. Pure.
"""

import binascii
from typing import Final

from mta.smtp import codes
from mta.smtp.events import AuthReceived
from mta.smtp.reply import Reply

AUTH_LINE_LIMIT: Final = 12_288
"""Octets of one line of the dialogue, the AUTH command included (RFC 4954 §4)."""

MECHANISMS: Final = ("PLAIN", "LOGIN")


class SaslDialogue:
    """A dialogue in progress. Feed lines with :meth:`receive`; each gives a 334 to send, a refusal, or the result."""

    __slots__ = ("_mechanism", "_username")

    def __init__(self, mechanism: str) -> None:
        self._mechanism = mechanism
        self._username: str | None = None

    def start(self, initial_response: str) -> Reply | AuthReceived:
        """Begin; ``""`` means that AUTH came without an initial response, ``"="`` that it is empty."""
        if initial_response:
            return self.receive("" if initial_response == "=" else initial_response)
        return codes.AUTH_CONTINUE if self._mechanism == "PLAIN" else codes.AUTH_USERNAME

    def receive(self, line: str) -> Reply | AuthReceived:
        """One line of the client. A reply other than 334 ends the dialogue."""
        if line == "*":
            return codes.AUTH_CANCELLED
        try:
            text = binascii.a2b_base64(line.encode("ascii"), strict_mode=True).decode("utf-8")
        except UnicodeDecodeError:
            return codes.AUTH_MALFORMED
        except (binascii.Error, UnicodeEncodeError):
            return codes.AUTH_BAD_BASE64
        return self._plain(text) if self._mechanism == "PLAIN" else self._login(text)

    def _plain(self, text: str) -> Reply | AuthReceived:
        parts = text.split("\0")
        if len(parts) != 3 or not parts[1] or not parts[2]:
            return codes.AUTH_MALFORMED
        return AuthReceived("PLAIN", *parts)

    def _login(self, text: str) -> Reply | AuthReceived:
        if not text or "\0" in text:
            return codes.AUTH_MALFORMED
        if self._username is None:
            self._username = text
            return codes.AUTH_PASSWORD
        return AuthReceived("LOGIN", "", self._username, text)
