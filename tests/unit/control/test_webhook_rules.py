"""Webhooks: signatures, pauses, filters, header fields, the form of a payload."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.model import messageids, webhooks
from control.model.events import EventKind, PastEvent
from control.model.webhooks import Format, Kind
from control.store.webhooks import Settings, Webhook
from control.webhooks import schedule, signing
from control.webhooks.composing import Context, native
from control.webhooks.formats import RENDERERS
from control.webhooks.rendering import Posting, decode, encode
from control.webhooks.wanting import wanted
from mta.runtime.refusals import Refusal

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def _documented_check() -> Any:
    """The function that the documentation tells receivers to use, as it stands there."""
    text = signing.__doc__ or ""
    code = re.search(r"    import hashlib.*?parts\)\n", text, re.DOTALL)
    assert code is not None
    namespace: dict[str, object] = {}
    exec(re.sub(r"^    ", "", code[0], flags=re.MULTILINE), namespace)
    return namespace["is_genuine"]


def test_the_documented_check_takes_what_we_sign_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    is_genuine = _documented_check()
    monkeypatch.setattr("time.time", lambda: 1000.0)
    header = signing.signature(["new", "old"], 1000, b"body")
    assert header.count("v1=") == 2
    for secret in ("new", "old"):
        assert is_genuine(header, b"body", secret)
    assert not is_genuine(header, b"body", "other")
    assert not is_genuine(header, b"Body", "new")
    assert not is_genuine(header.replace("t=1000", "t=1001"), b"body", "new")
    assert not is_genuine(signing.signature(["new"], 600, b"body"), b"body", "new")
    for broken in ("", "v1=", "t=", "t=1000", "t=x,v1=00", "t=1000,v1=é"[:-1]):
        assert not is_genuine(broken, b"body", "new")


def test_a_signature_is_known_in_advance() -> None:
    # openssl: printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec_x
    expected = "t=1700000000,v1=be8cb8325f2202445260a855532f967e30ad2a9394ce28da66ee02880ddcb661"
    assert signing.signature(["whsec_x"], 1700000000, b"{}") == expected


@pytest.mark.parametrize("plan", [schedule.NATIVE, schedule.SENDPOST])
def test_pauses_grow_and_end(plan: schedule.Schedule) -> None:
    pauses = [plan.pause(attempt, 0.5) for attempt in range(1, len(plan.pauses) + 1)]
    assert pauses == list(plan.pauses)
    assert plan.pause(len(plan.pauses) + 1, 0.5) is None
    assert plan.pause(0, 0.5) is None


def test_ours_ends_within_three_days_and_theirs_is_as_documented() -> None:
    assert 2.9 * 86_400 < sum(schedule.NATIVE.pauses) <= 3 * 86_400
    assert list(schedule.SENDPOST.pauses) == [60, 300, 1800, 7200, 86_400]
    assert [schedule.SENDPOST.pause(attempt, chance) for attempt in range(1, 7) for chance in (0, 1)] == [
        *(60, 60, 300, 300, 1800, 1800, 7200, 7200, 86_400, 86_400, None, None)
    ]
    assert sum(schedule.NATIVE.pauses) * (1 + schedule.JITTER) < schedule.LIFETIME_SECONDS


@given(st.integers(1, 10), st.floats(0, 1))
def test_jitter_stays_in_bounds(attempt: int, chance: float) -> None:
    pause = schedule.NATIVE.pause(attempt, chance)
    assert pause is not None
    exact = schedule.NATIVE.pauses[attempt - 1]
    assert exact * 0.849 <= pause <= exact * 1.151


def test_an_endpoint_is_left_alone_longer_and_longer_but_not_for_ever() -> None:
    pauses = [schedule.endpoint_pause(failures) for failures in range(40)]
    assert pauses[:5] == [0, 0, 0, 5, 10]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 600


def _webhook(**changes: object) -> Webhook:
    settings: dict[str, object] = {
        "display_name": "", "url": "https://example.com/", "kinds": (Kind.DELIVERED, Kind.BOUNCED), "streams": (),
        "sender_domains": (), "include_subtree": False, "enabled": True, "format": Format.NATIVE, "sealed_headers": b"",
        "batch_size": 50,
    }  # fmt: skip
    return Webhook(
        "acme", "hook", 1, Settings(**{**settings, **changes}), b"", None, None, "", None, 0, None, NOW, NOW, 1  # type: ignore[arg-type]
    )  # fmt: skip


def _event(**changes: object) -> PastEvent:
    id_ = messageids.first_at(NOW)
    event = PastEvent(
        7, id_, id_, "acme", EventKind.DELIVERED, NOW, 1, 250, "2.0.0", "Ok", "mx.example.net", "ip1", "", 0, 0, None,
        "news@Example.com", "ann@example.net", "ann@example.net", "marketing",
    )  # fmt: skip
    return event._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "event", "expected"),
    [
        ({}, {}, True),
        ({}, {"kind": EventKind.DEFERRED}, False),
        ({"streams": ("marketing", "other")}, {}, True),
        ({"streams": ("other",)}, {}, False),
        ({"streams": ("other",)}, {"stream": ""}, False),
        ({"sender_domains": ("example.com",)}, {}, True),
        ({"sender_domains": ("example.org",)}, {}, False),
        ({"sender_domains": ("example.com",)}, {"sender": ""}, False),
        ({"sender_domains": ("xn--bcher-kva.example",)}, {"sender": "a@Bücher.example"}, True),
        ({"sender_domains": ("example.com",)}, {"sender": "a@b\u00fc cher.example"}, False),
    ],
)
def test_filters(settings: dict[str, object], event: dict[str, object], expected: bool) -> None:
    assert bool(wanted(_webhook(**settings).settings, _event(**event))) is expected


def test_an_event_has_one_id_wherever_it_is_made() -> None:
    first = native(_event())
    assert native(_event()).id == first.id
    assert str(UUID(first.id)) == first.id
    others = {native(_event(event_number=8)).id, native(_event(recipient_id=5)).id}
    assert first.id not in others
    assert len(others) == 2


def test_the_native_payload() -> None:
    event = decode(encode(native(_event(), Context("Hello"))))
    rendered = RENDERERS[Format.NATIVE].render(Posting("tenants/acme/webhooks/hook", 2, 1000, ("s",), [event]))
    body = json.loads(rendered.body)
    id_ = messageids.first_at(NOW)
    assert body == {
        "webhook": "tenants/acme/webhooks/hook",
        "attempt": 2,
        "events": [
            {
                "id": event.id,
                "kind": "delivered",
                "time": "2026-11-22T12:00:00.000Z",
                "tenant": "tenants/acme",
                "message": {
                    "name": f"tenants/acme/messages/{id_}",
                    "ids": {
                        "number": str(id_),
                        "message": str(id_),
                        "mspace": f"msg_{id_}",
                        "uuid": messageids.uuid(id_),
                        "base36": event.message.ids.base36 if event.message else "",
                    },
                    "sender": "news@Example.com",
                    "recipient": "ann@example.net",
                    "subject": "Hello",
                    "stream": "marketing",
                },
                "attempt": 1,
                "reply": {"code": 250, "enhanced_code": "2.0.0", "text": "Ok", "host": "mx.example.net"},
                "source": "ip1",
            }
        ],
    }
    assert rendered.headers["Content-Type"] == "application/json"
    assert rendered.headers[signing.HEADER] == signing.signature(["s"], 1000, rendered.body)


@given(st.integers(0, messageids.MAX_ID))
def test_every_spelling_of_an_id_leads_back(id_: int) -> None:
    message = native(_event(recipient_id=id_, message_id=id_)).message
    assert message is not None
    for text in (message.ids.number, message.ids.mspace, message.ids.uuid, message.ids.base36):
        assert messageids.parse(text) == id_


def test_acceptance_has_no_reply_and_deferral_says_when_again() -> None:
    assert native(_event(kind=EventKind.RECEIVED)).reply is None
    later = native(_event(kind=EventKind.DEFERRED, next_attempt_at=NOW + timedelta(minutes=5)))
    assert later.next_attempt_time == "2026-11-22T12:05:00.000Z"


def test_header_fields_keep_what_is_not_said_again() -> None:
    assert webhooks.headers({"X-Key": "", "X-New": "b"}, {"X-Key": "a"}, "headers") == {"X-Key": "a", "X-New": "b"}


@pytest.mark.parametrize(
    "values",
    [
        {"X-Key": ""},
        {"X Key": "a"},
        {"X-Key": "a\r\nHost: b"},
        {"X-Key": " a"},
        {"X-Key": "ä"},
        {"X-Key": "a" * 1001},
        {"Host": "a"},
        {"content-length": "1"},
        {"Barua-Signature": "t=1"},
        {"x-key": "a", "X-Key": "b"},
        {f"X-{number}": "a" for number in range(21)},
    ],
)
def test_bad_header_fields(values: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        webhooks.headers(values, {}, "webhook.headers")
    assert refused.value.field == "webhook.headers"


@pytest.mark.parametrize("values", [[], [0], [99], [Kind.TEST], [1, 99]])
def test_bad_kinds(values: list[int]) -> None:
    with pytest.raises(Refusal):
        webhooks.kinds(values, Format.NATIVE, "event_kinds")


def test_good_kinds() -> None:
    assert webhooks.kinds([4, 1, 4], Format.NATIVE, "event_kinds") == [Kind.ACCEPTED, Kind.BOUNCED]
    assert webhooks.kinds([], Format.SENDPOST, "event_kinds") == []


@pytest.mark.parametrize("value", ["x" * 16, "~!" * 100, "bk_abcdefghijkl_abcdefghijklmnopqrstuvwxyz234567"])
def test_good_secrets(value: str) -> None:
    assert webhooks.secret(value, "webhook.secret") == value


@pytest.mark.parametrize("value", ["x" * 15, "x" * 201, "x" * 15 + " ", "x" * 16 + "\n", "\u00e4" * 16])
def test_bad_secrets_are_not_repeated_in_the_error(value: str) -> None:
    with pytest.raises(Refusal) as refused:
        webhooks.secret(value, "webhook.secret")
    assert refused.value.field == "webhook.secret"
    assert value not in refused.value.message


@pytest.mark.parametrize(
    ("format_", "value", "expected"),
    [(Format.NATIVE, 0, 50), (Format.SENDPULSE, 0, 500), (Format.SENDPULSE, 7, 7), (Format.SENDPOST, 0, 50)],
)
def test_batches(format_: Format, value: int, expected: int) -> None:
    assert webhooks.batch_size(value, format_, "webhook.batch_size") == expected
