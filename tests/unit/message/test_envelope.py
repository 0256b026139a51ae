"""Envelopes and outcomes."""

import pytest

from mta.message.address import parse_path
from mta.message.envelope import Envelope, Recipient
from mta.message.outcome import Outcome, OutcomeKind, SaidBy, Stage


def recipients(*addresses: str) -> tuple[Recipient, ...]:
    return tuple(Recipient(number, parse_path(text)) for number, text in enumerate(addresses))


def test_recipients_are_grouped_by_domain_in_order() -> None:
    envelope = Envelope(parse_path("s@x.test"), recipients("a@b.co", "c@d.ee", "e@B.co", "ü@d.ee"))
    groups = {domain: [each.id for each in group] for domain, group in envelope.by_domain().items()}
    assert list(groups.items()) == [("b.co", [0, 2]), ("d.ee", [1, 3])]
    assert envelope.needs_smtputf8
    assert envelope.reverse_path == "s@x.test"


def test_the_null_sender() -> None:
    envelope = Envelope(None, recipients("a@b.co"))
    assert envelope.reverse_path == ""
    assert not envelope.needs_smtputf8


def test_a_sender_outside_ascii_needs_smtputf8() -> None:
    assert Envelope(parse_path("ü@x.test"), recipients("a@b.co")).needs_smtputf8


def test_an_envelope_without_recipients_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one recipient"):
        Envelope(None, ())


@pytest.mark.parametrize(
    ("kind", "final"), [(OutcomeKind.DELIVERED, True), (OutcomeKind.DEFERRED, False), (OutcomeKind.BOUNCED, True)]
)
def test_only_a_deferred_outcome_is_not_final(kind: OutcomeKind, final: bool) -> None:
    outcome = Outcome(kind, 250, "2.0.0", "ok", SaidBy.REMOTE, Stage.MESSAGE, "mx.test")
    assert outcome.is_final is final
