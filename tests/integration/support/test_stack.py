"""The installation that integration tests use starts, carries mail, and survives what tests do to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import ACCOUNT, Stack, mail


@pytest.fixture
def stack(tmp_path: Path, dns_server: DnsServer, sink: RecordingSink) -> Iterator[Stack]:
    """With one worker: credits that one worker has leased are of no use to another while the database is away."""
    with Stack(tmp_path / "stack", workers=1, dns=dns_server, delivery_port=sink.port) as running:
        yield running


def test_an_installation_carries_mail_while_its_parts_come_and_go(stack: Stack, sink: RecordingSink) -> None:
    assert stack.postgres is not None
    with stack.smtp() as client:
        client.send_message(mail("first@example.net"))
    sink.wait(1)
    stack.wait_for_history(ACCOUNT, 1)

    stack.postgres.crash()
    for worker in stack.workers:
        worker.kill()
        assert not worker.is_running
        worker.start()
    with stack.smtp() as client:
        client.send_message(mail("second@example.net"))
    sink.wait(2)

    stack.postgres.start()
    stack.wait_for_history(ACCOUNT, 2)
    stack.wait_until_empty()
    assert stack.operator.balance(ACCOUNT).consumed == 2
    assert [received.headers("Subject") for received in sink.received] == [["hello"], ["hello"]]
    assert all(len(received.headers("DKIM-Signature")) == 2 for received in sink.received)
