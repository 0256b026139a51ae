"""What became of one recipient in one attempt. Pure values; no field has a default, so that none is forgotten."""

from dataclasses import dataclass
from enum import Enum


class OutcomeKind(Enum):
    """Where the recipient stands now."""

    DELIVERED = "delivered"
    """The remote server took responsibility. Final."""
    DEFERRED = "deferred"
    """To be tried again."""
    BOUNCED = "bounced"
    """Given up. Final."""


class SaidBy(Enum):
    """Whose words the code and text are."""

    REMOTE = "remote"
    LOCAL = "local"


class Stage(Enum):
    """What was being done when the outcome was known; for a remote outcome, the command the reply answers."""

    ROUTE = "route"
    """Looking for the next server: DNS, static routes, MTA-STS, DANE."""
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    MESSAGE = "message"
    """After the final dot or the last BDAT chunk."""
    QUEUE = "queue"
    """No attempt: expired, cancelled or held by hand."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's outcome, with who said so."""

    kind: OutcomeKind
    code: int | None
    """Three-digit reply code (RFC 5321 §4.2); None when there was no reply, as after a lost connection."""
    enhanced: str
    """Enhanced status code such as `5.1.1` (RFC 3463); the caller derives one when the reply had none."""
    text: str
    """The reply's text without codes, lines joined by a space, or our own words. May be hostile: escape where it is
    put into a format."""
    said_by: SaidBy
    stage: Stage
    remote_host: str | None
    """Name of the remote server; None when none was reached."""

    @property
    def is_final(self) -> bool:
        """No further attempt follows."""
        return self.kind is not OutcomeKind.DEFERRED
