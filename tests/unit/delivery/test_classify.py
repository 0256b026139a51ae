"""The failure policy: every stage and every class of reply."""

import itertools

import pytest

from mta.delivery import classify
from mta.message.outcome import OutcomeKind, SaidBy, Stage
from mta.routing.router import RouteFailure
from mta.smtp import events
from mta.smtp.events import RecipientResult
from mta.smtp.reply import Reply

CODES = (211, 250, 251, 354, 421, 450, 451, 452, 499, 500, 503, 550, 552, 554, 599)
TRANSACTION = {events.Stage.MAIL, events.Stage.RCPT, events.Stage.DATA, events.Stage.FINAL_DOT, events.Stage.RSET}


def result(code: int, stage: events.Stage, said_by: events.SaidBy = events.SaidBy.PEER) -> RecipientResult:
    """A recipient's result."""
    return RecipientResult("x@example.net", Reply(code, None, "words"), stage, said_by)


# What is said there is about the server or our access to it, and not about a message.
ABOUT_THE_HOST = (events.Stage.GREETING, events.Stage.EHLO, events.Stage.STARTTLS, events.Stage.AUTH)


@pytest.mark.parametrize(("stage", "code"), list(itertools.product(events.Stage, CODES)))
def test_every_reply_at_every_stage(stage: events.Stage, code: int) -> None:
    outcome = classify.of_result(result(code, stage), "mx.example.net")
    if stage is events.Stage.FINAL_DOT and code < 300:
        expected = OutcomeKind.DELIVERED
    elif code >= 500 and stage not in ABOUT_THE_HOST:
        expected = OutcomeKind.BOUNCED
    else:
        expected = OutcomeKind.DEFERRED
    assert outcome.kind is expected
    assert (outcome.code, outcome.text, outcome.said_by, outcome.remote_host) == (
        code,
        "words",
        SaidBy.REMOTE,
        "mx.example.net",
    )


@pytest.mark.parametrize("stage", sorted(TRANSACTION, key=str))
def test_nothing_but_the_servers_own_yes_is_a_delivery(stage: events.Stage) -> None:
    outcome = classify.of_result(result(250, stage, events.SaidBy.LOCAL), "mx")
    assert outcome.kind is OutcomeKind.DEFERRED


def test_what_we_say_ourselves_has_no_code() -> None:
    lost = RecipientResult("x@y.test", Reply(451, "4.4.2", "lost"), events.Stage.FINAL_DOT, events.SaidBy.LOCAL)
    outcome = classify.of_result(lost, "mx")
    assert (outcome.kind, outcome.code, outcome.enhanced, outcome.stage) == (
        OutcomeKind.DEFERRED,
        None,
        "4.4.2",
        Stage.MESSAGE,
    )
    unsupported = RecipientResult("x@y.test", Reply(550, "5.6.7", "no"), events.Stage.MAIL, events.SaidBy.LOCAL)
    assert classify.of_result(unsupported, "mx").kind is OutcomeKind.BOUNCED


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        (Reply(550, "5.1.1", "x"), "5.1.1"),
        (Reply(550, None, "x"), "5.0.0"),
        (Reply(450, None, "x"), "4.0.0"),
        (Reply(250, None, "x"), "2.0.0"),
        (Reply(354, None, "x"), "4.0.0"),
    ],
)
def test_an_enhanced_code_is_always_there(reply: Reply, enhanced: str) -> None:
    outcome = classify.of_result(RecipientResult("x", reply, events.Stage.RCPT, events.SaidBy.PEER), "mx")
    assert outcome.enhanced == enhanced


@pytest.mark.parametrize(("permanent", "kind"), [(True, OutcomeKind.BOUNCED), (False, OutcomeKind.DEFERRED)])
def test_routes(permanent: bool, kind: OutcomeKind) -> None:
    outcome = classify.of_route(RouteFailure(permanent, 550, "5.1.2", "no such domain"))
    assert (outcome.kind, outcome.stage, outcome.said_by, outcome.remote_host) == (
        kind,
        Stage.ROUTE,
        SaidBy.LOCAL,
        None,
    )


@pytest.mark.parametrize("code", [421, 450, 500, 554, 521])
def test_being_turned_away_is_never_final(code: int) -> None:
    outcome = classify.of_refusal(Reply(code, None, "go away"), events.Stage.GREETING, "mx")
    assert (outcome.kind, outcome.code, outcome.stage) == (OutcomeKind.DEFERRED, code, Stage.GREETING)


def test_local_trouble_is_never_final_and_an_unsendable_message_is() -> None:
    assert classify.of_connect("refused", "mx").kind is OutcomeKind.DEFERRED
    assert classify.of_local("unreadable", "4.3.0").kind is OutcomeKind.DEFERRED
    assert classify.of_unsendable("bare CR").kind is OutcomeKind.BOUNCED


@pytest.mark.parametrize("stage", events.Stage)
def test_every_stage_has_a_name(stage: events.Stage) -> None:
    assert isinstance(classify.of_refusal(Reply(450, None, "x"), stage, "mx").stage, Stage)
