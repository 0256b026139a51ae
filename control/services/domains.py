"""DomainService: sender domains and what the DNS has of them."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import domain_pb2, domain_service_pb2
from barua.control.v1.domain_service_pb2_grpc import DomainServiceServicer

from control import dkimkeys
from control.authentication import caller
from control.database import Connection, Database
from control.domaincheck import subject
from control.domaincheck.checker import Checker
from control.domaincheck.lookup import ROUND_SECONDS
from control.model import addresses, apikeys, names
from control.model.caller import ROOT_TENANT, Role, acting_for_platform
from control.model.checks import Check, CheckState
from control.model.fields import invalid
from control.rotation import sealed
from control.sealing import Sealer
from control.services import domain_answers
from control.services.listing import listing_of
from control.services.mutation import Mutations
from control.services.updates import check_etag, paths_of
from control.store import domains, sending, tenants
from control.store.dkim_keys import NewKey
from control.store.domains import Domain, Settings
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

UPDATABLE = ("signing", "return_path_host", "tracking_host", "key_rotation_period", "signs_for_senders")
CHECKS_AT_ONCE = 16
"""Checks of whole domains that callers wait for."""
CHECKS_OF_TENANT = 4
"""Of these, for domains of one tenant: foreign records decide what a check asks the DNS."""
MAX_SAID, MAX_SHOWN = 1200, 400
"""Characters of a refusal and of what it shows of the DNS: errors travel in HTTP/2 trailers, of 8 KiB in all."""
MIN_ROTATION_DAYS, MAX_ROTATION_DAYS = 7, 730
_DAY = 86_400


class DomainServicer(DomainServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, sealer: Sealer, checker: Checker) -> None:
        self._database = database
        self._mutations = mutations
        self._sealer = sealer
        self._checker = checker
        self._making_keys = asyncio.Semaphore(1)
        self._checking: Counter[str] = Counter()

    async def CreateDomain(
        self, request: domain_service_pb2.CreateDomainRequest, context: _Context
    ) -> domain_pb2.Domain:
        """See the proto."""
        who = caller()
        tenant_id = names.tenant(request.parent, who.tenant_id, "parent")
        domain = addresses.domain_name(request.domain, "domain")
        if request.trusted and who.role is not Role.OPERATOR:
            raise Refusal(Reason.PERMISSION_DENIED, "only the operator may take a domain on trust", field="trusted")
        settings = _changed(Settings(), request.settings, UPDATABLE, tenant_id, domain, "settings")
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
            await tenants.visible(connection, who.tenant_id, tenant_id, lock=True)
            made = await domains.create(
                connection,
                tenant_id,
                domain,
                trusted=request.trusted,
                settings=settings,
                challenge=apikeys.random_name(32),
                keys=keys,
            )
            return self._to_proto(made)

        return await self._mutations.run(request, domain_pb2.Domain, effect)

    async def GetDomain(self, request: domain_service_pb2.GetDomainRequest, context: _Context) -> domain_pb2.Domain:
        """See the proto."""
        return self._to_proto(await self._read(_parse(request.name)))

    async def ListDomains(
        self, request: domain_service_pb2.ListDomainsRequest, context: _Context
    ) -> domain_service_pb2.ListDomainsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        verified = request.verified if request.HasField("verified") else None
        listing = listing_of(request, tenant_id, str(verified))

        async def read(connection: Connection) -> tuple[list[Domain], int]:
            await tenants.visible(connection, me, tenant_id)
            return await domains.page(connection, tenant_id, verified, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda domain: domain.domain)
        return domain_service_pb2.ListDomainsResponse(
            domains=map(self._to_proto, shown), next_page_token=token, total_size=total
        )

    async def UpdateDomain(
        self, request: domain_service_pb2.UpdateDomainRequest, context: _Context
    ) -> domain_pb2.Domain:
        """See the proto."""
        name = _parse(request.domain.name, "domain.name")
        paths = paths_of(request.update_mask, request.domain, "domain", UPDATABLE)

        async def effect(connection: Connection) -> domain_pb2.Domain:
            found = await find(connection, name, lock=True)
            check_etag(request.domain.etag, found.etag, "domain.etag")
            settings = _changed(found.settings, request.domain, paths, found.tenant_id, found.domain, "domain")
            if settings == found.settings:
                return self._to_proto(found)
            return self._to_proto(await domains.update(connection, found, settings))

        return await self._mutations.run(request, domain_pb2.Domain, effect)

    async def VerifyDomain(
        self, request: domain_service_pb2.VerifyDomainRequest, context: _Context
    ) -> domain_pb2.Domain:
        """See the proto. A domain that is verified stays so, which also makes a repeat safe."""
        found = await self._read(_parse(request.name))
        if found.verified:
            return self._to_proto(found)
        keys = [subject.published(key) for key in found.keys]
        demand(await self._checker.check_challenge(found.domain, found.challenge, keys))

        async def effect(connection: Connection) -> domain_pb2.Domain:
            return self._to_proto(await domains.mark_verified(connection, found))

        return await self._mutations.run(request, domain_pb2.Domain, effect)

    async def CheckDomain(self, request: domain_service_pb2.CheckDomainRequest, context: _Context) -> domain_pb2.Domain:
        """See the proto."""
        found = await self._read(_parse(request.name))
        earlier = await self._mutations.earlier(request, domain_pb2.Domain)
        if earlier is not None:
            return earlier
        with acting_for_platform():  # sources are the operator's; that mail leaves from them is no secret
            ways = await self._database.transact(lambda c: sending.ways_of(c, found.tenant_id, found.domain))
        with self._turn(found.tenant_id):
            result = await self._checker.check(subject.wanted(found, ways))

        async def effect(connection: Connection) -> domain_pb2.Domain:
            return self._to_proto(await domains.keep_checks(connection, found, result))

        return await self._mutations.run(request, domain_pb2.Domain, effect)

    async def DeleteDomain(self, request: domain_service_pb2.DeleteDomainRequest, context: _Context) -> Empty:
        """See the proto."""
        name = _parse(request.name)

        async def effect(connection: Connection) -> Empty:
            found = await find(connection, name)
            await domains.delete(connection, found.tenant_id, found.domain)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def _read(self, name: names.ChildName) -> Domain:
        return await self._database.transact(lambda connection: find(connection, name))

    @contextmanager
    def _turn(self, tenant_id: str) -> Iterator[None]:
        """One of the checks that are made at once. RATE_LIMITED if there are too many."""
        if self._checking[tenant_id] >= CHECKS_OF_TENANT or self._checking.total() >= CHECKS_AT_ONCE:
            text = "too many domains are being checked at this moment; try again"
            raise Refusal(Reason.RATE_LIMITED, text, retry_after=ROUND_SECONDS)
        self._checking[tenant_id] += 1
        try:
            yield
        finally:
            self._checking[tenant_id] -= 1
            if not self._checking[tenant_id]:
                del self._checking[tenant_id]

    async def _new_keys(self, tenant_id: str, domain: str) -> list[NewKey]:
        async with self._making_keys:  # the cores are for the others
            pairs = await dkimkeys.generate()
        return [sealed(self._sealer, pair, tenant_id, domain) for pair in pairs]

    def _to_proto(self, domain: Domain) -> domain_pb2.Domain:
        return domain_answers.domain_to_proto(domain, self._checker.plan)


async def find(connection: Connection, name: names.ChildName, *, lock: bool = False) -> Domain:
    """The domain of a name, whose last part is the domain or its number. NOT_FOUND if the caller does not see it."""
    await tenants.visible(connection, caller().tenant_id, name.tenant_id)
    domain = name.id
    if domain.isdecimal():
        domain = await domains.name_of(connection, name.tenant_id, int(domain))
    return await domains.get(connection, name.tenant_id, domain, lock=lock)


def demand(*checks: Check) -> None:
    """Refuse what is not in the DNS as it should be: FAILED_PRECONDITION, or UNAVAILABLE if the DNS did not answer."""
    wrong = [check for check in checks if check.state is not CheckState.OK]
    if not wrong:
        return
    first = wrong[0].record
    away = any(check.state is CheckState.ERROR for check in wrong)
    raise Refusal(
        Reason.UNAVAILABLE if away else Reason.FAILED_PRECONDITION,
        "; ".join(check.explanation for check in wrong)[:MAX_SAID],
        retry_after=ROUND_SECONDS if away else None,
        metadata={"owner": first.owner, "wanted": first.data, "found": "; ".join(wrong[0].found)[:MAX_SHOWN]},
    )


def parse_id(name: names.ChildName, field: str) -> names.ChildName:
    """The name with its domain in the kept form; a number stays."""
    if name.id.isascii() and name.id.isdecimal() and len(name.id) < 10:
        return name
    return replace(name, id=addresses.domain_name(name.id, field))


def _parse(name: str, field: str = "name") -> names.ChildName:
    return parse_id(names.child(name, "domains", caller().tenant_id, field), field)


def _changed(
    settings: Settings,
    given: domain_pb2.Domain,
    paths: "frozenset[str] | tuple[str, ...]",
    tenant_id: str,
    domain: str,
    field: str,
) -> Settings:
    """The settings with the fields at ``paths`` as given."""
    if "signing" in paths:
        if given.signing not in domain_pb2.Domain.Signing.values():
            raise invalid(f"{field}.signing", f"{field}.signing {given.signing} is not known")
        settings = replace(settings, signing_off=given.signing == domain_pb2.Domain.SIGNING_OFF)
    if "return_path_host" in paths:
        host = _host(given.return_path_host, domain, f"{field}.return_path_host")
        settings = replace(settings, return_path_host=host)
    if "tracking_host" in paths:
        settings = replace(settings, tracking_host=_host(given.tracking_host, domain, f"{field}.tracking_host"))
    if "key_rotation_period" in paths:
        days = _days(given.key_rotation_period, f"{field}.key_rotation_period")
        settings = replace(settings, rotation_days=days)
    if "signs_for_senders" in paths:
        _check_signer(given.signs_for_senders, tenant_id, f"{field}.signs_for_senders")
        settings = replace(settings, signs_for_senders=given.signs_for_senders)
    if settings.return_path_host and settings.return_path_host == settings.tracking_host:
        raise invalid(f"{field}.tracking_host", f"{field}.tracking_host must not be the return_path_host as well")
    return settings


def _host(value: str, domain: str, field: str) -> str:
    if not value:
        return ""
    host = addresses.domain_name(value, field)
    if not host.endswith(f".{domain}"):
        raise invalid(field, f"{field} must be a name below {domain}, such as mail.{domain}")
    return host


def _days(period: Duration, field: str) -> int:
    days, rest = divmod(period.seconds, _DAY)
    if rest or period.nanos or (days and not MIN_ROTATION_DAYS <= days <= MAX_ROTATION_DAYS):
        raise invalid(
            field, f"{field} must be 0, or whole days of 86400 seconds, {MIN_ROTATION_DAYS} to {MAX_ROTATION_DAYS}"
        )
    return days


def _check_signer(wanted: bool, tenant_id: str, field: str) -> None:
    if wanted and (tenant_id != ROOT_TENANT or caller().role is not Role.OPERATOR):
        raise Refusal(Reason.PERMISSION_DENIED, f"{field} is for domains of the operator", field=field)
