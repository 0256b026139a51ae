"""The form of a request: how events are written for a receiver, one renderer per payload format.

``fanout`` keeps each event as the JSON of an ``Event``, which belongs to no format. When a batch is due, the renderer
of the webhook's format makes the body and header fields of one request. A further format is a further ``Renderer`` in
``formats.RENDERERS``, with its vocabulary in ``wanting``.

The native form is one object, with an array of events even for one::

    {"webhook": "tenants/acme/webhooks/abc", "attempt": 1, "events": [{"id": ..., "kind": "delivered", ...}]}

Numbers that a JavaScript program could not hold exactly are strings. Fields that say nothing are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from control.model.webhooks import MAX_BATCH
from control.webhooks import schedule, signing
from control.webhooks.schedule import Schedule


class MessageIds(msgspec.Struct, frozen=True):
    """The recipient's id in its spellings; ``message`` is the number shared by all recipients of the message."""

    number: str
    message: str
    mspace: str
    uuid: str
    base36: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event is about. ``name`` is its resource name."""

    name: str
    ids: MessageIds
    sender: str
    recipient: str
    subject: str = ""
    stream: str = ""
    tags: Sequence[str] = ()
    properties: dict[str, Any] = {}
    """What the submitter gave along, in the shape that he gave it."""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the remote server said, or we ourselves if it said nothing."""

    code: int = 0
    enhanced_code: str = ""
    text: str = ""
    host: str = ""


class Engagement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a recipient did. ``first``: for the first time with this message."""

    ip_address: str = ""
    user_agent: str = ""
    url: str = ""
    first: bool = False


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Small numbers of those involved, for forms that have them. ``account`` is the reseller, or the tenant itself.

    ``address`` is that of the source.
    """

    tenant: int = 0
    account: int = 0
    address: str = ""


class AlertNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """An alert that began (``state`` "firing") or ended ("ok")."""

    name: str
    state: str
    metric: str
    value: float
    threshold: float
    rule: str = ""
    display_name: str = ""
    detail: str = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something to tell. ``time`` is in RFC 3339 form, ``tenant`` a resource name."""

    id: str
    kind: str
    time: str
    tenant: str
    message: Message | None = None
    attempt: int = 0
    reply: Reply | None = None
    source: str = ""
    provider: str = ""
    next_attempt_time: str = ""
    engagement: Engagement | None = None
    alert: AlertNote | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """A batch to be posted. ``attempt`` is the highest of its events; ``time`` is in Unix seconds.

    ``secrets`` that are good now, newest first; none: what is posted goes unsigned.
    """

    webhook: str
    attempt: int
    time: int
    secrets: tuple[str, ...]
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A request without its target."""

    headers: dict[str, str]
    body: bytes


class Renderer(Protocol):
    """One payload format: when events are tried again, how many go into a request, and what it looks like."""

    @property
    def schedule(self) -> Schedule:
        """Pauses between the attempts of an event."""

    @property
    def max_batch(self) -> int:
        """Events that one request can hold."""

    @property
    def gathering_seconds(self) -> float:
        """How long events wait for others, unless there are ``max_batch``."""

    def render(self, posting: Posting) -> Rendered:
        """The request for a batch."""


class _Body(msgspec.Struct, frozen=True):
    webhook: str
    attempt: int
    events: Sequence[Event]


class NativeRenderer:
    """Our own form."""

    schedule = schedule.NATIVE
    max_batch = MAX_BATCH
    gathering_seconds = 0.0

    def render(self, posting: Posting) -> Rendered:
        """The request for a batch."""
        events = [msgspec.structs.replace(event, origin=None) for event in posting.events]
        body = encode(_Body(posting.webhook, posting.attempt, events))
        headers = {
            "Content-Type": "application/json",
            "Barua-Webhook": posting.webhook,
            "Barua-Attempt": str(posting.attempt),
            signing.HEADER: signing.signature(posting.secrets, posting.time, body),
        }
        return Rendered(headers, body)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(value: msgspec.Struct) -> bytes:
    """JSON in UTF-8."""
    return _encoder.encode(value)


def decode(content: bytes) -> Event:
    """An event as it is kept."""
    return _decoder.decode(content)
