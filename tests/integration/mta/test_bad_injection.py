"""Bad input over gRPC: the reason of `barua.errors.v1`, the field at fault, and nothing half-done."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from tests.integration.mta.accounts import Account, Accounts, socket, wait_for_policy
from tests.integration.mta.arrivals import one
from tests.integration.mta.conftest import MESSAGE_BYTES, RECIPIENTS
from tests.integration.mta.test_bad_input import nothing_happens
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until_steady

CONTENT = b"Subject: hello\r\n\r\nText\r\n"
Refused = tuple[str, str, str, str]


def submit(account: Account, token: str | None = None, **fields: Any) -> pb.SubmitMessageResponse:
    """Submit a message that is fine but for ``fields``, at the node's address."""
    request = pb.SubmitMessageRequest(**({"recipients": ["r@example.net"], "content": CONTENT} | fields))
    with grpc.insecure_channel(account.stack.options.node.listen) as channel:
        metadata = (("authorization", f"Bearer {account.api_key if token is None else token}"),)
        answer: pb.SubmitMessageResponse = InjectionServiceStub(channel).SubmitMessage(
            request, timeout=60, metadata=metadata
        )
    return answer


def refusal(account: Account, token: str | None = None, **fields: Any) -> Refused:
    """(status, reason, field, text) of a submission that must be refused and leave no trace."""
    with nothing_happens(account), pytest.raises(grpc.RpcError) as raised:
        submit(account, token, **fields)
    status = rpc_status.from_call(raised.value)
    assert status is not None
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(request)
    assert info.domain == "barua"
    field = request.field_violations[0].field if request.field_violations else ""
    return raised.value.code().name, info.reason, field, status.message


@pytest.mark.parametrize("token", ["", "wrong", "bk_aaaaaaaaaaaa_" + "a" * 32])
def test_a_wrong_key_is_unauthenticated(account: Account, token: str) -> None:
    assert refusal(account, token)[:2] == ("UNAUTHENTICATED", "UNAUTHENTICATED")


def test_a_key_sends_for_its_own_tenant_alone(account: Account) -> None:
    assert refusal(account, tenant_id="acme")[:3] == ("PERMISSION_DENIED", "PERMISSION_DENIED", "tenant_id")


@pytest.mark.parametrize(
    ("fields", "reason", "field", "said"),
    [
        ({"recipients": []}, "INVALID_ARGUMENT", "recipients", "give 1 to"),
        ({"recipients": ["nonsense"]}, "INVALID_ARGUMENT", "recipients", "nonsense"),
        ({"recipients": ["r@[127.0.0.1]"]}, "INVALID_ARGUMENT", "recipients", ""),
        ({"sender": "nonsense"}, "INVALID_ARGUMENT", "sender", "nonsense"),
        ({"content": b""}, "INVALID_ARGUMENT", "content", "content is empty"),
        ({"content": b"From: two\nlines\n\nText\n"}, "BAD_CONTENT", "content", "CR"),
        ({"content": b"Subject: a\r\n\r\nbare\nfeed\r\n"}, "BAD_CONTENT", "content", "CR"),
        ({"content": b"Subject: a\r\n\r\nnul\0\r\n"}, "BAD_CONTENT", "content", "NUL"),
        ({"content": b"Subject: a\r\nSubject: b\r\n\r\nx\r\n"}, "BAD_CONTENT", "content", "more than one Subject"),
        ({"content": b"Subject: a\r\n\r\n" + b"x" * 2 * MESSAGE_BYTES}, "MESSAGE_TOO_LARGE", "content", "larger than"),
    ],
    ids=str,
)
def test_a_wrong_field_is_an_invalid_argument_that_is_named(
    account: Account, fields: dict[str, Any], reason: str, field: str, said: str
) -> None:
    code, found, named, text = refusal(account, **fields)
    assert (code, found, named) == ("INVALID_ARGUMENT", reason, field), text
    assert said in text


def test_too_many_recipients_are_an_invalid_argument(account: Account) -> None:
    recipients = [f"r{number}@example.net" for number in range(RECIPIENTS + 1)]
    assert refusal(account, recipients=recipients)[:3] == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "recipients")


@pytest.mark.parametrize(
    "fields", [{"sender": "ceo@bank.example"}, {"content": b"From: ceo@bank.example\r\n\r\nx\r\n"}]
)
def test_a_sender_that_is_not_verified_is_denied(account: Account, fields: dict[str, Any]) -> None:
    code, reason, _, text = refusal(account, **fields)
    assert (code, reason) == ("PERMISSION_DENIED", "SENDER_NOT_ALLOWED")
    assert "bank.example" in text


def test_a_suppressed_recipient_is_a_failed_precondition(account: Account, stack: Stack) -> None:
    recipient = f"suppressed-{account.tenant}@example.net"
    stack.operator.suppress(account.tenant, recipient)
    wait_for_policy(stack)
    found = refusal(account, recipients=[recipient])
    assert found[:2] == ("FAILED_PRECONDITION", "RECIPIENT_SUPPRESSED")
    assert "scope: account" in found[3]


def test_no_credits_is_a_failed_precondition(accounts: Accounts) -> None:
    assert refusal(accounts.make(credits_=0))[:2] == ("FAILED_PRECONDITION", "INSUFFICIENT_CREDITS")


def test_a_message_that_is_only_checked_is_neither_stored_nor_charged(account: Account, sink: RecordingSink) -> None:
    with nothing_happens(account):
        answer = submit(account, validate_only=True)
    assert (answer.message_id, [result.status.code for result in answer.results]) == (0, [0])
    submit(account, recipients=[f"after-check-{account.tenant}@example.net"])
    one(sink, f"after-check-{account.tenant}@example.net")
    account.wait_until_charged(1)


def is_taken(account: Account) -> bool:
    """Whether a submission reaches a worker."""
    try:
        submit(account, validate_only=True)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return False
    return True


def test_a_call_goes_to_the_next_worker_when_one_is_down(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipients = [f"down-{number}-{account.tenant}@example.net" for number in range(12)]
    for recipient in recipients[:4]:
        submit(account, recipients=[recipient])
    worker = stack.workers[0]
    assert worker.stop() == 0
    try:
        assert not socket(stack, 0).exists()
        # The node may not have noticed yet when the first of these comes.
        wait_until_steady(lambda: is_taken(account), "the node knows that the worker has gone")
        for recipient in recipients[4:8]:
            submit(account, recipients=[recipient])
    finally:
        worker.start()
    for recipient in recipients[8:]:
        submit(account, recipients=[recipient])
    for recipient in recipients:
        one(sink, recipient)
    account.wait_until_charged(12)
