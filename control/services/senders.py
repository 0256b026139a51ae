"""SenderService: single addresses that a tenant may send from, proved by a code that is mailed to them."""

import hmac
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import sender_pb2, sender_service_pb2
from barua.control.v1.sender_service_pb2_grpc import SenderServiceServicer

from control.authentication import caller
from control.confirmations import Confirmations
from control.database import Connection, Database
from control.domaincheck.checker import Checker
from control.domaincheck.lookup import ROUND_SECONDS, DnsAway
from control.model import addresses, fields, names
from control.model.caller import Role
from control.model.taglists import DmarcPolicy
from control.services.listing import listing_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.store import senders, tenants
from control.store.senders import MAX_ATTEMPTS, Proof, Sender
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

_PROOFS = {
    None: sender_pb2.Sender.PROOF_UNSPECIFIED,
    Proof.CODE: sender_pb2.Sender.PROOF_CODE,
    Proof.TRUSTED: sender_pb2.Sender.PROOF_TRUSTED,
    Proof.DOMAIN: sender_pb2.Sender.PROOF_DOMAIN,
}


class SenderServicer(SenderServiceServicer):
    """See the proto. ``refused_domains``: those whose single addresses are not taken, as A-labels."""

    def __init__(
        self,
        database: Database,
        mutations: Mutations,
        checker: Checker,
        confirmations: Confirmations,
        refused_domains: frozenset[str],
    ) -> None:
        self._database = database
        self._mutations = mutations
        self._checker = checker
        self._confirmations = confirmations
        self._refused_domains = refused_domains

    async def CreateSender(
        self, request: sender_service_pb2.CreateSenderRequest, context: _Context
    ) -> sender_pb2.Sender:
        """See the proto."""
        who = caller()
        tenant_id = names.tenant(request.parent, who.tenant_id, "parent")
        address = _address(request.address, "address")
        display_name = fields.text(request.sender.display_name, "sender.display_name")
        reply_to = _reply_to(request.sender)
        if request.trusted and who.role is not Role.OPERATOR:
            raise Refusal(Reason.PERMISSION_DENIED, "only the operator may take a sender on trust", field="trusted")
        earlier = await self._mutations.earlier(request, sender_pb2.Sender)
        if earlier is not None:
            return earlier

        async def check(connection: Connection) -> bool:
            await tenants.visible(connection, who.tenant_id, tenant_id)
            await senders.check_available(connection, tenant_id, address, trusted=request.trusted)
            return await senders.inherits_domain(connection, tenant_id, address)

        if not await self._database.transact(check) and not request.trusted:
            await self._check_domain(senders.domain_of(address))

        async def effect(connection: Connection) -> sender_pb2.Sender:
            await tenants.visible(connection, who.tenant_id, tenant_id, lock=True)
            made = await senders.create(connection, tenant_id, address, display_name, reply_to, trusted=request.trusted)
            return _to_proto(made)

        answer = await self._mutations.run(request, sender_pb2.Sender, effect)
        self._confirmations.wake()
        return answer

    async def GetSender(self, request: sender_service_pb2.GetSenderRequest, context: _Context) -> sender_pb2.Sender:
        """See the proto."""
        name = _parse(request.name)
        return _to_proto(await self._database.transact(lambda connection: _find(connection, name)))

    async def ListSenders(
        self, request: sender_service_pb2.ListSendersRequest, context: _Context
    ) -> sender_service_pb2.ListSendersResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        verified = request.verified if request.HasField("verified") else None
        listing = listing_of(request, tenant_id, str(verified))

        async def read(connection: Connection) -> tuple[list[Sender], int]:
            await tenants.visible(connection, me, tenant_id)
            return await senders.page(connection, tenant_id, verified, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda sender: sender.address)
        return sender_service_pb2.ListSendersResponse(
            senders=map(_to_proto, shown), next_page_token=token, total_size=total
        )

    async def UpdateSender(
        self, request: sender_service_pb2.UpdateSenderRequest, context: _Context
    ) -> sender_pb2.Sender:
        """See the proto."""
        name = _parse(request.sender.name, "sender.name")
        paths = paths_of(request.update_mask, request.sender, "sender", ("display_name", "reply_to"))
        display_name = fields.text(request.sender.display_name, "sender.display_name")
        reply_to = _reply_to(request.sender)

        async def effect(connection: Connection) -> sender_pb2.Sender:
            found = await _find(connection, name, lock=True)
            check_etag(request.sender.etag, found.etag, "sender.etag")
            renamed = await senders.rename(
                connection,
                found,
                display_name if "display_name" in paths else found.display_name,
                reply_to if "reply_to" in paths else found.reply_to,
            )
            return _to_proto(renamed)

        return await self._mutations.run(request, sender_pb2.Sender, effect)

    async def VerifySender(
        self, request: sender_service_pb2.VerifySenderRequest, context: _Context
    ) -> sender_pb2.Sender:
        """See the proto."""
        name = _parse(request.name)
        code = request.code.replace(" ", "").replace("-", "")
        earlier = await self._mutations.earlier(request, sender_pb2.Sender)
        if earlier is not None:
            return earlier

        async def count(connection: Connection) -> Sender:
            """In a transaction of its own: an attempt counts even though its request is refused."""
            found = await _find(connection, name, lock=True)
            return found if found.proof is not None else await senders.count_attempt(connection, found)

        tried = await self._database.transact(count)
        if tried.proof is not None:
            return _to_proto(tried)
        self._check_code(tried, code)

        async def effect(connection: Connection) -> sender_pb2.Sender:
            found = await _find(connection, name, lock=True)
            if found.proof is None and found.code_hash != tried.code_hash:
                raise _refused_code("a newer code has been mailed; use that one")
            return _to_proto(found if found.proof is not None else await senders.mark_proved(connection, found))

        return await self._mutations.run(request, sender_pb2.Sender, effect)

    async def SendSenderCode(
        self, request: sender_service_pb2.SendSenderCodeRequest, context: _Context
    ) -> sender_pb2.Sender:
        """See the proto."""
        name = _parse(request.name)

        async def effect(connection: Connection) -> sender_pb2.Sender:
            found = await _find(connection, name, lock=True)
            if found.proof is not None:
                text = f"{found.address} is verified: there is nothing to prove"
                raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"address": found.address})
            await senders.check_domain(connection, found)
            return _to_proto(await senders.request_code(connection, found))

        answer = await self._mutations.run(request, sender_pb2.Sender, effect)
        self._confirmations.wake()
        return answer

    async def DeleteSender(self, request: sender_service_pb2.DeleteSenderRequest, context: _Context) -> Empty:
        """See the proto."""
        name = _parse(request.name)

        async def effect(connection: Connection) -> Empty:
            found = await _find(connection, name)
            await senders.delete(connection, found.tenant_id, found.address)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def _check_domain(self, domain: str) -> None:
        """Refuse a domain whose mail would not get through, or that the operator does not want."""
        if domain in self._refused_domains:
            text = f"single addresses at {domain} are not taken; use an address of a domain of your own"
            raise Refusal(Reason.FAILED_PRECONDITION, text, field="address", metadata={"domain": domain})
        try:
            policy = await self._checker.dmarc_policy(domain)
        except DnsAway as error:
            text = f"the DNS did not answer for {domain}; try again"
            raise Refusal(Reason.UNAVAILABLE, text, retry_after=ROUND_SECONDS, metadata={"domain": domain}) from error
        if policy is not DmarcPolicy.NONE:
            text = (
                f"the DMARC policy of {domain} is {policy}: receivers would not take mail from it that another domain"
                " signs. Verify the domain itself, or use an address of another one"
            )
            metadata = {"domain": domain, "dmarc_policy": policy.value}
            raise Refusal(Reason.FAILED_PRECONDITION, text, field="address", metadata=metadata)

    def _check_code(self, tried: Sender, code: str) -> None:
        if tried.code_hash is None or tried.code_expires_at is None:
            raise _refused_code("no code has been mailed yet; wait for it, or ask for a new one")
        if tried.attempts > MAX_ATTEMPTS:
            raise _refused_code(f"more than {MAX_ATTEMPTS} codes were tried; ask for a new one")
        if tried.code_expires_at <= datetime.now(UTC):
            raise _refused_code("the code has expired; ask for a new one")
        if not hmac.compare_digest(tried.code_hash, self._confirmations.hash_of(tried, code)):
            raise _refused_code("the code is not the one that was mailed last")


def _refused_code(text: str) -> Refusal:
    return Refusal(Reason.FAILED_PRECONDITION, text, field="code")


def _address(value: str, field: str) -> str:
    address = addresses.canonical_address(value, field)
    if address.endswith("]"):
        raise fields.invalid(field, f"{field} must be at a domain; an address literal cannot send")
    return address


def _reply_to(sender: sender_pb2.Sender) -> str:
    field = "sender.reply_to"
    return addresses.canonical_address(sender.reply_to, field) if sender.reply_to else ""


def _parse(name: str, field: str = "name") -> names.ChildName:
    child = names.child(name, "senders", caller().tenant_id, field)
    if child.id.isascii() and child.id.isdecimal() and len(child.id) < 10:
        return child
    return replace(child, id=addresses.canonical_address(child.id, field))


async def _find(connection: Connection, name: names.ChildName, *, lock: bool = False) -> Sender:
    await tenants.visible(connection, caller().tenant_id, name.tenant_id)
    address = name.id
    if address.isdecimal():
        address = await senders.address_of(connection, name.tenant_id, int(address))
    return await senders.get(connection, name.tenant_id, address, lock=lock)


def _to_proto(sender: Sender) -> sender_pb2.Sender:
    kinds = sender_pb2.Sender
    return kinds(
        name=f"tenants/{sender.tenant_id}/senders/{sender.address}",
        display_name=sender.display_name,
        reply_to=sender.reply_to,
        state=kinds.STATE_PENDING if sender.proof is None else kinds.STATE_VERIFIED,
        proof=_PROOFS[sender.proof],
        mail_trouble=sender.mail_trouble,
        code_send_time=to_proto(sender.code_sent_at),
        code_expire_time=to_proto(sender.code_expires_at if sender.code_hash is not None else None),
        verify_time=to_proto(sender.proved_at),
        create_time=to_proto(sender.created_at),
        etag=sender.etag,
        number=sender.number,
    )
