"""Verified senders: codes that are mailed by a mail server of the test's own, and what is refused."""

import asyncio
import email
import email.policy
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import domain_pb2, domain_service_pb2, sender_pb2, sender_service_pb2
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceServicer, add_InjectionServiceServicer_to_server
from barua.policy.v1 import policy_service_pb2

from control import confirmations
from control.database import Database
from control.model.addresses import canonical_address
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, Metadata, basic, new_id, running
from tests.support.dns import DnsServer, Failure
from tests.support.ports import free_port

ADDRESS = "ann@example.org"
SENDER = sender_pb2.Sender


class Mta(InjectionServiceServicer):
    """The MTA's way in: keeps messages, or refuses them."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.messages: asyncio.Queue[tuple[injection_service_pb2.SubmitMessageRequest, str]] = asyncio.Queue()
        self.refusal: Refusal | None = None

    async def SubmitMessage(
        self, request: injection_service_pb2.SubmitMessageRequest, context: Any
    ) -> injection_service_pb2.SubmitMessageResponse:
        metadata = dict(context.invocation_metadata())
        await self.messages.put((request, metadata["authorization"]))
        if self.refusal is not None:
            raise self.refusal
        return injection_service_pb2.SubmitMessageResponse(message_id=1)

    async def SubmitMessages(
        self, request: injection_service_pb2.SubmitMessagesRequest, context: Any
    ) -> injection_service_pb2.SubmitMessagesResponse:
        raise AssertionError("control sends one message with a call")

    async def code(self) -> str:
        """The code in the next message."""
        async with asyncio.timeout(60):
            request, _ = await self.messages.get()
        return code_in(request.content)


def code_in(content: bytes) -> str:
    message = email.message_from_bytes(content, policy=email.policy.default)
    found = re.search(r"code: (\d{8})\s", message.get_content())
    assert found is not None
    return found[1]


@pytest.fixture
async def mta() -> AsyncIterator[Mta]:
    server, servicer = rpc.new_server(), Mta()
    add_InjectionServiceServicer_to_server(servicer, server)
    server.add_insecure_port(servicer.address)
    await server.start()
    yield servicer
    await server.stop(0)


@pytest.fixture
async def control(database_url: str, tmp_path: Path, dns_server: DnsServer, mta: Mta) -> AsyncIterator[Control]:
    nameservers = [dns_server.address]
    chosen = {"mta_address": mta.address, "confirmation_sender": "no-reply@barua.test"}
    home = tmp_path / "home"
    async with running(database_url, home, nameservers, refused_sender_domains=["Free.test"], **chosen) as control:
        yield control


async def create(control: Control, address: str = ADDRESS, metadata: Metadata | None = None, **fields: Any) -> Any:
    request = sender_service_pb2.CreateSenderRequest(parent="tenants/tenant", address=address, **fields)
    return await control.call(control.senders.CreateSender, request, metadata or basic("tenant"))


async def why_not(control: Control, address: str = ADDRESS, **fields: Any) -> Refusal:
    try:
        await create(control, address, **fields)
    except Refusal as refusal:
        return refusal
    raise AssertionError("it is taken")


async def get(control: Control, name: str) -> Any:
    return await control.call(control.senders.GetSender, sender_service_pb2.GetSenderRequest(name=name))


async def verify(control: Control, name: str, code: str) -> Any:
    request = sender_service_pb2.VerifySenderRequest(name=name, code=code, request_id=new_id())
    return await control.call(control.senders.VerifySender, request, basic("tenant"))


async def on_nodes(control: Control) -> list[tuple[str, str]]:
    """The senders that nodes get (tenant id, address)."""
    found = []
    request = policy_service_pb2.WatchPolicyRequest(node="node1")
    async for step in control.policy.WatchPolicy(request, metadata=control.node, timeout=60):
        found += [
            (change.sender.tenant_id, change.sender.address)
            for change in step.changes.changes
            if change.WhichOneof("record") == "sender" and not change.deleted
        ]
        if step.WhichOneof("step") == "snapshot_end":
            break
    return found


async def trouble_of(control: Control, name: str, words: str) -> str:
    """Wait until a sender has a trouble with these words; the trouble."""
    async with asyncio.timeout(60):
        while True:
            trouble: str = (await get(control, name)).mail_trouble
            if words in trouble and trouble:
                return trouble
            await asyncio.sleep(0.05)


@pytest.mark.each_postgres
async def test_an_address_is_proved_with_the_code_that_it_gets(control: Control, mta: Mta) -> None:
    await control.tenant("tenant")
    made = await create(control, "Ann@Example.ORG", sender=SENDER(display_name="Ann"), request_id=new_id())
    assert (made.name, made.state, made.display_name) == (
        f"tenants/tenant/senders/{ADDRESS}",
        SENDER.STATE_PENDING,
        "Ann",
    )
    async with asyncio.timeout(60):
        request, authorization = await mta.messages.get()
    assert (request.tenant_id, request.sender, list(request.recipients)) == (
        "operator",
        "no-reply@barua.test",
        [ADDRESS],
    )
    assert authorization == control.operator[0][1]
    assert b"\r\n" in request.content
    assert b"tenant" not in request.content
    code = code_in(request.content)
    wrong = "0000 0000" if code != "0000 0000" else "1111 1111"
    with pytest.raises(Refusal, match="not the one") as refused:
        await verify(control, made.name, wrong)
    assert (refused.value.reason, refused.value.field) == (Reason.FAILED_PRECONDITION, "code")
    assert await on_nodes(control) == []
    proved = await verify(control, f"tenants/me/senders/{made.number}", code.replace(" ", "-"))
    assert (proved.state, proved.proof) == (SENDER.STATE_VERIFIED, SENDER.PROOF_CODE)
    assert await verify(control, made.name, "anything") == proved
    assert await on_nodes(control) == [("tenant", ADDRESS)]
    again = sender_service_pb2.SendSenderCodeRequest(name=made.name)
    assert await control.refused(control.senders.SendSenderCode, again) is Reason.FAILED_PRECONDITION
    delete = sender_service_pb2.DeleteSenderRequest(name=made.name)
    await control.call(control.senders.DeleteSender, delete, basic("tenant"))
    assert await control.refused(control.senders.DeleteSender, delete) is Reason.NOT_FOUND
    assert await on_nodes(control) == []


async def test_codes_cannot_be_guessed(control: Control, mta: Mta, database: Database) -> None:
    await control.tenant("tenant")
    made = await create(control)
    code = await mta.code()
    wrong = f"{(int(code.replace(' ', '')) + 1) % 10**8:08d}"
    for _ in range(10):
        with pytest.raises(Refusal, match="not the one"):
            await verify(control, made.name, wrong)
    with pytest.raises(Refusal, match="more than 10 codes"):
        await verify(control, made.name, code)
    resend = sender_service_pb2.SendSenderCodeRequest(name=made.name)
    with pytest.raises(Refusal, match="ask again in") as refused:
        await control.call(control.senders.SendSenderCode, resend)
    assert refused.value.reason is Reason.RATE_LIMITED
    assert 0 < (refused.value.retry_after or 0) <= 60
    earlier = "UPDATE sender_code SET requested_at = requested_at - interval '2 minutes'"
    await database.transact(lambda c: c.execute(earlier))
    await control.call(control.senders.SendSenderCode, resend, basic("tenant"))
    newer = await mta.code()
    if newer != code:
        with pytest.raises(Refusal, match="not the one"):
            await verify(control, made.name, code)
    await database.transact(lambda c: c.execute("UPDATE sender SET code_expires_at = now()"))
    with pytest.raises(Refusal, match="expired"):
        await verify(control, made.name, newer)
    for _ in range(3):
        await database.transact(lambda c: c.execute(earlier))
        await control.call(control.senders.SendSenderCode, resend)
        newest = await mta.code()
    await database.transact(lambda c: c.execute(earlier))
    assert await control.refused(control.senders.SendSenderCode, resend) is Reason.RATE_LIMITED
    await control.tenant("other")
    theirs = sender_service_pb2.CreateSenderRequest(parent="tenants/other", address=ADDRESS)
    assert await control.refused(control.senders.CreateSender, theirs, basic("other")) is Reason.RATE_LIMITED
    assert (await verify(control, made.name, newest)).state == SENDER.STATE_VERIFIED


@pytest.mark.parametrize(
    "address",
    ["ann+x@y.test", '"a b"@y.test', '"a,b"@y.test', '"a\\"b@c"@y.test', "jörg@y.test", "o'neil!#$%&*=?^`{|}~@y.test"],
)
def test_a_message_can_be_made_for_any_address(address: str) -> None:
    kept = canonical_address(address, "address")
    content = confirmations.message(kept, "12345678").as_bytes()
    message = email.message_from_bytes(content, policy=email.policy.default)
    (to,) = message["To"].addresses
    assert to.addr_spec.encode("utf-8", "surrogateescape").decode() == kept
    assert code_in(content) == "12345678"


async def test_a_tenant_asks_for_few_codes(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.store.senders.CODES_OF_TENANT", 2)
    await control.tenant("tenant")
    for name in ("a", "b"):
        made = await create(control, f"{name}@example.org")
        await control.call(control.senders.DeleteSender, sender_service_pb2.DeleteSenderRequest(name=made.name))
    assert (await why_not(control, "c@example.org")).reason is Reason.RATE_LIMITED


async def test_only_a_hash_of_a_code_is_kept(control: Control, mta: Mta, database: Database) -> None:
    await control.tenant("tenant")
    made = await create(control)
    code = (await mta.code()).replace(" ", "")
    kept = str(await database.transact(lambda c: c.fetch("SELECT * FROM sender")))
    assert code not in kept
    assert made.name.rpartition("/")[2] in kept


async def test_a_mail_server_that_is_away_is_tried_again(control: Control, mta: Mta, database: Database) -> None:
    await control.tenant("tenant")
    mta.refusal = Refusal(Reason.INSUFFICIENT_CREDITS, "the operator has no credits")
    made = await create(control)
    lost = await mta.code()
    assert "credits" not in await trouble_of(control, made.name, "tried again")
    mta.refusal = None
    await database.transact(lambda c: c.execute("UPDATE sender SET mail_due_at = now()"))
    await create(control, "other@example.org")  # wakes the task
    codes = [lost, await mta.code(), await mta.code()]
    results = [(await asyncio.gather(verify(control, made.name, code), return_exceptions=True))[0] for code in codes]
    assert any(isinstance(result, sender_pb2.Sender) for result in results), results
    assert (await get(control, made.name)).mail_trouble == ""
    mta.refusal = Refusal(Reason.RECIPIENT_SUPPRESSED, "gone@example.org is on the suppression list")
    gone = await create(control, "gone@example.org")
    await mta.code()
    await trouble_of(control, gone.name, "suppression")
    due = "SELECT count(*) FROM sender WHERE mail_due_at IS NOT NULL AND address = 'gone@example.org'"
    assert await database.transact(lambda c: c.fetchval(due)) == 0


async def test_what_is_not_taken_as_a_sender(control: Control, dns_server: DnsServer) -> None:
    await control.tenant("tenant")
    for bad in ("", "ann", "ann@[192.0.2.1]", "ann@x@y.test", "a b@x.test"):
        assert (await why_not(control, bad)).reason is Reason.INVALID_ARGUMENT, bad
    assert (await why_not(control, trusted=True)).reason is Reason.PERMISSION_DENIED
    assert "are not taken" in (await why_not(control, "ann@free.test")).message
    dns_server.set_text("_dmarc.strict.test", "v=DMARC1; p=reject")
    strict = await why_not(control, "ann@mail.strict.test")
    assert (strict.reason, strict.metadata["dmarc_policy"]) == (Reason.FAILED_PRECONDITION, "reject")
    dns_server.fail("_dmarc.away.test", Failure.SERVFAIL)
    assert (await why_not(control, "ann@away.test")).reason is Reason.UNAVAILABLE
    trusted = await create(control, "ann@strict.test", control.operator, trusted=True)
    assert (trusted.state, trusted.proof) == (SENDER.STATE_VERIFIED, SENDER.PROOF_TRUSTED)
    assert (await why_not(control, "ann@strict.test")).reason is Reason.ALREADY_EXISTS


async def test_a_domain_goes_before_its_addresses(control: Control) -> None:
    """Who has the domain needs no code; nobody else gets one, and a code from before counts no more."""
    await control.tenant("tenant")
    await control.tenant("owner")
    await create(control, "ann@owned.test", control.operator, trusted=True)
    claim = domain_service_pb2.CreateDomainRequest(parent="tenants/owner", domain="owned.test", trusted=True)
    domain = await control.call(control.domains.CreateDomain, claim)
    assert domain.state == domain_pb2.Domain.STATE_VERIFIED
    assert (await get(control, "tenants/tenant/senders/ann@owned.test")).state == SENDER.STATE_PENDING
    assert "another account" in (await why_not(control, "bob@owned.test")).message
    again = sender_service_pb2.SendSenderCodeRequest(name="tenants/tenant/senders/ann@owned.test")
    assert await control.refused(control.senders.SendSenderCode, again) is Reason.FAILED_PRECONDITION
    own = sender_service_pb2.CreateSenderRequest(parent="tenants/owner", address="bob@owned.test")
    made = await control.call(control.senders.CreateSender, own, basic("owner"))
    assert (made.state, made.proof) == (SENDER.STATE_VERIFIED, SENDER.PROOF_DOMAIN)
    gone = domain_service_pb2.DeleteDomainRequest(name=domain.name)
    await control.call(control.domains.DeleteDomain, gone)
    assert (await get(control, made.name)).state == SENDER.STATE_PENDING
    assert (await get(control, "tenants/tenant/senders/ann@owned.test")).state == SENDER.STATE_VERIFIED


async def test_senders_are_renamed_and_listed(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.store.senders.MAX_PENDING", 3)
    await control.tenant("tenant")
    made = [await create(control, f"{name}@example.org", request_id=new_id()) for name in ("c", "a", "b")]
    assert (await why_not(control, "d@example.org")).reason is Reason.FAILED_PRECONDITION
    listing = sender_service_pb2.ListSendersRequest(parent="tenants/me", page_size=2)
    first = await control.call(control.senders.ListSenders, listing, basic("tenant"))
    listing.page_token = first.next_page_token
    second = await control.call(control.senders.ListSenders, listing, basic("tenant"))
    assert [sender.name[-13:] for sender in (*first.senders, *second.senders)] == [
        f"{name}@example.org" for name in ("a", "b", "c")
    ]
    update = sender_service_pb2.UpdateSenderRequest(
        sender=SENDER(name=made[0].name, display_name="New", etag=made[0].etag),
        update_mask=FieldMask(paths=["display_name"]),
    )
    renamed = await control.call(control.senders.UpdateSender, update, basic("tenant"))
    assert (renamed.display_name, renamed.etag != made[0].etag) == ("New", True)
    assert await control.refused(control.senders.UpdateSender, update) is Reason.STALE_ETAG
    update.update_mask.paths[:] = ["proof"]
    assert await control.refused(control.senders.UpdateSender, update) is Reason.INVALID_ARGUMENT


async def test_without_a_mail_server_a_sender_waits(database_url: str, tmp_path: Path, dns_server: DnsServer) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    async with running(database_url, tmp_path / "home", [dns_server.address], mta_address=nowhere) as control:
        await control.tenant("tenant")
        made = await create(control)
        await trouble_of(control, made.name, "tried again")
