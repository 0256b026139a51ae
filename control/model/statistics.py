"""Counters of what happened on a day: what is counted, by what, and how events become counts. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, date
from enum import IntEnum
from typing import NamedTuple

from control.model.events import EventKind, PastEvent, domain_of

MAX_VALUE = 253
"""Characters of a value that is counted by: the longest domain name."""


class Dimension(IntEnum):
    """What counts are by; the numbers of ``barua.control.v1.Dimension``."""

    TOTAL = 1
    SENDER_DOMAIN = 2
    RECIPIENT_DOMAIN = 3
    STREAM = 4
    EGRESS_SOURCE = 5
    PROVIDER = 6
    TAG = 7


class CounterKey(NamedTuple):
    """Which counter; their order is the order in which they are locked."""

    tenant_id: str
    dimension: int
    day: date
    value: str


@dataclass(slots=True)
class Counts:
    """How often each thing happened. ``deferred`` counts attempts, ``opens`` and ``clicks`` times, the others
    recipients."""

    accepted: int = 0
    delivered: int = 0
    bounced: int = 0
    deferred: int = 0
    expired: int = 0
    suppressed: int = 0
    """Dropped: suppressed, or refused by a rule."""
    complained: int = 0
    unsubscribed: int = 0
    smtp_dropped: int = 0
    """Of those bounced: no remote server took part."""
    opened: int = 0
    opens: int = 0
    clicked: int = 0
    clicks: int = 0

    @property
    def finished(self) -> int:
        """Recipients that are done with, for better or worse."""
        return self.delivered + self.bounced + self.expired

    @property
    def processed(self) -> int:
        """Recipients that were asked for."""
        return self.accepted + self.suppressed

    @property
    def sent(self) -> int:
        """Recipients processed that were not dropped on the way."""
        return self.accepted - self.smtp_dropped

    @property
    def hard_bounced(self) -> int:
        """Recipients that failed for good, at a remote server or for want of one in time."""
        return self.bounced - self.smtp_dropped + self.expired


COUNTED = tuple(field.name for field in fields(Counts))
"""Names of the counts, which are those of the columns."""

_COUNT_OF = {
    EventKind.RECEIVED: "accepted",
    EventKind.DELIVERED: "delivered",
    EventKind.DEFERRED: "deferred",
    EventKind.BOUNCED: "bounced",
    EventKind.EXPIRED: "expired",
    EventKind.DROPPED: "suppressed",
    EventKind.OPENED: "opens",
    EventKind.CLICKED: "clicks",
}
_FIRST_COUNT_OF = {
    EventKind.OPENED: "opened",
    EventKind.CLICKED: "clicked",
    EventKind.UNSUBSCRIBED: "unsubscribed",
    EventKind.COMPLAINED: "complained",
}


def tally(events: Iterable[PastEvent]) -> dict[CounterKey, Counts]:
    """What events add to the counters, in the order of the keys. Each counts on the day (UTC) when it happened."""
    # By plain tuples, which are made in no time: most counters of a batch are met several times.
    counters: dict[tuple[str, int, date, str], Counts] = {}
    for event in events:
        counted = _counted(event)
        # A bounce message (null sender, RFC 5321 §4.5.5) is ours and not mail that the tenant sends.
        if not counted or not event.sender:
            continue
        day = event.occurred_at.astimezone(UTC).date()
        for dimension, value in _values(event):
            if not value and dimension is not Dimension.TOTAL:
                continue
            key = (event.tenant_id, dimension, day, value[:MAX_VALUE])
            counts = counters.get(key)
            if counts is None:
                counts = counters[key] = Counts()
            for name in counted:
                setattr(counts, name, getattr(counts, name) + 1)
    return {CounterKey._make(key): counters[key] for key in sorted(counters)}


def smtp_dropped(event: PastEvent) -> bool:
    """Whether a recipient failed for good without any remote server taking part."""
    return event.kind is EventKind.BOUNCED and not event.code


def rate(part: int, whole: int) -> float:
    """A share between 0 and 1; 0 of nothing."""
    return part / whole if whole else 0.0


def _counted(event: PastEvent) -> tuple[str, ...]:
    """The counts that an event adds to."""
    always = _ALWAYS.get(event.kind, ())
    if event.first and event.kind in _FIRST_COUNT_OF:
        return (*always, _FIRST_COUNT_OF[event.kind])
    return (*always, "smtp_dropped") if smtp_dropped(event) else always


_ALWAYS = {kind: (name,) for kind, name in _COUNT_OF.items()}


def _values(event: PastEvent) -> tuple[tuple[Dimension, str], ...]:
    """What an event counts for: the total, and each dimension; an empty value says nothing about it."""
    return (
        (Dimension.TOTAL, ""),
        (Dimension.SENDER_DOMAIN, domain_of(event.sender)),
        (Dimension.RECIPIENT_DOMAIN, domain_of(event.recipient_key)),
        (Dimension.STREAM, event.stream),
        (Dimension.EGRESS_SOURCE, event.egress_source),
        (Dimension.PROVIDER, event.provider),
        *((Dimension.TAG, tag) for tag in dict.fromkeys(event.tags)),
    )
