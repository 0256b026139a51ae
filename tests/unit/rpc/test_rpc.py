"""The worker's gRPC services over a real socket: injection, the node's calls, and the way to leases."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from barua.mta.v1 import worker_service_pb2 as worker_pb

from mta.node.forwarding import LeaseForwarder
from mta.policy.records import ApiKey, OAuthClient, Tenant
from mta.rpc.authentication import PEER_KEY
from mta.rpc.leases import LeaseClient
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import new_server, refusal_in, refusal_of
from mta.runtime.tokens import TokenKey
from tests.unit.custody.parts import MESSAGE
from tests.unit.node.peers import TOKEN, Control, channel_to, served
from tests.unit.rpc.service import KEY, OPERATOR, SECRET, TOKEN_KEY, Worker
from tests.unit.spool.rows import counts, full_disk, rows


async def test_ok_means_durable(worker: Worker) -> None:
    answer = await worker.submit("x@example.net", "y@example.net")
    assert counts(worker.parts.path) == {"message": 1, "recipient": 2, "outbox": 2, "lease": 1}
    assert [result.recipient for result in answer.results] == ["x@example.net", "y@example.net"]
    assert answer.message_id == answer.results[0].recipient_id < answer.results[1].recipient_id
    assert all(result.status.code == code_pb2.OK for result in answer.results)
    content = await worker.parts.store.content(answer.message_id)
    assert content is not None
    assert message_from_bytes(content)["Message-ID"] == answer.message_id_header
    assert rows(worker.parts.path, "SELECT DISTINCT source, sender FROM outbox") == [("grpc", "news@acme.test")]


async def test_some_recipients_may_be_refused(worker: Worker) -> None:
    answer = await worker.submit("gone@example.net", "x@example.net", "nonsense", "x@[192.0.2.1]", "x@EXAMPLE.net")
    codes = {result.recipient: result.status.code for result in answer.results}
    assert codes == {
        "gone@example.net": code_pb2.FAILED_PRECONDITION,
        "x@example.net": code_pb2.OK,
        "nonsense": code_pb2.INVALID_ARGUMENT,
        "x@[192.0.2.1]": code_pb2.INVALID_ARGUMENT,
    }
    refusal = refusal_in(answer.results[0].status)
    assert (refusal.reason, refusal.metadata["scope"]) == (Reason.RECIPIENT_SUPPRESSED, "account")
    assert counts(worker.parts.path)["recipient"] == 1


async def test_when_all_are_refused_so_is_the_call(worker: Worker) -> None:
    refusal = await worker.refused("law@example.net", "gone@example.net")
    assert (refusal.reason, refusal.metadata["scope"]) == (Reason.RECIPIENT_SUPPRESSED, "platform")
    assert counts(worker.parts.path)["message"] == 0


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"recipients": []}, Reason.INVALID_ARGUMENT, "recipients"),
        ({"recipients": [f"r{number}@example.net" for number in range(101)]}, Reason.INVALID_ARGUMENT, "recipients"),
        ({"sender": "nonsense"}, Reason.INVALID_ARGUMENT, "sender"),
        ({"sender": "a@rival.test"}, Reason.SENDER_NOT_ALLOWED, "sender"),
        ({"content": b"From: a@rival.test\r\n\r\nx\r\n"}, Reason.SENDER_NOT_ALLOWED, "sender"),
        ({"content": b"From: a@acme.test\r\n\r\na\nb\r\n"}, Reason.BAD_CONTENT, "content"),
        ({"content": MESSAGE + b"x" * 1_000_001}, Reason.MESSAGE_TOO_LARGE, "content"),
        ({"tenant_id": "rival"}, Reason.PERMISSION_DENIED, "tenant_id"),
    ],
)
async def test_a_request_that_cannot_be_is_named(
    worker: Worker, fields: dict[str, Any], reason: Reason, field: str
) -> None:
    refusal = await worker.refused(**fields)
    assert (refusal.reason, refusal.field) == (reason, field)
    assert counts(worker.parts.path)["message"] == 0


async def test_a_missing_sender_is_the_accounts_own(worker: Worker) -> None:
    answer = await worker.submit(sender="", content=b"Subject: x\r\n\r\nx\r\n", from_display_name='Acme "Shop"')
    content = await worker.parts.store.content(answer.message_id)
    assert content is not None
    assert b'From: "Acme \\"Shop\\"" <Acme@acme.test>\r\n' in content


async def test_a_display_name_cannot_add_a_field(worker: Worker) -> None:
    for name in ("x\r\nBcc: y@z.test", "x\0y", "x" * 501):
        refusal = await worker.refused(content=b"Subject: x\r\n\r\nx\r\n", from_display_name=name)
        assert (refusal.reason, refusal.field) == (Reason.INVALID_ARGUMENT, "from_display_name")


async def test_validation_stores_and_costs_nothing(worker: Worker) -> None:
    answer = await worker.submit(validate_only=True)
    assert answer.message_id == 0
    assert answer.results[0].status.code == code_pb2.OK
    assert counts(worker.parts.path) == {"message": 0, "recipient": 0, "outbox": 0, "lease": 0}
    assert (await worker.refused(validate_only=True, sender="a@rival.test")).reason is Reason.SENDER_NOT_ALLOWED


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer wrong",
        "Bearer bk_abcdefabcdef_wrong",
        "Bearer bk_unknownunkno_" + SECRET,
        "Bearer bk_abcdefabcdef",
        "Bearer xx_abcdefabcdef_" + SECRET,
        "bk_abcdefabcdef_" + SECRET,
    ],
)
async def test_who_is_unknown_is_refused(worker: Worker, header: str | None) -> None:
    metadata = () if header is None else (("authorization", header),)
    assert (await worker.refused(metadata=metadata)).reason is Reason.UNAUTHENTICATED


async def test_a_key_of_another_scope_may_not_send(worker: Worker) -> None:
    metadata = (("authorization", f"bearer bk_readerreader_{SECRET}"),)
    assert (await worker.refused(metadata=metadata)).reason is Reason.PERMISSION_DENIED


async def test_the_operator_names_the_tenant(worker: Worker) -> None:
    assert (await worker.refused(metadata=OPERATOR)).field == "tenant_id"
    await worker.submit(metadata=OPERATOR, tenant_id="acme")
    assert (await worker.refused(metadata=OPERATOR, tenant_id="nobody")).reason is Reason.PERMISSION_DENIED


async def test_a_revoked_key_is_out_at_once(worker: Worker) -> None:
    await worker.submit()
    worker.parts.change_policy(ApiKey("abcdefabcdef", "acme", b"", ()), deleted=True)
    assert (await worker.refused()).reason is Reason.UNAUTHENTICATED


async def test_a_suspended_account_may_not_send(worker: Worker) -> None:
    worker.parts.change_policy(Tenant("acme", "reseller", True, ""))
    assert (await worker.refused()).reason is Reason.TENANT_SUSPENDED


@pytest.mark.parametrize(("peer", "shown"), [("203.0.113.9", "[203.0.113.9]"), ("2001:DB8::1", "[IPv6:2001:db8::1]")])
async def test_the_bridge_says_who_asked_it(worker: Worker, peer: str, shown: str) -> None:
    answer = await worker.submit(metadata=(*KEY, ("x-barua-peer", peer)))
    content = await worker.parts.store.content(answer.message_id)
    assert content is not None
    assert shown in message_from_bytes(content)["Received"]


async def test_what_is_no_address_is_nobody(worker: Worker) -> None:
    answer = await worker.submit(metadata=(*KEY, ("x-barua-peer", "evil) by good")))
    content = await worker.parts.store.content(answer.message_id)
    assert content is not None
    assert "evil" not in message_from_bytes(content)["Received"]


async def test_a_caller_that_goes_away_undoes_nothing(worker: Worker) -> None:
    worker.parts.bank.open.clear()
    call = asyncio.create_task(worker.submit())
    async with asyncio.timeout(60):
        while not worker.parts.bank.calls:  # noqa: ASYNC110 (it keeps a list)
            await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    worker.parts.bank.open.set()
    async with asyncio.timeout(60):
        while not worker.parts.delivery.jobs:  # noqa: ASYNC110 (there is nobody left to tell)
            await asyncio.sleep(0.01)
    assert counts(worker.parts.path)["message"] == 1
    assert await worker.parts.drain.idle(60)


async def test_a_spool_that_cannot_store_is_for_later(worker: Worker) -> None:
    await worker.submit()
    with full_disk():
        refusal = await worker.refused(content=MESSAGE + b"x" * 100_000 + b"\r\n")
    assert (refusal.reason, refusal.retry_after) == (Reason.NOT_STORED, 5.0)
    assert refusal.temporary


# -- the node's calls --------------------------------------------------------------------------------------------------


async def test_a_recall_gives_back_what_is_left(worker: Worker) -> None:
    await worker.submit()
    answer = await worker.worker.RecallLeases(worker_pb.RecallLeasesRequest(tenant_id="acme"), timeout=60)
    granted = sum(lease.amount for lease in worker.parts.bank.granted.values())
    assert answer.released_credits == granted - 1
    assert rows(worker.parts.path, "SELECT kind, credits FROM outbox ORDER BY sequence DESC LIMIT 1") == [
        (6, granted - 1)
    ]
    answer = await worker.worker.RecallLeases(worker_pb.RecallLeasesRequest(tenant_id="acme"), timeout=60)
    assert answer.released_credits == 0


async def test_a_recall_that_cannot_be_stored_is_refused_and_changes_nothing(worker: Worker) -> None:
    await worker.submit()
    with full_disk(), pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.worker.RecallLeases(worker_pb.RecallLeasesRequest(tenant_id="acme"), timeout=60)
    assert refusal_of(caught.value).reason is Reason.NOT_STORED
    async with asyncio.timeout(60):
        while not worker.parts.store.healthy:  # noqa: ASYNC110 (it has no event of its own)
            await asyncio.sleep(0.01)
    calls = len(worker.parts.bank.calls)
    await worker.submit()
    assert len(worker.parts.bank.calls) == calls


async def test_what_control_has_recorded_is_dropped(worker: Worker) -> None:
    for _ in range(3):
        await worker.submit()
    await worker.worker.AcknowledgeOutbox(worker_pb.AcknowledgeOutboxRequest(recorded_sequence=3), timeout=60)
    async with asyncio.timeout(60):
        # The first took a number before there were credits: 2, 3 and 4 are on file.
        while counts(worker.parts.path)["outbox"] != 1:  # noqa: ASYNC110 (another program's view)
            await asyncio.sleep(0.01)


# -- leases ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def leasing(folder: Path) -> AsyncIterator[tuple[LeaseClient, Control]]:
    """A lease client behind a node's forwarder and control."""
    control = Control()
    async with served(control, folder / "control.sock"), channel_to(folder / "control.sock") as upwards:
        server = new_server()
        LeaseForwarder(upwards, TOKEN).add_to(server)
        server.add_insecure_port(f"unix:{folder / 'node.sock'}")
        await server.start()
        client = LeaseClient(f"unix:{folder / 'node.sock'}", "holder", 4, [1, 2])
        yield client, control
        await client.close()
        await server.stop(None)


async def test_control_hears_of_the_holder_before_its_first_lease(tmp_path: Path) -> None:
    async with leasing(tmp_path) as (client, control):
        leases = await asyncio.gather(*(client.acquire("acme", 10, f"r{number}") for number in range(3)))
        assert leases == [(7, 10)] * 3
        (opened,) = control.opened
        assert (opened.holder, opened.epoch, list(opened.lease_ids)) == ("holder", 4, [1, 2])
        assert {(request.epoch, request.amount) for request in control.acquired} == {(4, 10)}


async def test_a_refusal_of_control_arrives(tmp_path: Path) -> None:
    async with leasing(tmp_path) as (client, control):
        control.refuse_lease = Refusal(Reason.INSUFFICIENT_CREDITS, "none")
        with pytest.raises(Refusal) as caught:
            await client.acquire("acme", 10, "r")
        assert caught.value.reason is Reason.INSUFFICIENT_CREDITS


async def test_a_holder_that_control_does_not_know_is_introduced_again(tmp_path: Path) -> None:
    async with leasing(tmp_path) as (client, control):
        await client.acquire("acme", 10, "r1")
        control.refuse_lease = Refusal(Reason.FAILED_PRECONDITION, "call OpenHolder first")
        with pytest.raises(Refusal):
            await client.acquire("acme", 10, "r2")
        control.refuse_lease = None
        await client.acquire("acme", 10, "r3")
        assert len(control.opened) == 2


async def test_a_node_that_is_away_is_unavailable(tmp_path: Path) -> None:
    client = LeaseClient(f"unix:{tmp_path / 'nobody.sock'}", "holder", 1, [])
    with pytest.raises(Refusal) as caught:
        await client.acquire("acme", 10, "r")
    assert caught.value.reason is Reason.UNAVAILABLE
    await client.close()


def _from(address: str, token: str = f"bk_abcdefabcdef_{SECRET}") -> Any:
    return (("authorization", f"Bearer {token}"), (PEER_KEY, address))


async def test_a_key_is_for_its_time_networks_and_secrets(worker: Worker) -> None:
    digest, old = hashlib.sha256(SECRET.encode()).digest(), hashlib.sha256(b"old").digest()
    worker.parts.change_policy(ApiKey("abcdefabcdef", "acme", digest, ("mail",), ("192.0.2.0/24",), 0.0, old, 9e9))
    await worker.submit(metadata=_from("192.0.2.7"))
    await worker.submit(metadata=_from("192.0.2.7", "bk_abcdefabcdef_old"))
    for elsewhere in (_from("198.51.100.1"), _from("nonsense"), KEY):
        assert (await worker.refused(metadata=elsewhere)).reason is Reason.PERMISSION_DENIED
    worker.parts.change_policy(ApiKey("abcdefabcdef", "acme", digest, ("mail",), (), 0.0, old, 1.0))
    assert (await worker.refused(metadata=_from("", "bk_abcdefabcdef_old"))).reason is Reason.UNAUTHENTICATED
    await worker.submit()
    worker.parts.change_policy(ApiKey("abcdefabcdef", "acme", digest, ("mail",), (), 1.0))
    assert (await worker.refused()).reason is Reason.UNAUTHENTICATED


async def test_a_token_is_judged_by_the_client_as_it_is_now(worker: Worker) -> None:
    now = time.time()
    token = TOKEN_KEY.issue("client", 2, ["mail"], now)
    # Its client is not known yet: that is news on its way, not a wrong token.
    assert (await worker.refused(metadata=_from("", token))).reason is Reason.UNAVAILABLE
    worker.parts.change_policy(OAuthClient("client", "acme", ("mail", "domains"), 2))
    await worker.submit(metadata=_from("", token))
    for wrong in (
        TOKEN_KEY.issue("client", 2, ["mail"], now - 3601),
        TOKEN_KEY.issue("client", 1, ["mail"], now),
        TOKEN_KEY.issue("nobody", 1, ["mail"], now - 60),
        TokenKey(b"another").issue("client", 2, ["mail"], now),
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        "bt_",
        "bt_x.y",
    ):
        assert (await worker.refused(metadata=_from("", wrong))).reason is Reason.UNAUTHENTICATED
    other_scope = TOKEN_KEY.issue("client", 2, ["domains"], now)
    assert (await worker.refused(metadata=_from("", other_scope))).reason is Reason.PERMISSION_DENIED
    worker.parts.change_policy(OAuthClient("client", "acme", ("mail",), 2, ("192.0.2.0/24",)))
    assert (await worker.refused(metadata=_from("198.51.100.1", token))).reason is Reason.PERMISSION_DENIED
    await worker.submit(metadata=_from("192.0.2.1", token))
    for changed in (
        OAuthClient("client", "acme", ("domains",), 2),
        OAuthClient("client", "acme", ("mail",), 3),
        OAuthClient("client", "acme", ("mail",), 2, (), 1.0),
    ):
        worker.parts.change_policy(changed)
        reason = (await worker.refused(metadata=_from("", token))).reason
        assert reason is (Reason.PERMISSION_DENIED if changed.scopes == ("domains",) else Reason.UNAUTHENTICATED)
