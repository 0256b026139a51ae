"""Messages of an account and its sub-accounts: what was sent, and what happened to it.

Control keeps a record of each recipient; texts and files of messages are not kept, so those fields are null. What only
the sender knew (names, custom fields, header fields) is in the record's ``properties``; a message that came over SMTP
has less. Control hears of a message a moment after the MTA took it: one that was just sent is looked for again for a
while before it is said not to be there.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from barua.control.v1 import history_service_pb2 as history
from barua.journal.v1 import event_pb2

from api_bridge import messageids
from api_bridge.dialects.sendpost import counters, errors, letter, times
from api_bridge.dialects.sendpost.operation import Call, Key, Kind, Operation, Parameter, paging
from api_bridge.problems import Problem

MOST_DAYS = 60
"""From the begin to the end of a range; a day more where the ends are days."""
RECORDS = history.RecordView

_EVENTS: Mapping[int, tuple[tuple[int, str], ...]] = MappingProxyType(
    {
        event_pb2.Event.KIND_RECEIVED: ((0, "processed"), (9, "sent")),
        event_pb2.Event.KIND_DROPPED: ((0, "processed"), (1, "dropped")),
        event_pb2.Event.KIND_DELIVERED: ((2, "delivered"),),
        event_pb2.Event.KIND_DEFERRED: ((3, "softBounced"),),
        event_pb2.Event.KIND_BOUNCED: ((4, "hardBounced"),),
        event_pb2.Event.KIND_EXPIRED: ((4, "hardBounced"),),
        event_pb2.Event.KIND_OPENED: ((5, "opened"),),
        event_pb2.Event.KIND_CLICKED: ((6, "clicked"),),
        event_pb2.Event.KIND_UNSUBSCRIBED: ((7, "unsubscribed"),),
        event_pb2.Event.KIND_COMPLAINED: ((8, "spam"),),
    }
)
"""Types and names of what happened."""
_SMTP_DROPPED = ((10, "smtpDropped"),)
_EVENT_IDS = uuid.UUID("5c8b6c0e-7f0e-5b52-8f3b-1b6c9a8d2e40")
"""Namespace of the ids of events."""
_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Person(Struct):
    """An address with a name."""

    email: str
    name: str = ""


class MessageRecipient(Struct):
    """Who a message went to. In the legacy contract copies are bare addresses, and custom fields are texts."""

    email: str
    name: str
    cc: list[Person | str]
    bcc: list[Person | str]
    customFields: dict[str, Any]  # noqa: N815  # names in the JSON


class SentFile(Struct):
    """A file that was attached; its content is not kept."""

    filename: str
    content: str = ""


class Message(Struct):
    """A message, with the names of both contracts."""

    messageId: str  # noqa: N815
    messageID: str  # noqa: N815
    accountID: int  # noqa: N815
    subAccountId: int  # noqa: N815
    subAccountID: int  # noqa: N815
    publicIp: str  # noqa: N815
    publicIP: str  # noqa: N815
    localIP: str  # noqa: N815
    ipID: int  # noqa: N815
    emailType: str  # noqa: N815
    submittedAt: int  # noqa: N815
    from_: Person = msgspec.field(name="from")
    replyTo: Person  # noqa: N815
    to: MessageRecipient
    headerTo: MessageRecipient  # noqa: N815
    headerCc: list[Person | str] | None  # noqa: N815
    headerBcc: list[Person | str] | None  # noqa: N815
    attachments: list[SentFile | str] | None
    groups: list[str]
    ipPool: str  # noqa: N815
    accountIPPoolID: int  # noqa: N815
    headers: dict[str, str]
    customFields: dict[str, Any]  # noqa: N815
    subject: str
    preText: str  # noqa: N815
    trackOpens: bool  # noqa: N815
    trackClicks: bool  # noqa: N815
    attempt: int
    webhookEndpoint: str  # noqa: N815
    htmlBody: str | None = None  # noqa: N815
    textBody: str | None = None  # noqa: N815
    ampBody: str | None = None  # noqa: N815
    mxRecords: list[str] | None = None  # noqa: N815


class EventMetadata(Struct, omit_defaults=True):
    """More of an event."""

    smtpCode: int | None = None  # noqa: N815
    smtpDescription: str | None = None  # noqa: N815
    clickedUrl: str | None = None  # noqa: N815
    clickedURL: str | None = None  # noqa: N815
    trackedIp: str | None = None  # noqa: N815
    trackedIP: str | None = None  # noqa: N815
    rawUserAgent: str | None = None  # noqa: N815


class MessageEvent(Struct):
    """Something that happened to a message, with the names of both contracts."""

    eventId: str  # noqa: N815
    eventID: str  # noqa: N815
    messageId: str  # noqa: N815
    messageID: str  # noqa: N815
    type: int
    typeName: str  # noqa: N815
    from_: str = msgspec.field(name="from")
    fromName: str  # noqa: N815
    to: str
    toName: str  # noqa: N815
    subject: str
    messageSubject: str  # noqa: N815
    messageType: str  # noqa: N815
    groups: list[str]
    submittedAt: int  # noqa: N815
    timestamp: int
    smtpCode: int  # noqa: N815
    smtpDescription: str  # noqa: N815
    accountID: int  # noqa: N815
    subAccountID: int  # noqa: N815
    ipID: int  # noqa: N815
    ipPoolID: int  # noqa: N815
    domainID: int  # noqa: N815
    tpspId: int  # noqa: N815
    eventMetadata: EventMetadata  # noqa: N815


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    key = Key.ACCOUNT
    span = (
        Parameter("from", Kind.START, "Accepted at this time or later.", required=True),
        Parameter("to", Kind.END, f"Accepted before this time; at most {MOST_DAYS} days later.", required=True),
    )
    pages = paging(50, 100)
    one = "/account/message/{message_id}"
    return [
        Operation(
            "GET",
            "/account/message",
            "list_messages",
            "Messages, the newest first.",
            listed,
            key,
            (*span, *pages),
            answer=list[Message],
        ),
        Operation("GET", one, "get_message", "One message.", get, key, answer=Message),
        Operation(
            "GET",
            f"{one}/events",
            "list_message_events",
            "What happened to a message, the oldest first.",
            events,
            key,
            (Parameter("subAccountId", Kind.WHOLE, "Without effect."),),
            answer=list[MessageEvent],
            unknown_status=406,
        ),
        Operation(
            "GET",
            "/account/recipient/{recipient}/messages",
            "list_messages_of_recipient",
            "Messages to an address, the newest first.",
            of_recipient,
            key,
            pages,
            answer=list[Message],
        ),
    ]


async def listed(call: Call) -> list[Message]:
    """A page of them."""
    start, end = call.query["from"], call.query["to"]
    if end <= start:
        raise errors.invalid_query("from", "from must be before to.")
    if end - start > (MOST_DAYS + 1) * times.DAY:
        raise errors.invalid_query("to", f"to must not be more than {MOST_DAYS} days after from.")
    return await _page(call, history.MessageRecordFilter(start_time=times.stamp(start), end_time=times.stamp(end)))


async def of_recipient(call: Call) -> list[Message]:
    """A page of the messages to an address."""
    recipient = call.request.path_params["recipient"].strip()
    if not 0 < len(recipient) <= 320 or not recipient.isprintable():
        return []
    return await _page(call, history.MessageRecordFilter(recipient=recipient))


async def get(call: Call) -> Message:
    """One of them."""
    return await _shown(call, await _record(call, RECORDS.RECORD_VIEW_FULL))


async def events(call: Call) -> list[MessageEvent]:
    """What happened to one."""
    record = await _record(call, RECORDS.RECORD_VIEW_EVENTS)
    message = await _shown(call, record)
    return [_event(message, record, event, kind) for event in record.events for kind in _kinds(event)]


async def _page(call: Call, wanted: history.MessageRecordFilter) -> list[Message]:
    wanted.include_descendants = wanted.without_notifications = True
    request = history.ListMessageRecordsRequest(
        parent="tenants/me", filter=wanted, include_descendants=True, view=RECORDS.RECORD_VIEW_FULL
    )
    if call.query["offset"] > MAX_OFFSET:
        raise errors.invalid_query("offset", f"offset must not be more than {MAX_OFFSET}: ask for a shorter time.")
    return [await _shown(call, record) for record in await call.page("history", "ListMessageRecords", request)]


MAX_OFFSET = 10_000
"""Messages that a list can pass over."""
RECENT_SECONDS = 30.0
"""A message that is younger may not be on record yet."""
PATIENCE_SECONDS = 5.0
"""How long it is looked for."""
LOOK_SECONDS = 0.1


async def _record(call: Call, view: RECORDS.ValueType) -> history.MessageRecord:
    """The record that the path names. Raises Problem."""
    text = call.request.path_params["message_id"]
    if not _ID.fullmatch(text):
        raise _unknown(call)
    request = history.BatchGetMessageRecordsRequest(
        parent="tenants/me", names=[f"tenants/me/messages/{text.lower()}"], include_descendants=True, view=view
    )
    started = time.time()
    while True:
        answer: history.BatchGetMessageRecordsResponse = await call.ask("history", "BatchGetMessageRecords", request)
        if answer.message_records:
            return answer.message_records[0]
        if time.time() - started > PATIENCE_SECONDS or not _is_recent(text, started):
            raise _unknown(call)
        await asyncio.sleep(LOOK_SECONDS)


def _is_recent(text: str, now: float) -> bool:
    """Whether the message with this UUID (version 7: RFC 9562 §5.7) was accepted just now."""
    return abs(now - int(text[:8] + text[9:13], 16) / 1000) < RECENT_SECONDS


def _unknown(call: Call) -> Problem:
    return call.unknown("Message")


async def _shown(call: Call, record: history.MessageRecord) -> Message:
    _, tenant, _, number = record.name.split("/")
    accounts, id_ = call.dialect.accounts, int(number)
    account = (await accounts.own(call)).number
    sub_account = await accounts.number(call, f"tenants/{tenant}")
    given = _object_in(record.properties)
    author = _person(given.get("from"), record.sender)
    to = _recipient(record, _object(given.get("to")), call.legacy, call.dialect.parts.mock_domain)
    uuid_ = messageids.uuid(id_)
    return Message(
        messageId=uuid_,
        messageID=uuid_,
        accountID=account,
        subAccountId=sub_account,
        subAccountID=sub_account,
        publicIp=record.egress_source,
        publicIP=record.egress_source,
        localIP="",
        ipID=0,
        emailType=counters.provider(record.recipient.rpartition("@")[2]),
        submittedAt=messageids.unix_ms(id_) * 1_000_000,
        from_=author,
        replyTo=_person(given.get("reply_to"), author.email) if given.get("reply_to") else author,
        to=to,
        headerTo=to,
        headerCc=to.cc or None,
        headerBcc=None,
        attachments=_files(given.get("attachments"), call.legacy),
        groups=list(record.tags),
        ipPool=_text(given.get("pool")),
        accountIPPoolID=0,
        headers={name: text for name, text in _object(given.get("headers")).items() if isinstance(text, str)},
        customFields=to.customFields,
        subject=record.subject,
        preText=_text(given.get("pre_text")),
        trackOpens=given.get("track_opens") is True,
        trackClicks=given.get("track_clicks") is True,
        attempt=0,
        webhookEndpoint=_text(given.get("webhook_endpoint")),
    )


def _recipient(
    record: history.MessageRecord, given: Mapping[str, Any], legacy: bool, mock_domain: str = ""
) -> MessageRecipient:
    """The recipient as the sender named it; of a copy only its address. A mocked one is shown as what it stands for."""
    email = _text(given.get("email"))
    mocked = bool(mock_domain and email) and record.recipient.endswith(f"@{mock_domain}")
    own = mocked or email.lower() == record.recipient.lower()
    name = _text(given.get("name")) if own else ""
    values = _object(given.get("custom_fields"))
    return MessageRecipient(
        email=email if mocked else record.recipient,
        name=name,
        cc=_copies(given.get("cc"), legacy),
        bcc=_copies(given.get("bcc"), legacy),
        customFields={name: letter.words(value) for name, value in values.items()} if legacy else dict(values),
    )


def _copies(given: Any, legacy: bool) -> list[Person | str]:
    found = [_person(one, "") for one in given] if isinstance(given, list) else []
    return [one.email if legacy else one for one in found if one.email]


def _files(given: Any, legacy: bool) -> list[SentFile | str] | None:
    named = [_text(_object(one).get("filename")) for one in given] if isinstance(given, list) else []
    return [name if legacy else SentFile(name) for name in named] or None


def _person(given: Any, otherwise: str) -> Person:
    values = _object(given)
    return Person(_text(values.get("email")) or otherwise, _text(values.get("name")))


def _object_in(text: str) -> Mapping[str, Any]:
    try:
        return _object(msgspec.json.decode(text)) if text else {}
    except msgspec.DecodeError:
        return {}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _kinds(event: event_pb2.Event) -> Sequence[tuple[int, str]]:
    if event.kind == event_pb2.Event.KIND_BOUNCED and not event.code:  # no remote server took part
        return _SMTP_DROPPED
    return _EVENTS.get(event.kind, ())


def _event(
    message: Message, record: history.MessageRecord, event: event_pb2.Event, kind: tuple[int, str]
) -> MessageEvent:
    type_, name = kind
    time = times.nanoseconds(event.time)
    id_ = str(uuid.uuid5(_EVENT_IDS, f"{message.messageId} {event.kind} {time} {name}"))
    said = " ".join(filter(None, (event.enhanced_code, event.text)))
    return MessageEvent(
        eventId=id_,
        eventID=id_,
        messageId=message.messageId,
        messageID=message.messageId,
        type=type_,
        typeName=name,
        from_=message.from_.email,
        fromName=message.from_.name,
        to=message.to.email,
        toName=message.to.name,
        subject=record.subject,
        messageSubject=record.subject,
        messageType=message.emailType,
        groups=message.groups,
        submittedAt=message.submittedAt,
        timestamp=time,
        smtpCode=event.code,
        smtpDescription=said,
        accountID=message.accountID,
        subAccountID=message.subAccountId,
        ipID=0,
        ipPoolID=0,
        domainID=0,
        tpspId=0,
        eventMetadata=EventMetadata(
            event.code or None,
            said or None,
            event.url or None,
            event.url or None,
            event.ip_address or None,
            event.ip_address or None,
            event.user_agent or None,
        ),
    )
