"""DomainService: sender domains and their DKIM keys."""

import asyncio
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import domain_pb2, domain_service_pb2
from barua.control.v1.domain_service_pb2_grpc import DomainServiceServicer

from control import dkimkeys
from control.authentication import caller
from control.challenge import ChallengeChecker
from control.database import Connection, Database
from control.model import addresses, apikeys, dnsrecords, names
from control.model.caller import Role
from control.sealing import Sealer
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.store import domains, tenants
from control.store.domains import DkimKey, Domain
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]


class DomainServicer(DomainServiceServicer):
    """See the proto. ``sending_host`` is the host named in the advice for SPF."""

    def __init__(
        self,
        database: Database,
        mutations: Mutations,
        sealer: Sealer,
        checker: ChallengeChecker,
        sending_host: str,
    ) -> None:
        self._database = database
        self._mutations = mutations
        self._sealer = sealer
        self._checker = checker
        self._sending_host = sending_host
        self._making_keys = asyncio.Semaphore(1)

    async def CreateDomain(
        self, request: domain_service_pb2.CreateDomainRequest, context: _Context
    ) -> domain_pb2.Domain:
        """See the proto."""
        who = caller()
        tenant_id = names.tenant(request.parent, who.tenant_id, "parent")
        domain = addresses.domain_name(request.domain, "domain")
        if request.trusted and who.role is not Role.OPERATOR:
            raise Refusal(Reason.PERMISSION_DENIED, "only the operator may take a domain on trust", field="trusted")
        signing_off = request.settings.signing == domain_pb2.Domain.SIGNING_OFF
        earlier = await self._mutations.earlier(request, domain_pb2.Domain)
        if earlier is not None:
            return earlier

        async def check(connection: Connection) -> None:
            await tenants.visible(connection, who.tenant_id, tenant_id)
            await domains.check_available(connection, tenant_id, domain, verified=request.trusted)

        # Before the keys, which cost a quarter of a second, and which a dry run has no use for.
        await self._database.transact(check)
        keys = [] if request.validate_only else await self._new_keys(tenant_id, domain)

        async def effect(connection: Connection) -> domain_pb2.Domain:
            await tenants.visible(connection, who.tenant_id, tenant_id)
            made = await domains.create(
                connection,
                tenant_id,
                domain,
                verified=request.trusted,
                signing_off=signing_off,
                challenge=apikeys.random_name(32),
                keys=keys,
            )
            return self._to_proto(made)

        return await self._mutations.run(request, domain_pb2.Domain, effect)

    async def GetDomain(self, request: domain_service_pb2.GetDomainRequest, context: _Context) -> domain_pb2.Domain:
        """See the proto."""
        return self._to_proto(await self._find(request.name))

    async def ListDomains(
        self, request: domain_service_pb2.ListDomainsRequest, context: _Context
    ) -> domain_service_pb2.ListDomainsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", tenant_id)

        async def read(connection: Connection) -> list[Domain]:
            await tenants.visible(connection, me, tenant_id)
            return await domains.page(connection, tenant_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda domain: domain.domain)
        return domain_service_pb2.ListDomainsResponse(domains=map(self._to_proto, found), next_page_token=token)

    async def VerifyDomain(
        self, request: domain_service_pb2.VerifyDomainRequest, context: _Context
    ) -> domain_pb2.Domain:
        """See the proto. A domain that is verified stays so, which also makes a repeat safe."""
        found = await self._find(request.name)
        if found.verified:
            return self._to_proto(found)
        await self._checker.check(dnsrecords.challenge(found.domain, found.challenge))

        async def effect(connection: Connection) -> domain_pb2.Domain:
            return self._to_proto(await domains.mark_verified(connection, found.tenant_id, found.domain))

        return await self._mutations.run(request, domain_pb2.Domain, effect)

    async def DeleteDomain(self, request: domain_service_pb2.DeleteDomainRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name, domain = self._parse(request.name)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await domains.delete(connection, name.tenant_id, domain)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    def _parse(self, name: str) -> tuple[names.ChildName, str]:
        child = names.child(name, "domains", caller().tenant_id)
        return child, addresses.domain_name(child.id, "name")

    async def _find(self, name: str) -> Domain:
        me = caller().tenant_id
        child, domain = self._parse(name)

        async def read(connection: Connection) -> Domain:
            await tenants.visible(connection, me, child.tenant_id)
            return await domains.get(connection, child.tenant_id, domain)

        return await self._database.transact(read)

    async def _new_keys(self, tenant_id: str, domain: str) -> list[DkimKey]:
        async with self._making_keys:  # the cores are for the others
            pairs = await dkimkeys.generate()
        return [
            DkimKey(
                pair.selector,
                pair.algorithm,
                pair.public_key,
                self._sealer.seal(pair.private_key, tenant_id, domain, pair.selector),
            )
            for pair in pairs
        ]

    def _to_proto(self, domain: Domain) -> domain_pb2.Domain:
        records = [
            dnsrecords.challenge(domain.domain, domain.challenge),
            *(dnsrecords.dkim(domain.domain, key.selector, key.algorithm, key.public_key) for key in domain.keys),
            *dnsrecords.advice(domain.domain, self._sending_host),
        ]
        kinds = domain_pb2.Domain
        return domain_pb2.Domain(
            name=f"tenants/{domain.tenant_id}/domains/{domain.domain}",
            state=kinds.STATE_VERIFIED if domain.verified else kinds.STATE_PENDING,
            signing=kinds.SIGNING_OFF if domain.signing_off else kinds.SIGNING_REQUIRED,
            dns_records=[
                domain_pb2.DnsRecord(owner=record.owner, type="TXT", data=record.data, purpose=record.purpose)
                for record in records
            ],
            create_time=to_proto(domain.created_at),
        )
