"""Which webhook wants which event, and under what name.

Each format has its vocabulary: what it has no word for is not told in it. The formats of SendPost tell more of an event
than the native one: a dropped message was processed, too, and what failed before any remote server took part is a drop.
Formats of other services do not know that a message can be given up (EXPIRED): to them it bounced. Nor do they tell
of the reports about undeliverable mail that the MTA itself sends, from nobody: the customer did not send those. Pure.
"""

from control.model.events import EventKind, PastEvent
from control.model.statistics import smtp_dropped
from control.model.webhooks import SENDPOST_FORMATS, Format, Kind, sender_domain
from control.store.webhooks import Settings

KINDS: dict[EventKind, tuple[Kind, ...]] = {
    EventKind.RECEIVED: (Kind.ACCEPTED, Kind.SENT),
    EventKind.DELIVERED: (Kind.DELIVERED,),
    EventKind.DEFERRED: (Kind.DEFERRED,),
    EventKind.BOUNCED: (Kind.BOUNCED,),
    EventKind.EXPIRED: (Kind.EXPIRED,),
    EventKind.DROPPED: (Kind.DROPPED,),
    EventKind.OPENED: (Kind.OPENED,),
    EventKind.CLICKED: (Kind.CLICKED,),
    EventKind.UNSUBSCRIBED: (Kind.UNSUBSCRIBED,),
    EventKind.COMPLAINED: (Kind.COMPLAINED,),
}
"""What webhooks call an event of the journal, in general; those that are not here are not told."""

FIRSTS = {Kind.OPENED: Kind.UNIQUE_OPENED, Kind.CLICKED: Kind.UNIQUE_CLICKED}
"""What asks for the first of several."""

_SENDPOST = frozenset(
    {
        Kind.ACCEPTED, Kind.SENT, Kind.DELIVERED, Kind.DEFERRED, Kind.BOUNCED, Kind.EXPIRED, Kind.DROPPED,
        Kind.SMTP_DROPPED, Kind.OPENED, Kind.CLICKED, Kind.UNSUBSCRIBED, Kind.COMPLAINED,
    }
)  # fmt: skip
VOCABULARIES: dict[Format, frozenset[Kind]] = {
    Format.NATIVE: frozenset(Kind) - {Kind.SMTP_DROPPED},
    Format.SENDPOST: _SENDPOST,
    Format.SENDPOST_LEGACY: _SENDPOST,
    Format.SENDPULSE: _SENDPOST - {Kind.ACCEPTED, Kind.SENT, Kind.DROPPED, Kind.SMTP_DROPPED},
    Format.MAILPASS: _SENDPOST - {Kind.SENT, Kind.DEFERRED, Kind.DROPPED, Kind.SMTP_DROPPED, Kind.UNSUBSCRIBED},
}
"""What a format has words for."""


def names_of(format_: Format, event: PastEvent) -> tuple[Kind, ...]:
    """What a format calls an event: nothing, one name, or several events of its own."""
    kinds = KINDS.get(event.kind, ())
    if format_ in SENDPOST_FORMATS:
        if event.kind is EventKind.DROPPED:
            kinds = (Kind.ACCEPTED, Kind.DROPPED)
        elif smtp_dropped(event):
            kinds = (Kind.SMTP_DROPPED,)
    vocabulary = VOCABULARIES[format_]
    return tuple(kind for kind in kinds if kind in vocabulary)


def sources(settings: Settings) -> list[EventKind]:
    """Which events of the journal a webhook may want."""
    asked = set(settings.kinds) | {kind for kind, first in FIRSTS.items() if first in settings.kinds}
    if settings.format is not Format.NATIVE:
        asked |= {Kind.EXPIRED} if Kind.BOUNCED in asked else set()
    if settings.format in SENDPOST_FORMATS:
        asked |= {Kind.DROPPED} if Kind.ACCEPTED in asked else set()
        asked |= {Kind.BOUNCED} if Kind.SMTP_DROPPED in asked else set()
    return [kind for kind, names in KINDS.items() if asked.intersection(names)]


def wanted(settings: Settings, event: PastEvent) -> list[Kind]:
    """Under which names a webhook that looks at the event's tenant wants the event."""
    if not event.sender and settings.format is not Format.NATIVE:
        return []
    if settings.streams and event.stream not in settings.streams:
        return []
    if settings.sender_domains and sender_domain(event.sender) not in settings.sender_domains:
        return []
    return [kind for kind in names_of(settings.format, event) if _asked(settings, kind, event)]


def _asked(settings: Settings, kind: Kind, event: PastEvent) -> bool:
    if kind in settings.kinds or (event.first and FIRSTS.get(kind) in settings.kinds):
        return True
    return kind is Kind.EXPIRED and settings.format is not Format.NATIVE and Kind.BOUNCED in settings.kinds
