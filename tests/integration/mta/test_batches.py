"""Many messages with one call to the node, from its acceptance to the record: with keys, with one call of credits."""

from typing import Any

import grpc

from barua.control.v1.history_service_pb2 import MessageRecord
from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import refusal_in
from tests.integration.mta.accounts import Account, Accounts
from tests.support.sink import RecordingSink
from tests.support.waiting import wait_until

CONTENT = b"Subject: hello\r\n\r\nText\r\n"


def submission(recipient: str, key: str = "", **fields: Any) -> pb.Submission:
    message = pb.SubmitMessageRequest(**({"recipients": [recipient], "content": CONTENT} | fields))
    return pb.Submission(message=message, idempotency_key=key)


def submit(account: Account, *submissions: pb.Submission, **fields: Any) -> list[pb.SubmitMessageResponse | Refusal]:
    with grpc.insecure_channel(account.stack.options.node.listen) as channel:
        answer = InjectionServiceStub(channel).SubmitMessages(
            pb.SubmitMessagesRequest(submissions=submissions, **fields),
            timeout=60,
            metadata=(("authorization", f"Bearer {account.api_key}"),),
        )
    return [refusal_in(one.status) if one.status.code else one.response for one in answer.results]


def test_each_arrives_and_is_charged_once(account: Account, sink: RecordingSink) -> None:
    """The second call asks for the same again, in another order and spread over both workers."""
    recipients = [f"batch-{number}-{account.tenant}@example.net" for number in range(20)]
    keyed = [submission(recipient, f"{account.tenant}-{number}") for number, recipient in enumerate(recipients)]
    first = submit(account, *keyed)
    again = submit(account, *reversed(keyed))
    assert first == again[::-1]
    assert submit(account, *keyed[:3], idempotency_key="") == first[:3]
    wait_until(lambda: set(recipients) <= set(sink.recipients), "all have arrived")
    account.wait_until_charged(20)
    assert len(account.wait_for_records(20)) == 20


def test_a_whole_call_is_made_once(account: Account) -> None:
    several = [submission(f"whole-{number}-{account.tenant}@example.net") for number in range(3)]
    several.append(submission("nonsense"))
    first = submit(account, *several, idempotency_key="whole")
    again = submit(account, *several, idempotency_key="whole")
    assert first[:3] == again[:3]
    assert [one.reason for one in (first[3], again[3]) if isinstance(one, Refusal)] == [Reason.INVALID_ARGUMENT] * 2
    account.wait_until_charged(3)


def test_what_is_told_is_on_record(account: Account, sink: RecordingSink) -> None:
    """Tags, properties and reference of a message, also for a recipient that is suppressed: it costs nothing."""
    gone, taken = f"gone-{account.tenant}@example.net", f"taken-{account.tenant}@example.net"
    account.stack.operator.suppress(account.tenant, gone)
    told: dict[str, Any] = {"tags": ["news"], "properties": '{"from": {"name": "Änn"}}', "reference": b"r" * 16}
    recipients = [gone, taken]

    def known() -> bool:
        """Calls take turns at the workers: both refuse it."""
        check = submission(gone, recipients=recipients, validate_only=True)
        found = [one for _ in range(4) for one in submit(account, check)]
        return all(isinstance(one, pb.SubmitMessageResponse) and one.results[0].status.code for one in found)

    wait_until(known, "the workers know the suppression")
    (found,) = submit(account, submission(gone, recipients=recipients, record_suppressed=True, **told))
    assert isinstance(found, pb.SubmitMessageResponse)
    dropped, delivered = account.record(gone), account.record(taken)
    assert [dropped.state, delivered.state] == [MessageRecord.STATE_DROPPED, MessageRecord.STATE_DELIVERED]
    assert "suppression list" in dropped.last_text
    for record in dropped, delivered:
        assert (list(record.tags), record.properties, record.reference) == tuple(told.values())
        assert record.message_id == found.message_id == found.results[1].recipient_id
    account.wait_until_charged(1)
    assert gone not in sink.recipients


def test_credits_for_a_part(accounts: Accounts) -> None:
    poor = accounts.make(credits_=2)
    found = submit(poor, *[submission(f"poor-{number}-{poor.tenant}@example.net") for number in range(4)])
    assert [isinstance(one, Refusal) for one in found] == [False, False, True, True]
    assert {one.reason for one in found if isinstance(one, Refusal)} == {Reason.INSUFFICIENT_CREDITS}
    poor.wait_until_charged(2)
