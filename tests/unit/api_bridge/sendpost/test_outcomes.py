"""SendPost: what became of a send, told for each recipient or for all."""

from collections.abc import Mapping

import pytest

from barua.mta.v1.injection_service_pb2 import RecipientResult, SubmitMessageResponse

from api_bridge import messageids
from api_bridge.backend import IdempotencyKey
from api_bridge.dialects.sendpost import email, errors
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal

ID = 191381240576737795
TAKEN = SubmitMessageResponse(message_id=ID, results=[RecipientResult(recipient="a@b.test", recipient_id=ID)])
UUID = messageids.uuid(ID)


def suppressed() -> SubmitMessageResponse:
    """An answer for a recipient that is on record, but got nothing."""
    status = rpc.status_of(Refusal(Reason.RECIPIENT_SUPPRESSED, "suppressed for this account"))
    result = RecipientResult(recipient="a@b.test", recipient_id=ID, status=status)
    return SubmitMessageResponse(message_id=ID, results=[result])


@pytest.mark.parametrize(
    ("answer", "code", "id_"),
    [
        (TAKEN, 0, UUID),
        (suppressed(), 2, UUID),
        (Refusal(Reason.INVALID_ARGUMENT, "x", field="recipients[0]"), 1, ""),
        (Refusal(Reason.INVALID_ARGUMENT, "x", field="sender"), 5, ""),
        (Refusal(Reason.RECIPIENT_SUPPRESSED, "x"), 2, ""),
        (Refusal(Reason.SENDER_NOT_ALLOWED, "x"), 3, ""),
        (Refusal(Reason.RATE_LIMITED, "x"), 4, ""),
        (Refusal(Reason.INSUFFICIENT_CREDITS, "x"), 402, ""),
        (Refusal(Reason.UNAVAILABLE, "x"), 503, ""),
        (Refusal(Reason.MESSAGE_TOO_LARGE, "x"), 413, ""),
        (Refusal(Reason.INTERNAL, "x"), 500, ""),
    ],
)
def test_each_recipient_has_a_code(answer: SubmitMessageResponse | Refusal, code: int, id_: str) -> None:
    told = email._told("a@b.test", answer)
    assert (told.to, told.errorCode, told.messageId) == ("a@b.test", code, id_)
    assert len(str(told.submittedAt)) == 19
    assert told.message
    if id_:
        assert told.submittedAt == messageids.unix_ms(ID) * 1_000_000


CREDITS = Refusal(Reason.INSUFFICIENT_CREDITS, "no credits")
OUTAGE = Refusal(Reason.UNAVAILABLE, "no")
STRANGER = Refusal(Reason.UNAUTHENTICATED, "who")
SENDER = Refusal(Reason.SENDER_NOT_ALLOWED, "not this domain")
ADDRESS = Refusal(Reason.INVALID_ARGUMENT, "no address", field="recipients[0]")
POOL = Refusal(Reason.INVALID_ARGUMENT, 'pool "x" is not there', field="pool")


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ({}, None),
        ({0: TAKEN}, None),
        ({0: TAKEN, 1: CREDITS}, None),
        ({0: SENDER, 1: SENDER}, None),
        ({0: ADDRESS}, None),
        ({0: OUTAGE, 1: SENDER}, None),
        ({0: CREDITS, 1: CREDITS}, Reason.INSUFFICIENT_CREDITS),
        ({0: OUTAGE}, Reason.UNAVAILABLE),
        ({0: STRANGER, 1: ADDRESS}, Reason.UNAUTHENTICATED),
        ({0: POOL}, Reason.INVALID_ARGUMENT),
    ],
)
def test_the_reason_of_all_is_that_of_the_call(
    outcomes: Mapping[int, SubmitMessageResponse | Refusal], reason: Reason | None
) -> None:
    if reason is None:
        email._raise_common(outcomes)
        return
    with pytest.raises(Refusal) as raised:
        email._raise_common(outcomes)
    assert raised.value.reason is reason
    if reason is Reason.INVALID_ARGUMENT:
        assert (raised.value.field, raised.value.message) == ("ippool", 'ippool "x" is not there')


def test_the_parts_of_a_send_have_keys_of_their_own() -> None:
    key = IdempotencyKey("k" * 200, bytes(32))
    keys = [email._part(key, number) for number in range(3)]
    assert keys[0] is key
    texts = {part.text for part in keys if part is not None}
    assert len(texts) == 3
    assert max(map(len, texts)) <= 200
    assert keys == [email._part(key, number) for number in range(3)]
    assert email._part(None, 1) is None


def test_copies_that_were_not_taken_are_told() -> None:
    shared = SubmitMessageResponse(message_id=ID, results=[TAKEN.results[0], suppressed().results[0]])
    outcomes: dict[int, SubmitMessageResponse | Refusal] = {
        0: shared,
        1: TAKEN,
        -1: suppressed(),
        -2: OUTAGE,
        2: OUTAGE,
    }
    left_out = email._left_out(outcomes, {-1: 1, -2: 1})
    assert left_out == {
        0: ["a@b.test: suppressed for this account"],
        1: ["a@b.test: suppressed for this account", "The service cannot take the request now; try again."],
    }
    told = email._told("x@y.test", TAKEN, left_out[0])
    assert (told.errorCode, told.message) == (
        0,
        "Accepted, but not for all copies: a@b.test: suppressed for this account",
    )


def test_a_text_that_begins_with_an_address_keeps_its_letters() -> None:
    refusal = Refusal(Reason.RECIPIENT_SUPPRESSED, "ann@b.test is on the suppression list")
    assert errors.problem(refusal).message == "ann@b.test is on the suppression list."


def test_a_key_that_was_used_is_named_as_the_client_knows_it() -> None:
    problem = errors.problem(Refusal(Reason.REQUEST_ID_REUSED, "used", field="idempotency_key"))
    assert isinstance(problem, errors.SendPostProblem)
    assert (problem.status, problem.param) == (409, "Idempotency-Key")
