"""Events as SendPost posts them: one in a request, with the message it is about, signed over the body.

    {"event": {"eventId": ..., "type": 2, "typeName": "delivered", ...}, "emailMessage": {"messageID": ..., ...}}

Header fields: ``X-SendPost-Signature``, the HMAC-SHA256 of the body in hexadecimal, ``X-SendPost-Signature-Alg``,
``X-SendPost-Webhook-Id``, the UUID of the event, the same in every attempt, and ``X-SendPost-Webhook-Attempt``, from 1.
A receiver checks a request so::

    hmac.compare_digest(hmac.new(key.encode(), body, hashlib.sha256).hexdigest(), header)

That service has two contracts that name things differently. Both spellings are in both forms, except where doubling
would be ugly or types differ: the parts of a user agent, custom fields that are no texts, copies. Times are nanoseconds
since 1970, of which we know milliseconds. There is no database of places: ``geo`` is empty.

``Message.properties`` gives what only the submitter knew; whatever is not of the expected type there is left out. Pure.
"""

import hmac
from datetime import datetime
from typing import Any

import msgspec

from control.model import messageids
from control.webhooks import agents, schedule
from control.webhooks.rendering import Event, Message, Origin, Posting, Rendered, Reply

_TYPES: dict[str, tuple[int, str]] = {
    "accepted": (0, "processed"),
    "dropped": (1, "dropped"),
    "delivered": (2, "delivered"),
    "test": (2, "delivered"),
    "deferred": (3, "softBounced"),
    "bounced": (4, "hardBounced"),
    "expired": (4, "hardBounced"),
    "opened": (5, "opened"),
    "clicked": (6, "clicked"),
    "unsubscribed": (7, "unsubscribed"),
    "complained": (8, "spam"),
    "sent": (9, "sent"),
    "smtp_dropped": (10, "smtpDropped"),
}
_NO_GEO: dict[str, Any] = {"countryCode": "", "continentCode": "", "postalCode": "", "timeZone": ""}
_MAILBOXES = {
    **dict.fromkeys(("gmail.com", "googlemail.com"), "gmail"),
    **dict.fromkeys(("yahoo.com", "ymail.com", "rocketmail.com", "aol.com"), "yahoo"),
    **dict.fromkeys(("outlook.com", "hotmail.com", "live.com", "msn.com"), "microsoft"),
}
"""Classes of recipients by their domain; all others are "default"."""


class SendPostRenderer:
    """The form of SendPost under one of its contracts."""

    schedule = schedule.SENDPOST
    max_batch = 1
    gathering_seconds = 0.0

    def __init__(self, *, legacy: bool) -> None:
        self._legacy = legacy

    def render(self, posting: Posting) -> Rendered:
        """The request for an event."""
        (event,) = posting.events
        message = event.message
        assert message is not None, "only what is about a message is in this form's vocabulary"
        content = {
            "event": _event(event, message, self._legacy),
            "emailMessage": _message(event, message, self._legacy),
        }
        body = msgspec.json.encode(content)
        headers = {
            "Content-Type": "application/json",
            "X-SendPost-Webhook-Id": event.id,
            "X-SendPost-Webhook-Attempt": str(posting.attempt),
        }
        if posting.secrets:
            headers["X-SendPost-Signature"] = hmac.digest(posting.secrets[0].encode(), body, "sha256").hex()
            headers["X-SendPost-Signature-Alg"] = "hmac-sha256"
        return Rendered(headers, body)


def _event(event: Event, message: Message, legacy: bool) -> dict[str, Any]:
    type_, name = _TYPES[event.kind]
    author, to = _address(message.properties.get("from"), message.sender), _recipient(message, legacy)
    origin, reply = event.origin or Origin(), event.reply or Reply()
    return {
        "eventId": event.id,
        "eventID": event.id,
        "messageId": message.ids.uuid,
        "messageID": message.ids.uuid,
        "type": type_,
        "typeName": name,
        "from": author["email"],
        "fromName": author["name"],
        "to": message.recipient,
        "toName": to["name"],
        "subject": message.subject,
        "messageSubject": message.subject,
        "messageType": _mailbox(message.recipient),
        "groups": list(message.tags),
        "submittedAt": _submitted(message),
        "timestamp": _nanoseconds(event.time),
        "smtpCode": reply.code,
        "smtpDescription": _said(reply),
        "accountID": origin.account,
        "subAccountID": origin.tenant,
        "ipID": 0,
        "ipPoolID": 0,
        "domainID": 0,
        "tpspId": 0,
        "eventMetadata": _metadata(event, reply, legacy),
    }


def _metadata(event: Event, reply: Reply, legacy: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if event.reply is not None:
        metadata = {"smtpCode": reply.code, "smtpDescription": _said(reply)}
    did = event.engagement
    if did is None:
        return metadata
    agent = agents.read(did.user_agent)
    spell = str.capitalize if legacy else str.lower
    metadata |= {
        "userAgent": _named(agent.program, 3, legacy),
        "os": _named(agent.system, 4, legacy),
        "device": {spell("family"): agent.device},
        "geo": {"cityID" if legacy else "cityId": 0, **_NO_GEO},
        "trackedIp": did.ip_address,
        "trackedIP": did.ip_address,
        "rawUserAgent": did.user_agent,
    }
    if event.kind == "clicked":
        metadata |= {"clickedUrl": did.url, "clickedURL": did.url}
    return metadata


def _named(named: agents.Named, parts: int, legacy: bool) -> dict[str, str]:
    names = ("Family", "Major", "Minor", "Patch", "PatchMinor") if legacy else _LOWER
    return dict(zip(names, (named.family, *named.version[:parts]), strict=False))


_LOWER = ("family", "major", "minor", "patch", "patchMinor")


def _message(event: Event, message: Message, legacy: bool) -> dict[str, Any]:
    properties, origin = message.properties, event.origin or Origin()
    author = _address(properties.get("from"), message.sender)
    to = _recipient(message, legacy)
    return {
        "messageID": message.ids.uuid,
        "accountID": origin.account,
        "subAccountID": origin.tenant,
        "ipID": 0,
        "publicIP": origin.address,
        "localIP": "",
        "emailType": _mailbox(message.recipient),
        "submittedAt": _submitted(message),
        "from": author,
        "replyTo": _address(properties.get("reply_to"), "") if properties.get("reply_to") else author,
        "to": to,
        "groups": list(message.tags),
        "ipPool": _text(properties.get("pool")),
        "headers": {name: text for name, text in _object(properties.get("headers")).items() if isinstance(text, str)},
        "customFields": to["customFields"],
        "trackOpens": properties.get("track_opens") is True,
        "trackClicks": properties.get("track_clicks") is True,
        "webhookEndpoint": _text(properties.get("webhook_endpoint")),
    }


def _recipient(message: Message, legacy: bool) -> dict[str, Any]:
    """The envelope recipient, with what the submitter said of it."""
    given = _object(message.properties.get("to"))
    own = _text(given.get("email")).lower() == message.recipient.lower()
    fields = _object(given.get("custom_fields"))
    copies = {name: _copies(given.get(name), legacy) for name in ("cc", "bcc")}
    return {
        "email": message.recipient,
        "name": _text(given.get("name")) if own else "",
        **copies,
        "customFields": {name: _as_text(value) for name, value in fields.items()} if legacy else fields,
    }


def _copies(value: object, legacy: bool) -> list[Any]:
    found = [_address(one, "") for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return [one["email"] for one in found] if legacy else found


def _address(value: object, otherwise: str) -> dict[str, str]:
    given = _object(value)
    return {"email": _text(given.get("email")) or otherwise, "name": _text(given.get("name"))}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _said(reply: Reply) -> str:
    return " ".join(filter(None, (reply.enhanced_code, reply.text)))


def _mailbox(recipient: str) -> str:
    return _MAILBOXES.get(recipient.rpartition("@")[2].lower(), "default")


def _submitted(message: Message) -> int:
    return messageids.unix_ms(int(message.ids.number)) * 1_000_000


def _nanoseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000) * 1_000_000
