"""Streams of mail: named in the message or in the call, kept with the message, and held back one by one."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub

from tests.integration.mta.accounts import Account, Accounts, wait_for_policy
from tests.integration.mta.arrivals import one
from tests.integration.mta.test_bad_injection import refusal, submit
from tests.integration.mta.test_bad_input import logged_in
from tests.integration.mta.wire import Answer, Wire
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import in_time, wait_until


def suppress(stack: Stack, account: Account, address: str, stream: str, seconds: float = 0) -> None:
    entry = Suppression(stream=stream, reason=Suppression.REASON_UNSUBSCRIBE)
    if seconds:
        expiry = Timestamp()
        expiry.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
        entry.expire_time.CopyFrom(expiry)
    request = suppression_service_pb2.CreateSuppressionRequest(
        parent=f"tenants/{account.tenant}", address=address, suppression=entry
    )
    stack.operator.call(SuppressionServiceStub(stack.operator.control).CreateSuppression, request)


def sent(wire: Wire, account: Account, recipients: list[str], *fields: str) -> Answer:
    """The answer to the final dot of a message with these header fields."""
    wire.begin(account.sender, recipients)
    header = "".join(f"{field}\r\n" for field in fields)
    wire.send(f"Subject: stream\r\n{header}\r\nText\r\n.\r\n".encode())
    return wire.reply()


def test_a_suppression_for_a_stream_refuses_that_stream_alone(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    held, other = f"held-{account.tenant}@example.net", f"other-{account.tenant}@example.net"
    with logged_in(account) as wire:
        assert sent(wire, account, [other], "X-Barua-Stream: News").code == 250
        assert one(sink, other).headers("X-Barua-Stream") == []
        addresses = (held, *(f"held{number}-{account.tenant}@example.net" for number in range(9)))

        def seconds(address: str) -> float:
            """Until one more suppression is in force."""
            started = time.monotonic()
            suppress(stack, account, address, "news")
            wait_until(lambda: sent(wire, account, [address], "X-Barua-Stream: news").code == 550, "it is in force")
            return time.monotonic() - started

        remaining = iter(addresses)
        in_time(lambda: seconds(next(remaining)), 1.0)
        answer = sent(wire, account, [other, held], "X-Barua-Stream: NEWS")
        assert (answer.code, answer.enhanced) == (550, "5.7.1")
        assert f"{held} is on the suppression list (scope: account, reason: unsubscribe, stream: news)" in answer.text
        assert sent(wire, account, [held], "X-Barua-Stream: receipts", "X-Mark: other").code == 250
        wait_until(
            lambda: any(received.headers("X-Mark") for received in sink.received if held in received.recipients),
            "the other stream gets through",
        )
        assert sent(wire, account, [held]).code == 250
    records = wait_until(
        lambda: [record for record in stack.operator.history(account.tenant) if record.stream], "the journal told"
    )
    assert {record.stream for record in records or []} <= {"news", "receipts"}


@pytest.mark.parametrize(
    "fields", [["X-Barua-Stream: no spaces"], ["X-Barua-Stream: a", "X-Barua-Stream: b"], ["X-Barua-Stream: \u212a"]]
)
def test_a_stream_that_cannot_be_is_550(account: Account, fields: list[str]) -> None:
    with logged_in(account) as wire:
        answer = sent(wire, account, [f"r-{account.tenant}@example.net"], *fields)
        assert (answer.code, answer.enhanced) == (550, "5.6.0")
        assert "X-Barua-Stream" in answer.text


def test_a_suppression_ends_by_itself(account: Account, stack: Stack) -> None:
    held = f"held-{account.tenant}@example.net"
    with logged_in(account) as wire:
        suppress(stack, account, held, "", 4)

        def code() -> int:
            wire.ask("RSET")
            wire.ask(f"MAIL FROM:<{account.sender}>")
            return wire.ask(f"RCPT TO:<{held}>").code

        wait_until(lambda: code() == 550, "it is in force")
        wait_until(lambda: code() == 250, "it is over")


def test_injection_names_the_stream(accounts: Accounts, stack: Stack, sink: RecordingSink) -> None:
    account = accounts.make()
    held = f"held-{account.tenant}@example.net"
    suppress(stack, account, held, "news")
    wait_for_policy(stack)
    assert refusal(account, recipients=[held], stream="news")[1] == "RECIPIENT_SUPPRESSED"
    in_content = b"X-Barua-Stream: news\r\n\r\nText\r\n"
    assert refusal(account, recipients=[held], content=in_content)[1] == "RECIPIENT_SUPPRESSED"
    assert refusal(account, recipients=[held], stream="a b")[:3] == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "stream")
    submit(account, recipients=[held], stream="receipts", content=in_content)
    assert one(sink, held).headers("X-Barua-Stream") == []
    assert account.record(held).stream == "receipts"
