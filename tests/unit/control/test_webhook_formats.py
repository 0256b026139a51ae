"""Webhooks in the forms of other services: exact bodies, signatures, who is told what under which name."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sendpost_python_sdk.models.webhook_object import WebhookObject

from control.model import messageids
from control.model.events import EventKind, PastEvent
from control.model.webhooks import Format, Kind
from control.store.webhooks import Settings
from control.webhooks import agents, composing
from control.webhooks.composing import Context, native, properties_of
from control.webhooks.formats import RENDERERS
from control.webhooks.rendering import Origin, Posting, Rendered, decode, encode
from control.webhooks.wanting import FIRSTS, KINDS, VOCABULARIES, sources, wanted

NOW = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
ID = messageids.first_at(NOW) + 5
KEY = "bk_abcdefghijkl_abcdefghijklmnopqrstuvwxyz234567"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.6099.1 Safari/537.36"
)
PROPERTIES: dict[str, Any] = {
    "dialect": "sendpost",
    "from": {"email": "Hello@Example.com", "name": "Hello"},
    "reply_to": {"email": "reply@example.com"},
    "to": {
        "email": "Ann@example.net", "name": "Ann", "cc": [{"email": "cc@example.net", "name": "C"}], "bcc": [],
        "custom_fields": {"n": 7, "text": "é"},
    },
    "headers": {"X-Mine": "1", "X-Odd": 5},
    "pool": "news", "track_opens": True, "track_clicks": False, "host": "mail.example.org",
    "metadata": {"order_id": "12345"},
}  # fmt: skip


def event(kind: EventKind = EventKind.DELIVERED, **changes: object) -> PastEvent:
    """An event of a message to Ann."""
    made = PastEvent(
        7, ID, ID, "acme", kind, NOW + timedelta(seconds=1), 1, 250, "2.0.0", "Ok", "mx.example.net", "ip1", "", 0, 0,
        None, "bounces@example.com", "ann@example.net", "ann@example.net", "marketing",
    )  # fmt: skip
    return made._replace(**changes)  # type: ignore[arg-type]


def rendered(format_: Format, *events: PastEvent, kind: Kind | None = None, attempt: int = 1) -> Rendered:
    """The request for events, as it is made after they were kept."""
    context = Context("Hé", ("a", "b"), PROPERTIES, Origin(12, 3, "192.0.2.9"))
    kept = [decode(encode(native(one, context, kind))) for one in events]
    return RENDERERS[format_].render(Posting("tenants/acme/webhooks/hook", attempt, 1000, (KEY, "older" * 4), kept))


def as_json(value: object) -> bytes:
    """The bytes of a value as they are posted."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


SUBMITTED = int(NOW.timestamp() * 1000) * 1_000_000
AUTHOR = {"email": "Hello@Example.com", "name": "Hello"}
RECIPIENT = {
    "email": "ann@example.net", "name": "Ann", "cc": [{"email": "cc@example.net", "name": "C"}], "bcc": [],
    "customFields": {"n": 7, "text": "é"},
}  # fmt: skip


def sendpost_event(type_: int, name: str, **changes: Any) -> dict[str, Any]:
    """What SendPost's form says of an event, in its order."""
    id_ = str(composing.event_id(event()))
    return {
        "eventId": id_, "eventID": id_, "messageId": messageids.uuid(ID), "messageID": messageids.uuid(ID),
        "type": type_, "typeName": name, "from": "Hello@Example.com", "fromName": "Hello", "to": "ann@example.net",
        "toName": "Ann", "subject": "Hé", "messageSubject": "Hé", "messageType": "default", "groups": ["a", "b"],
        "submittedAt": SUBMITTED, "timestamp": SUBMITTED + 10**9, "smtpCode": 250, "smtpDescription": "2.0.0 Ok",
        "accountID": 3, "subAccountID": 12, "ipID": 0, "ipPoolID": 0, "domainID": 0, "tpspId": 0,
        "eventMetadata": {"smtpCode": 250, "smtpDescription": "2.0.0 Ok"},
    } | changes  # fmt: skip


def sendpost_message(**changes: Any) -> dict[str, Any]:
    """What SendPost's form says of the message, in its order."""
    return {
        "messageID": messageids.uuid(ID), "accountID": 3, "subAccountID": 12, "ipID": 0, "publicIP": "192.0.2.9",
        "localIP": "", "emailType": "default", "submittedAt": SUBMITTED, "from": AUTHOR,
        "replyTo": {"email": "reply@example.com", "name": ""}, "to": RECIPIENT, "groups": ["a", "b"], "ipPool": "news",
        "headers": {"X-Mine": "1"}, "customFields": {"n": 7, "text": "é"}, "trackOpens": True, "trackClicks": False,
        "webhookEndpoint": "",
    } | changes  # fmt: skip


def test_sendpost_to_the_byte() -> None:
    made = rendered(Format.SENDPOST, event(), attempt=3)
    assert made.body == as_json({"event": sendpost_event(2, "delivered"), "emailMessage": sendpost_message()})
    # openssl dgst -sha256 -hmac would say the same: the key, the body, nothing else.
    assert made.headers == {
        "Content-Type": "application/json",
        "X-SendPost-Webhook-Id": str(composing.event_id(event())),
        "X-SendPost-Webhook-Attempt": "3",
        "X-SendPost-Signature": hmac.new(KEY.encode(), made.body, hashlib.sha256).hexdigest(),
        "X-SendPost-Signature-Alg": "hmac-sha256",
    }


def test_sendpost_to_the_byte_under_the_older_contract() -> None:
    made = rendered(Format.SENDPOST_LEGACY, event(EventKind.CLICKED, user_agent=CHROME, ip_address="::1", url="u"))
    fields = {"n": "7", "text": "é"}
    metadata = {
        "userAgent": {"Family": "Chrome", "Major": "120", "Minor": "0", "Patch": "6099"},
        "os": {"Family": "Windows", "Major": "10", "Minor": "0", "Patch": "", "PatchMinor": ""},
        "device": {"Family": "Windows Desktop"},
        "geo": {"cityID": 0, "countryCode": "", "continentCode": "", "postalCode": "", "timeZone": ""},
        "trackedIp": "::1",
        "trackedIP": "::1",
        "rawUserAgent": CHROME,
        "clickedUrl": "u",
        "clickedURL": "u",
    }
    about = sendpost_event(6, "clicked", smtpCode=0, smtpDescription="", eventMetadata=metadata)
    message = sendpost_message(to=RECIPIENT | {"cc": ["cc@example.net"], "customFields": fields}, customFields=fields)
    assert made.body == as_json({"event": about, "emailMessage": message})


def test_sendpost_names_parts_of_an_agent_by_contract() -> None:
    body = json.loads(rendered(Format.SENDPOST, event(EventKind.OPENED, user_agent=CHROME)).body)
    metadata = body["event"]["eventMetadata"]
    assert metadata["os"] == {"family": "Windows", "major": "10", "minor": "0", "patch": "", "patchMinor": ""}
    assert metadata["device"] == {"family": "Windows Desktop"}
    assert metadata["geo"]["cityId"] == 0
    assert "clickedUrl" not in metadata


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind in KINDS])
def test_sendposts_own_library_reads_it(kind: EventKind) -> None:
    told = event(kind, user_agent=CHROME, ip_address="192.0.2.1", url="https://example.com/")
    for name in wanted(_settings(Format.SENDPOST, *Kind), told):
        read = WebhookObject.from_dict(json.loads(rendered(Format.SENDPOST, told, kind=name).body))
        assert read is not None
        assert read.event.message_id == read.email_message.message_id == messageids.uuid(ID)
        assert read.email_message.to.custom_fields == {"n": 7, "text": "é"}


SENDPOST_NAMES = [
    (EventKind.RECEIVED, {}, [(0, "processed"), (9, "sent")]),
    (EventKind.DROPPED, {"code": 0}, [(0, "processed"), (1, "dropped")]),
    (EventKind.DELIVERED, {}, [(2, "delivered")]),
    (EventKind.DEFERRED, {"code": 450}, [(3, "softBounced")]),
    (EventKind.BOUNCED, {"code": 550}, [(4, "hardBounced")]),
    (EventKind.BOUNCED, {"code": 0}, [(10, "smtpDropped")]),
    (EventKind.EXPIRED, {"code": 0}, [(4, "hardBounced")]),
    (EventKind.OPENED, {}, [(5, "opened")]),
    (EventKind.CLICKED, {}, [(6, "clicked")]),
    (EventKind.UNSUBSCRIBED, {}, [(7, "unsubscribed")]),
    (EventKind.COMPLAINED, {}, [(8, "spam")]),
]


@pytest.mark.parametrize("format_", [Format.SENDPOST, Format.SENDPOST_LEGACY])
@pytest.mark.parametrize(("kind", "changes", "expected"), SENDPOST_NAMES)
def test_sendposts_names(
    kind: EventKind, changes: dict[str, object], expected: list[tuple[int, str]], format_: Format
) -> None:
    told = event(kind, **changes)
    settings = _settings(format_, *(one for one in Kind if one is not Kind.EXPIRED))
    bodies = [json.loads(rendered(format_, told, kind=one).body)["event"] for one in wanted(settings, told)]
    assert [(body["type"], body["typeName"]) for body in bodies] == expected
    assert len({body["eventId"] for body in bodies}) == len(bodies)


SENDPULSE_COMMON = {
    "timestamp": int(NOW.timestamp()) + 1, "message_id": ID, "recipient": "ann@example.net",
    "sender": "bounces@example.com", "subject": "Hé",
}  # fmt: skip
SENDPULSE_REPLY = {
    "smtp_server_response_code": "250", "smtp_server_response_subcode": "2.0.0", "smtp_server_response": "Ok",
}  # fmt: skip
SENDPULSE_DID = {"ip": "192.0.2.1", "user_agent": "x"}


def test_sendpulse_to_the_byte() -> None:
    did = {"ip_address": "192.0.2.1", "user_agent": "x", "url": "https://example.com/?a=1&b=2"}
    made = rendered(
        Format.SENDPULSE,
        event(),
        event(EventKind.DEFERRED, code=450, enhanced_code="4.2.2", reply="Full"),
        event(EventKind.BOUNCED, code=550, enhanced_code="5.1.1", reply="No"),
        event(EventKind.EXPIRED, code=0, enhanced_code="4.4.1", reply="Late"),
        event(EventKind.OPENED, **did),
        event(EventKind.CLICKED, **did),
        event(EventKind.UNSUBSCRIBED, **did),
        event(EventKind.COMPLAINED, **did),
    )
    full = {"smtp_server_response_code": "450", "smtp_server_response_subcode": "4.2.2", "smtp_server_response": "Full"}
    no = {"smtp_server_response_code": "550", "smtp_server_response_subcode": "5.1.1", "smtp_server_response": "No"}
    late = {
        "smtp_server_response_code": "",
        "smtp_server_response_subcode": "4.4.1",
        "smtp_server_response": "Late",
    }
    email = {"email": "ann@example.net"}
    assert made.body == as_json(
        [
            {"event": "delivered", **SENDPULSE_COMMON, **SENDPULSE_REPLY},
            {"event": "soft_bounces", **SENDPULSE_COMMON, **email, **full},
            {"event": "undelivered", **SENDPULSE_COMMON, **no},
            {"event": "hard_bounces", **SENDPULSE_COMMON, **email, **no},
            {"event": "undelivered", **SENDPULSE_COMMON, **late},
            {"event": "opened", **SENDPULSE_COMMON, **SENDPULSE_DID},
            {"event": "clicked", **SENDPULSE_COMMON, "link_url": did["url"], **SENDPULSE_DID},
            {"event": "unsubscribed", **SENDPULSE_COMMON, **SENDPULSE_DID},
            {"event": "spam_by_user", **SENDPULSE_COMMON, **SENDPULSE_DID},
        ]
    )
    assert set(made.headers) == {"Content-Type", "Barua-Signature"}


def _mailpass_data(**further: Any) -> dict[str, Any]:
    return {
        "message_id": messageids.message_id(ID, "mail.example.org"), "queue_id": ID, "from_email": "Hello@Example.com",
        "to_email": "ann@example.net", "subject": "Hé", "tags": ["a", "b"],
        "metadata": PROPERTIES["metadata"], **further,
    }  # fmt: skip


_DID = {"ip_address": "192.0.2.1", "user_agent": "x"}


@pytest.mark.parametrize(
    ("kind", "changes", "name", "further"),
    [
        (EventKind.RECEIVED, {}, "email.sent", {}),
        (EventKind.DELIVERED, {}, "email.delivered", {}),
        (EventKind.OPENED, _DID, "email.opened", _DID),
        (EventKind.CLICKED, {**_DID, "url": "u"}, "email.clicked", {**_DID, "url": "u"}),
        (
            EventKind.BOUNCED,
            {"code": 550, "enhanced_code": "5.1.1", "reply": "No"},
            "email.bounced",
            {"bounce_type": "hard", "bounce_subtype": "5.1.1", "diagnostic_code": "550 5.1.1 No"},
        ),
        (
            EventKind.EXPIRED,
            {"code": 0, "enhanced_code": "4.4.1", "reply": "Late"},
            "email.bounced",
            {"bounce_type": "soft", "bounce_subtype": "4.4.1", "diagnostic_code": "4.4.1 Late"},
        ),
        (
            EventKind.COMPLAINED,
            _DID,
            "email.complained",
            {"bounce_type": "complaint", "bounce_subtype": "", "diagnostic_code": "", **_DID},
        ),
    ],
)
def test_mailpass_to_the_byte(kind: EventKind, changes: dict[str, Any], name: str, further: dict[str, Any]) -> None:
    made = rendered(Format.MAILPASS, event(kind, **changes))
    expected = {"event": name, "timestamp": "2026-11-22T12:00:01Z", "data": _mailpass_data(**further)}
    assert made.body == as_json(expected)
    assert made.headers == {
        "Content-Type": "application/json",
        "X-Webhook-ID": str(composing.event_id(event())),
        "X-Webhook-Event": name,
        "X-Webhook-Signature": "sha256=" + hmac.new(KEY.encode(), made.body, hashlib.sha256).hexdigest(),
    }


def test_without_a_secret_nothing_is_signed() -> None:
    kept = [decode(encode(native(event(), Context("Hello"))))]
    for format_ in (Format.SENDPOST, Format.MAILPASS, Format.SENDPULSE):
        made = RENDERERS[format_].render(Posting("tenants/acme/webhooks/hook", 1, 1000, (), kept))
        assert not [name for name in made.headers if "signature" in name.lower()]


def _settings(format_: Format, *kinds: Kind) -> Settings:
    return Settings("", "https://example.com/", kinds, (), (), False, True, format_, b"", 50)


@pytest.mark.parametrize("format_", list(Format))
@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind in KINDS])
def test_every_word_of_a_format_can_be_rendered(format_: Format, kind: EventKind) -> None:
    for changes in ({}, {"code": 0}):
        told = event(kind, **changes)
        for name in wanted(_settings(format_, *Kind), told):
            assert name in VOCABULARIES[format_]
            assert rendered(format_, told, kind=name).body


@pytest.mark.parametrize(
    ("asked", "first", "expected"),
    [
        ((Kind.OPENED,), False, [Kind.OPENED]),
        ((Kind.OPENED,), True, [Kind.OPENED]),
        ((Kind.UNIQUE_OPENED,), True, [Kind.OPENED]),
        ((Kind.UNIQUE_OPENED,), False, []),
        ((Kind.UNIQUE_OPENED, Kind.OPENED), True, [Kind.OPENED]),
        ((Kind.UNIQUE_CLICKED,), True, []),
    ],
)
def test_the_first_of_several(asked: tuple[Kind, ...], first: bool, expected: list[Kind]) -> None:
    for format_ in (Format.NATIVE, Format.SENDPOST):
        assert wanted(_settings(format_, *asked), event(EventKind.OPENED, first=first)) == expected


def test_what_was_given_up_bounced_for_other_services_alone() -> None:
    late = event(EventKind.EXPIRED, code=0)
    assert wanted(_settings(Format.NATIVE, Kind.BOUNCED), late) == []
    for format_ in (Format.SENDPOST, Format.SENDPULSE, Format.MAILPASS):
        assert wanted(_settings(format_, Kind.BOUNCED), late) == [Kind.EXPIRED]


def test_reports_of_the_mta_are_told_in_our_own_form_alone() -> None:
    for format_ in Format:
        told = wanted(_settings(format_, *Kind), event(sender=""))
        assert bool(told) is (format_ is Format.NATIVE)


def test_a_replay_reads_whatever_a_webhook_may_want() -> None:
    for format_ in Format:
        for asked in (*((kind,) for kind in Kind), tuple(FIRSTS.values()), tuple(Kind)):
            settings = _settings(format_, *asked)
            for kind in KINDS:
                for changes in ({"first": True}, {"code": 0}):
                    told = event(kind, **changes)
                    if wanted(settings, told):
                        assert kind in sources(settings), (format_, asked, kind)


def test_an_event_keeps_its_id_under_its_other_name() -> None:
    bounced = event(EventKind.BOUNCED, code=0)
    assert composing.event_id(bounced, Kind.SMTP_DROPPED) == composing.event_id(bounced, Kind.BOUNCED)
    received = event(EventKind.RECEIVED)
    assert composing.event_id(received, Kind.ACCEPTED) == composing.event_id(received)
    assert composing.event_id(received, Kind.SENT) != composing.event_id(received)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
       | st.dictionaries(st.sampled_from([*PROPERTIES, "email", "name", "cc", "custom_fields"]), inner, max_size=4),
       max_leaves=12))  # fmt: skip
def test_odd_properties_break_no_format(value: object) -> None:
    properties = value if isinstance(value, dict) else {"from": value, "to": value, "metadata": value, "host": value}
    kept = decode(encode(native(event(), Context("s", (), properties_of(json.dumps(properties))))))
    for renderer in RENDERERS.values():
        json.loads(renderer.render(Posting("tenants/acme/webhooks/hook", 1, 1000, (KEY,), [kept])).body)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a": NaN}', "{}x", "nul", '{"a":' * 5000 + "1" + "}" * 5000])
def test_what_is_no_json_object_says_nothing(text: str) -> None:
    assert properties_of(text) == {}


SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
ANDROID = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile"
MAC = f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {SAFARI}"
PHONE = f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_0_3 like Mac OS X) {SAFARI} Version/17.1 Mobile/15E148 Safari/604.1"
GECKO = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101"
PROXY = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"


@pytest.mark.parametrize(
    ("text", "program", "system", "device"),
    [
        (CHROME, "Chrome", "Windows", "Windows Desktop"),
        (f"{CHROME} Edg/120.0.2210.61", "Edge", "Windows", "Windows Desktop"),
        (f"{CHROME} OPR/106.0", "Opera", "Windows", "Windows Desktop"),
        (f"{ANDROID} Safari/537.36", "Chrome", "Android", "Android"),
        (f"{GECKO} Firefox/121.0", "Firefox", "Linux", "Other"),
        (f"{GECKO} Thunderbird/115.6.0", "Thunderbird", "Linux", "Other"),
        (f"{MAC} Version/17.1 Safari/605.1.15", "Safari", "macOS", "Mac"),
        (PHONE, "Safari", "iOS", "iPhone"),
        (MAC, "Apple Mail", "macOS", "Mac"),
        (PROXY, "Gmail", "Windows", "Windows Desktop"),
        ("curl/8.5.0", "curl", "Other", "Other"),
        ("", "Other", "Other", "Other"),
        ("Mozilla/5.0", "Other", "Other", "Other"),
    ],
)
def test_agents(text: str, program: str, system: str, device: str) -> None:
    agent = agents.read(text)
    assert (agent.program.family, agent.system.family, agent.device) == (program, system, device)


def test_versions_of_agents() -> None:
    agent = agents.read(PHONE)
    assert agent.system.version == ("17", "0", "3", "")
    assert agent.program.version == ("17", "1", "", "")


@given(st.text(max_size=300))
def test_any_agent_can_be_read(text: str) -> None:
    assert agents.read(text + base64.b64encode(text.encode()).decode()).device
