"""The pure rules of history: keys of recipients, counters, tokens of streams."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from control.model import eventtokens
from control.model.addresses import canonical_address
from control.model.events import EventKind, PastEvent, domain_of, recipient_key
from control.model.statistics import CounterKey, Counts, Dimension, rate, tally
from mta.runtime.refusals import Reason, Refusal

LINEAGE = "0b3c9f5e-7a52-4d0b-9a35-5d1b4f8f9b11"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def past(kind: EventKind, **fields: Any) -> PastEvent:
    """An event."""
    values: dict[str, Any] = {
        "event_number": 1, "recipient_id": 1, "message_id": 1, "tenant_id": "tenant", "kind": kind,
        "occurred_at": NOON, "attempt": 1, "code": 250, "enhanced_code": "", "reply": "", "remote_host": "",
        "egress_source": "", "provider": "", "credits": 0, "lease_id": 0, "next_attempt_at": None,
        "sender": "me@Acme.test", "recipient": "Ann@x.test", "recipient_key": "ann@x.test", "stream": "",
    }  # fmt: skip
    return PastEvent(**{**values, **fields})


@pytest.mark.parametrize("text", ["Ann@Example.NET", '"a"@x.test', "ann@bücher.example", "a@[192.0.2.1]", "a+b@x.test"])
def test_a_recipient_is_kept_in_its_canonical_form(text: str) -> None:
    assert recipient_key(text) == canonical_address(text, "recipient")


@pytest.mark.parametrize(("text", "key"), [("No Address", "no address"), ("A@-b.test", "a@-b.test"), ("A\0@", "a@")])
def test_what_is_no_address_is_kept_without_case(text: str, key: str) -> None:
    assert recipient_key(text) == key


def test_the_domain_of_an_address() -> None:
    assert [domain_of(text) for text in ('"a@b"@X.test', "", "none")] == ["x.test", "", ""]


def test_bounce_messages_are_no_mail_of_the_tenant() -> None:
    assert tally([past(kind, sender="") for kind in (EventKind.RECEIVED, EventKind.DELIVERED)]) == {}


def test_what_recipients_do_counts_each_time_and_once() -> None:
    tags = ("spring", "sale", "spring")
    events = [
        past(EventKind.RECEIVED, tags=tags),
        past(EventKind.DROPPED, tags=tags),
        past(EventKind.BOUNCED, code=0),
        past(EventKind.BOUNCED, code=550),
        past(EventKind.EXPIRED),
        past(EventKind.OPENED, tags=tags, first=True),
        past(EventKind.OPENED, tags=tags),
        past(EventKind.CLICKED, first=True),
        past(EventKind.UNSUBSCRIBED, first=True),
        past(EventKind.UNSUBSCRIBED),
        past(EventKind.COMPLAINED, first=True),
    ]
    counters = tally(events)
    total = counters[CounterKey("tenant", Dimension.TOTAL, NOON.date(), "")]
    assert total == Counts(
        accepted=1, suppressed=1, bounced=2, smtp_dropped=1, expired=1, opened=1, opens=2, clicked=1, clicks=1,
        unsubscribed=1, complained=1,
    )  # fmt: skip
    assert (total.processed, total.sent, total.hard_bounced) == (2, 0, 2)
    for tag in ("spring", "sale"):
        counts = counters[CounterKey("tenant", Dimension.TAG, NOON.date(), tag)]
        assert counts == Counts(accepted=1, suppressed=1, opened=1, opens=2)


def test_each_event_counts_once_per_dimension_that_it_tells_of() -> None:
    events = [
        past(EventKind.RECEIVED, stream="news"),
        past(EventKind.DEFERRED, egress_source="ip1"),
        past(EventKind.DELIVERED, provider="smart"),
        past(EventKind.LEASE_RELEASED),
    ]
    counters = tally(events)
    day = date(2026, 11, 22)
    both = Counts(accepted=1, deferred=1, delivered=1)
    assert counters == {
        CounterKey("tenant", Dimension.TOTAL, day, ""): both,
        CounterKey("tenant", Dimension.SENDER_DOMAIN, day, "acme.test"): both,
        CounterKey("tenant", Dimension.RECIPIENT_DOMAIN, day, "x.test"): both,
        CounterKey("tenant", Dimension.STREAM, day, "news"): Counts(accepted=1),
        CounterKey("tenant", Dimension.EGRESS_SOURCE, day, "ip1"): Counts(deferred=1),
        CounterKey("tenant", Dimension.PROVIDER, day, "smart"): Counts(delivered=1),
    }
    assert list(counters) == sorted(counters)


def test_an_event_counts_on_the_day_of_universal_time() -> None:
    late = datetime(2026, 11, 22, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert {key.day for key in tally([past(EventKind.BOUNCED, occurred_at=late)])} == {date(2026, 11, 23)}


def test_rates_of_nothing_are_nothing() -> None:
    assert (rate(1, 4), rate(0, 0)) == (0.25, 0.0)


def test_a_token_reads_back_and_tells_nothing() -> None:
    token = eventtokens.encode(LINEAGE, 2**40)
    assert eventtokens.decode(LINEAGE, token) == 2**40
    assert token == eventtokens.encode(LINEAGE, 2**40)
    assert token[8:] != eventtokens.encode(LINEAGE, 2**40 + 1)[8:]


def test_a_token_of_another_lineage_is_lost_and_a_changed_one_is_refused() -> None:
    token = eventtokens.encode(LINEAGE, 7)
    with pytest.raises(Refusal) as other:
        eventtokens.decode("b" + LINEAGE[1:], token)
    assert other.value.reason is Reason.POSITION_LOST
    changed = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    for wrong in (changed, "x", "é", token[:-4], token + "AAAA"):
        with pytest.raises(Refusal) as refused:
            eventtokens.decode(LINEAGE, wrong)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "resume_token")
