"""Which credentials were used: noted by whoever judges them, taken in batches by whoever tells control.

Best effort and bounded: a credential is noted once until it is taken, and no more than ``MAX_NOTED`` are.
"""

from enum import StrEnum

MAX_NOTED = 50_000


class CredentialKind(StrEnum):
    """What can be used."""

    LOGIN = "login"
    API_KEY = "api_key"
    OAUTH_CLIENT = "oauth_client"


class Uses:
    """The credentials that were used since they were taken last."""

    def __init__(self) -> None:
        self._noted: set[tuple[CredentialKind, str]] = set()

    def note(self, kind: CredentialKind, id_: str) -> None:
        """These are being used."""
        if len(self._noted) < MAX_NOTED:
            self._noted.add((kind, id_))

    def take(self) -> list[tuple[CredentialKind, str]]:
        """What was noted; it is forgotten."""
        taken, self._noted = sorted(self._noted), set()
        return taken
