"""One taxonomy of refusals with three renderings: SMTP reply, gRPC status, HTTP status.

Every "no" that a peer can hear is a ``Refusal``: a reason, a text for the peer that names no internals, and the
variables of that text. How a reason looks on each wire is data, in ``RENDERINGS``; a test walks the table and compares
the reasons with the enum of ``barua.errors.v1``. Pure: no I/O.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why something is refused: the values of ``barua.errors.v1.Reason`` without their prefix."""

    UNAVAILABLE = "UNAVAILABLE"
    SPOOL_FULL = "SPOOL_FULL"
    NOT_STORED = "NOT_STORED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    SENDER_NOT_ALLOWED = "SENDER_NOT_ALLOWED"
    RECIPIENT_SUPPRESSED = "RECIPIENT_SUPPRESSED"
    INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"
    CREDITS_UNAVAILABLE = "CREDITS_UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    STALE_ETAG = "STALE_ETAG"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RATE_LIMITED = "RATE_LIMITED"
    INTERNAL = "INTERNAL"
    MAIL_LOOP = "MAIL_LOOP"
    BAD_CONTENT = "BAD_CONTENT"
    POSITION_LOST = "POSITION_LOST"


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a reason looks on each wire. ``grpc`` is the name of a gRPC status code."""

    smtp_code: int
    smtp_enhanced: str
    grpc: str
    http: int


RENDERINGS: dict[Reason, Rendering] = {
    Reason.UNAVAILABLE: Rendering(421, "4.3.2", "UNAVAILABLE", 503),
    Reason.SPOOL_FULL: Rendering(452, "4.3.1", "RESOURCE_EXHAUSTED", 429),
    Reason.NOT_STORED: Rendering(451, "4.3.0", "UNAVAILABLE", 503),
    Reason.INVALID_ARGUMENT: Rendering(501, "5.1.3", "INVALID_ARGUMENT", 400),
    Reason.MESSAGE_TOO_LARGE: Rendering(552, "5.3.4", "INVALID_ARGUMENT", 413),
    Reason.SENDER_NOT_ALLOWED: Rendering(550, "5.7.1", "PERMISSION_DENIED", 403),
    Reason.RECIPIENT_SUPPRESSED: Rendering(550, "5.7.1", "FAILED_PRECONDITION", 422),
    Reason.INSUFFICIENT_CREDITS: Rendering(452, "4.7.1", "FAILED_PRECONDITION", 402),
    Reason.CREDITS_UNAVAILABLE: Rendering(451, "4.3.0", "UNAVAILABLE", 503),
    Reason.UNAUTHENTICATED: Rendering(535, "5.7.8", "UNAUTHENTICATED", 401),
    Reason.PERMISSION_DENIED: Rendering(550, "5.7.1", "PERMISSION_DENIED", 403),
    Reason.TENANT_SUSPENDED: Rendering(550, "5.7.1", "PERMISSION_DENIED", 403),
    Reason.NOT_FOUND: Rendering(550, "5.1.1", "NOT_FOUND", 404),
    Reason.ALREADY_EXISTS: Rendering(550, "5.7.0", "ALREADY_EXISTS", 409),
    Reason.REQUEST_ID_REUSED: Rendering(550, "5.7.0", "ALREADY_EXISTS", 409),
    Reason.STALE_ETAG: Rendering(451, "4.3.0", "ABORTED", 409),
    Reason.FAILED_PRECONDITION: Rendering(503, "5.5.1", "FAILED_PRECONDITION", 400),
    Reason.RATE_LIMITED: Rendering(451, "4.7.1", "RESOURCE_EXHAUSTED", 429),
    Reason.INTERNAL: Rendering(451, "4.3.0", "INTERNAL", 500),
    Reason.MAIL_LOOP: Rendering(554, "5.4.6", "INVALID_ARGUMENT", 400),
    Reason.BAD_CONTENT: Rendering(550, "5.6.0", "INVALID_ARGUMENT", 400),
    Reason.POSITION_LOST: Rendering(451, "4.3.0", "OUT_OF_RANGE", 410),
}


class Refusal(Exception):
    """A request is refused.

    ``message`` is for the peer: it says what is wrong and how to mend it, and names no internals. ``metadata`` holds
    every variable of it. ``field`` names the request field at fault. ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.metadata = metadata or {}

    @property
    def rendering(self) -> Rendering:
        """How this refusal looks on each wire."""
        return RENDERINGS[self.reason]

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later (a 4yz reply)."""
        return self.rendering.smtp_code // 100 == 4
