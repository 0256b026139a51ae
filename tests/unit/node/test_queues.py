"""What is queued, read from the spool files of several workers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from barua.mta.v1 import queue_service_pb2 as pb
from barua.mta.v1 import queue_service_pb2_grpc as services

from mta.node.queues import QueueService
from mta.runtime.refusals import Reason
from mta.runtime.rpc import new_server, refusal_of
from mta.spool.records import Change, MessageRow, RecipientRow
from tests.unit.node.peers import channel_to
from tests.unit.spool.rows import open_store, settled

TOKEN = (("authorization", "Bearer operator-token"),)
Stub: TypeAlias = "services.QueueServiceAsyncStub"


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Stub]:
    """A service over two spools; a third worker has not started yet."""
    spools = [tmp_path / f"worker-{index}.db" for index in range(3)]
    for worker, spool in enumerate(spools[:2]):
        store = open_store(spool)
        change = Change()
        for number in range(1, 6):
            id_ = 100 * number + worker
            change.messages.append(MessageRow(id_, id_, "acme", "a@acme.test", 1_000 * number, 77, 0, b"x"))
            domain = "big.test" if number < 4 else f"small{number}.test"
            tenant = "acme" if number % 2 else "rival"
            change.recipients.append(
                RecipientRow(id_, id_, tenant, f"r{id_}@{domain}", domain, number, 5_000 * number, 1, "451 later")
            )
        await settled(store, change)
        await store.close()
    server = new_server()
    QueueService(spools, "operator-token").add_to(server)
    server.add_insecure_port(f"unix:{tmp_path / 'node.sock'}")
    await server.start()
    async with channel_to(tmp_path / "node.sock") as opened:
        yield services.QueueServiceStub(opened)
    await server.stop(None)


async def recipients(stub: Stub, **request: Any) -> pb.ListQueuedRecipientsResponse:
    """A page."""
    return await stub.ListQueuedRecipients(pb.ListQueuedRecipientsRequest(**request), metadata=TOKEN, timeout=60)


async def test_queues_are_counted_over_all_workers(stub: Stub) -> None:
    answer = await stub.ListQueues(pb.ListQueuesRequest(), metadata=TOKEN, timeout=60)
    assert [(queue.domain, queue.recipient_count) for queue in answer.queues] == [
        ("big.test", 6),
        ("small4.test", 2),
        ("small5.test", 2),
    ]
    big = answer.queues[0]
    assert big.oldest_receive_time.ToMilliseconds() == 1_000
    assert big.next_attempt_time.ToMilliseconds() == 5_000
    answer = await stub.ListQueues(pb.ListQueuesRequest(page_size=1), metadata=TOKEN, timeout=60)
    assert [queue.domain for queue in answer.queues] == ["big.test"]


async def test_recipients_come_by_id_and_in_pages(stub: Stub) -> None:
    seen, token, pages = [], "", 0
    while True:
        answer = await recipients(stub, page_size=3, page_token=token)
        seen += [recipient.recipient_id for recipient in answer.queued_recipients]
        pages += 1
        token = answer.next_page_token
        if not token:
            break
    assert seen == [100, 101, 200, 201, 300, 301, 400, 401, 500, 501]
    assert pages == 4


async def test_a_recipient_says_everything(stub: Stub) -> None:
    (found,) = (await recipients(stub, id=201)).queued_recipients
    assert (found.recipient_id, found.message_id, found.tenant_id, found.worker) == (201, 201, "rival", 1)
    assert (found.sender, found.recipient) == ("a@acme.test", "r201@big.test")
    assert (found.size_bytes, found.attempt_count, found.reason) == (77, 2, "451 later")
    assert found.receive_time.ToMilliseconds() == 2_000
    assert found.next_attempt_time.ToMilliseconds() == 10_000


@pytest.mark.parametrize(
    ("request_", "ids"),
    [
        ({"domain": "SMALL4.test"}, [400, 401]),
        ({"tenant_id": "rival"}, [200, 201, 400, 401]),
        ({"tenant_id": "rival", "domain": "big.test"}, [200, 201]),
        ({"domain": "nowhere.test"}, []),
        ({"id": 999}, []),
    ],
)
async def test_recipients_can_be_chosen(stub: Stub, request_: dict[str, Any], ids: list[int]) -> None:
    answer = await recipients(stub, **request_)
    assert [recipient.recipient_id for recipient in answer.queued_recipients] == ids


@pytest.mark.parametrize(
    "request_",
    [{"page_size": -1}, {"page_token": "x"}, {"page_token": "-1"}, {"page_token": "9" * 19}, {"page_token": "9" * 40}],
)
async def test_a_bad_request_is_named(stub: Stub, request_: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recipients(stub, **request_)
    refusal = refusal_of(caught.value)
    assert refusal.reason is Reason.INVALID_ARGUMENT
    assert refusal.field in request_


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "operator-token"),)])
async def test_only_the_operator_may_ask(stub: Stub, metadata: tuple[tuple[str, str], ...]) -> None:
    for call in (
        stub.ListQueues(pb.ListQueuesRequest(), metadata=metadata, timeout=60),
        stub.ListQueuedRecipients(pb.ListQueuedRecipientsRequest(), metadata=metadata, timeout=60),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert refusal_of(caught.value).reason is Reason.UNAUTHENTICATED


async def test_a_spool_that_cannot_be_read_is_for_later(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "worker-2.db").write_bytes(b"not a database\n" * 100)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recipients(stub)
    refusal = refusal_of(caught.value)
    assert refusal.reason is Reason.UNAVAILABLE
    assert str(tmp_path) not in refusal.message


async def test_asking_leaves_the_files_alone(stub: Stub, tmp_path: Path) -> None:
    before = (tmp_path / "worker-0.db").read_bytes()
    await recipients(stub)
    assert (tmp_path / "worker-0.db").read_bytes() == before
