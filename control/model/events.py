"""What happens to recipients of messages: kinds of events, states, and an event as its consumers see it."""

import re
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from control.model.addresses import canonical_address
from mta.runtime.refusals import Refusal

# Here the canonical form only lacks the case; most addresses are so, and there are many of them.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")


class EventKind(IntEnum):
    """What happened; the numbers of ``barua.journal.v1.Event.Kind``."""

    RECEIVED = 1
    DELIVERED = 2
    DEFERRED = 3
    BOUNCED = 4
    EXPIRED = 5
    LEASE_RELEASED = 6
    DROPPED = 7
    OPENED = 8
    CLICKED = 9
    UNSUBSCRIBED = 10
    COMPLAINED = 11


ENGAGEMENTS = frozenset({EventKind.OPENED, EventKind.CLICKED, EventKind.UNSUBSCRIBED, EventKind.COMPLAINED})
"""What recipients do; control tells of it itself."""


class RecordState(IntEnum):
    """Where a recipient stands; the numbers of ``barua.control.v1.MessageRecord.State``."""

    QUEUED = 1
    DELIVERED = 2
    BOUNCED = 3
    DROPPED = 4


class PastEvent(NamedTuple):
    """Something that happened to a recipient, with its place in the order of everything. There are many of them.

    ``sender``, ``recipient``, ``stream`` and ``tags`` come from the record of the recipient and are empty if there is
    none.
    """

    event_number: int
    recipient_id: int
    message_id: int
    tenant_id: str
    kind: EventKind
    occurred_at: datetime
    attempt: int
    """From 1; 0 in RECEIVED."""
    code: int
    """SMTP reply code; 0: none was read."""
    enhanced_code: str
    reply: str
    """The remote's words, or ours if it said nothing."""
    remote_host: str
    egress_source: str
    """Source the attempt left from; empty: none, or in RECEIVED."""
    provider: str
    """SMTP provider it was given to; empty: delivered directly."""
    credits: int
    """Credits it cost; only in RECEIVED."""
    lease_id: int
    """Lease the credits were of; 0: no charge."""
    next_attempt_at: datetime | None
    """Only in DEFERRED."""
    sender: str
    recipient: str
    """As given in the envelope."""
    recipient_key: str
    """The recipient in its canonical form."""
    stream: str
    tags: tuple[str, ...] = ()
    ip_address: str = ""
    """This and the following only of what recipients did."""
    user_agent: str = ""
    url: str = ""
    """Link that was followed; only in CLICKED."""
    first: bool = False
    """Nothing of the kind happened to the recipient before."""


def recipient_key(recipient: str) -> str:
    """The form of a recipient that searches compare: canonical if it is an address, else just without case."""
    if _PLAIN.fullmatch(recipient):
        return recipient.lower()
    try:
        return canonical_address(recipient, "recipient")
    except Refusal:
        return recipient.replace("\0", "").lower()


def domain_of(address: str) -> str:
    """The domain of an address in lower case; empty if it has none."""
    return address.rpartition("@")[2].lower() if "@" in address else ""
