"""PoolService: pools that tenants make of the sources allotted to them.

The tables are the operator's, so every transaction here is the platform's (``_transact``, ``_change``); what a caller
may see is decided by looking its tenant up first.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from barua.control.v1 import pool_pb2, pool_service_pb2
from barua.control.v1.pool_service_pb2_grpc import PoolServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import apikeys, egress, fields, names, selection
from control.model.caller import acting_for_platform
from control.model.fields import invalid
from control.services.listing import Page, page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.store import egress as sources
from control.store import tenant_pools as store
from control.store import tenants
from control.store.egress import Source
from control.store.tenant_pools import Settings, TenantPool
from control.store.tenants import Tenant, not_found
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]
_Answer = TypeVar("_Answer")
_Proto = TypeVar("_Proto", bound=Message)

_STRATEGIES = {
    pool_pb2.TenantPool.ROUTING_STRATEGY_ROUND_ROBIN: "round_robin",
    pool_pb2.TenantPool.ROUTING_STRATEGY_RECIPIENT_PROVIDER: "recipient_provider",
    pool_pb2.TenantPool.ROUTING_STRATEGY_VOLUME_SHARE: "volume_share",
    pool_pb2.TenantPool.ROUTING_STRATEGY_SENDER_DOMAIN: "sender_domain",
}
_STRATEGY_PROTOS = {text: proto for proto, text in _STRATEGIES.items()}
_POOL_FIELDS = frozenset(
    {"display_name", "addresses", "routing_strategy", "routing_metadata", "overflow", "overflow_pool"}
)
_SOURCE_FIELDS = frozenset({"auto_warm_up"})


class PoolServicer(PoolServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations

    # -- sources -------------------------------------------------------------------------------------------------------

    async def GetTenantSource(
        self, request: pool_service_pb2.GetTenantSourceRequest, context: _Context
    ) -> pool_pb2.TenantSource:
        """See the proto."""
        name = _name(request.name, "sources", "name")

        async def read(connection: Connection) -> pool_pb2.TenantSource:
            tenant = await _tenant(connection, name.tenant_id)
            return _source_proto(tenant.tenant_id, await store.get_source(connection, tenant, _number(name, "source")))

        return await self._transact(read)

    async def ListTenantSources(
        self, request: pool_service_pb2.ListTenantSourcesRequest, context: _Context
    ) -> pool_service_pb2.ListTenantSourcesResponse:
        """See the proto."""
        tenant_id = names.tenant(request.parent, caller().tenant_id, "parent")
        page, search, skip = _page(request, tenant_id)

        async def read(connection: Connection) -> list[Source]:
            tenant = await _tenant(connection, tenant_id)
            return await store.page_sources(connection, tenant, search, page.after, skip, page.limit)

        found, token = page.cut(await self._transact(read), lambda source: source.number)
        return pool_service_pb2.ListTenantSourcesResponse(
            sources=[_source_proto(tenant_id, source) for source in found], next_page_token=token
        )

    async def UpdateTenantSource(
        self, request: pool_service_pb2.UpdateTenantSourceRequest, context: _Context
    ) -> pool_pb2.TenantSource:
        """See the proto."""
        name = _name(request.source.name, "sources", "source.name")
        paths_of(request.update_mask, request.source, "source", _SOURCE_FIELDS)

        async def effect(connection: Connection) -> pool_pb2.TenantSource:
            tenant, source = await _own_source(connection, name)
            check_etag(request.source.etag, str(source.version), "source.etag")
            changed = _warmed_up(source, request.source.auto_warm_up)
            if changed != source:
                source = await sources.update_source(connection, changed)
            return _source_proto(tenant.tenant_id, source)

        return await self._change(request, pool_pb2.TenantSource, effect)

    async def AllocateTenantSources(
        self, request: pool_service_pb2.AllocateTenantSourcesRequest, context: _Context
    ) -> pool_service_pb2.AllocateTenantSourcesResponse:
        """See the proto."""
        tenant_id = names.tenant(request.parent, caller().tenant_id, "parent")
        if not 1 <= len(request.addresses) <= egress.MAX_ALLOCATED:
            raise invalid("addresses", f"addresses must be 1 to {egress.MAX_ALLOCATED}; there are none or more")
        addresses = _addresses(request.addresses, "addresses")

        async def effect(connection: Connection) -> pool_service_pb2.AllocateTenantSourcesResponse:
            tenant = await _tenant(connection, tenant_id)
            found = await store.allotted(connection, tenant, addresses)
            for address in addresses:
                if address not in found:
                    raise not_found("source", address)
                source = found[address]
                changed = replace(source, released=False) if source.allotted_to == tenant_id else source
                if changed.allotted_to == tenant_id and request.HasField("auto_warm_up"):
                    changed = _warmed_up(changed, request.auto_warm_up)
                if changed != source:
                    found[address] = await sources.update_source(connection, changed)
            return pool_service_pb2.AllocateTenantSourcesResponse(
                sources=[_source_proto(tenant_id, found[address]) for address in addresses]
            )

        return await self._change(request, pool_service_pb2.AllocateTenantSourcesResponse, effect)

    async def ReleaseTenantSource(
        self, request: pool_service_pb2.ReleaseTenantSourceRequest, context: _Context
    ) -> Empty:
        """See the proto."""
        name = _name(request.name, "sources", "name")

        async def effect(connection: Connection) -> Empty:
            _, source = await _own_source(connection, name)
            check_etag(request.etag, str(source.version))
            await store.check_unused(connection, source, None)
            await sources.update_source(connection, replace(_warmed_up(source, False), released=True))
            return Empty()

        return await self._change(request, Empty, effect)

    # -- pools ---------------------------------------------------------------------------------------------------------

    async def CreateTenantPool(
        self, request: pool_service_pb2.CreateTenantPoolRequest, context: _Context
    ) -> pool_pb2.TenantPool:
        """See the proto."""
        tenant_id = names.tenant(request.parent, caller().tenant_id, "parent")

        async def effect(connection: Connection) -> pool_pb2.TenantPool:
            tenant = await _tenant(connection, tenant_id)
            settings = await _changed(connection, tenant, None, request.pool, _POOL_FIELDS)
            return _pool_proto(await store.create(connection, f"p{apikeys.random_name(12)}", tenant, settings))

        return await self._change(request, pool_pb2.TenantPool, effect)

    async def GetTenantPool(
        self, request: pool_service_pb2.GetTenantPoolRequest, context: _Context
    ) -> pool_pb2.TenantPool:
        """See the proto."""
        name = _name(request.name, "pools", "name")
        _, pool = await self._transact(lambda connection: _own_pool(connection, name))
        return _pool_proto(pool)

    async def ListTenantPools(
        self, request: pool_service_pb2.ListTenantPoolsRequest, context: _Context
    ) -> pool_service_pb2.ListTenantPoolsResponse:
        """See the proto."""
        tenant_id = names.tenant(request.parent, caller().tenant_id, "parent")
        page, search, skip = _page(request, tenant_id)

        async def read(connection: Connection) -> list[TenantPool]:
            await _tenant(connection, tenant_id)
            return await store.page(connection, tenant_id, search, page.after, skip, page.limit)

        found, token = page.cut(await self._transact(read), lambda pool: pool.number)
        return pool_service_pb2.ListTenantPoolsResponse(pools=map(_pool_proto, found), next_page_token=token)

    async def UpdateTenantPool(
        self, request: pool_service_pb2.UpdateTenantPoolRequest, context: _Context
    ) -> pool_pb2.TenantPool:
        """See the proto."""
        name = _name(request.pool.name, "pools", "pool.name")
        paths = paths_of(request.update_mask, request.pool, "pool", _POOL_FIELDS)

        async def effect(connection: Connection) -> pool_pb2.TenantPool:
            tenant, pool = await _own_pool(connection, name, lock=True)
            check_etag(request.pool.etag, pool.etag, "pool.etag")
            settings = await _changed(connection, tenant, pool, request.pool, paths)
            return _pool_proto(await store.update(connection, pool, settings))

        return await self._change(request, pool_pb2.TenantPool, effect)

    async def DeleteTenantPool(self, request: pool_service_pb2.DeleteTenantPoolRequest, context: _Context) -> Empty:
        """See the proto."""
        name = _name(request.name, "pools", "name")

        async def effect(connection: Connection) -> Empty:
            _, pool = await _own_pool(connection, name, lock=True)
            check_etag(request.etag, pool.etag)
            await sources.delete_pool(connection, pool.pool_id)
            return Empty()

        return await self._change(request, Empty, effect)

    async def _transact(self, work: Callable[[Connection], Awaitable[_Answer]]) -> _Answer:
        with acting_for_platform():
            return await self._database.transact(work)

    async def _change(
        self, request: Any, answer_type: type[_Proto], effect: Callable[[Connection], Awaitable[_Proto]]
    ) -> _Proto:
        with acting_for_platform():
            return await self._mutations.run(request, answer_type, effect)


async def _tenant(connection: Connection, tenant_id: str) -> Tenant:
    """The tenant, if the caller may see it. Raises NOT_FOUND: everything here begins with this."""
    return await tenants.visible(connection, caller().tenant_id, tenant_id)


async def _own_source(connection: Connection, name: names.ChildName) -> tuple[Tenant, Source]:
    tenant = await _tenant(connection, name.tenant_id)
    source = await store.get_source(connection, tenant, _number(name, "source"), lock=True)
    if source.allotted_to != tenant.tenant_id:
        text = f"the source {source.address} is shared: only a tenant above may change it"
        raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"source": source.address})
    return tenant, source


async def _own_pool(connection: Connection, name: names.ChildName, *, lock: bool = False) -> tuple[Tenant, TenantPool]:
    tenant = await _tenant(connection, name.tenant_id)
    return tenant, await store.get(connection, tenant.tenant_id, _number(name, "pool"), lock=lock)


async def _changed(
    connection: Connection,
    tenant: Tenant,
    pool: TenantPool | None,
    wanted: pool_pb2.TenantPool,
    paths: Collection[str],
) -> Settings:
    """The settings of a pool, or of a new one, with the fields at ``paths`` as wanted, checked."""
    settings = pool.settings if pool is not None else Settings()
    addresses = [source.address for source in pool.sources] if pool is not None else []
    if "display_name" in paths:
        settings = replace(settings, display_name=egress.pool_name(wanted.display_name, "pool.display_name"))
    if "routing_strategy" in paths:
        settings = replace(settings, routing_strategy=_strategy(wanted))
    if "routing_metadata" in paths:
        metadata = egress.routing_metadata(wanted.routing_metadata, "pool.routing_metadata")
        settings = replace(settings, routing_metadata=metadata)
    if "addresses" in paths:
        if len(wanted.addresses) > egress.MAX_MEMBERS:
            raise invalid("pool.addresses", f"pool.addresses must be at most {egress.MAX_MEMBERS}")
        addresses = _addresses(wanted.addresses, "pool.addresses")
    settings = replace(settings, weights=await _weights(connection, tenant, addresses, settings))
    return await _with_overflow(connection, pool, tenant, settings, wanted, paths)


async def _weights(connection: Connection, tenant: Tenant, addresses: list[str], settings: Settings) -> dict[str, int]:
    """The weights of a pool by source."""
    found = await store.allotted(connection, tenant, addresses) if addresses else {}
    for index, address in enumerate(addresses):
        if address not in found or found[address].released:
            field = f"pool.addresses[{index}]"
            raise invalid(field, f"{field}: {address} is not allotted to this account")
    shares = dict.fromkeys(addresses, 1)
    if settings.routing_strategy == "volume_share":
        shares = egress.volume_shares(settings.routing_metadata, addresses, "pool.routing_metadata")
    return {found[address].source_id: share for address, share in shares.items()}


async def _with_overflow(
    connection: Connection,
    pool: TenantPool | None,
    tenant: Tenant,
    settings: Settings,
    wanted: pool_pb2.TenantPool,
    paths: Collection[str],
) -> Settings:
    if "overflow_pool" in paths:
        fields.text(wanted.overflow_pool, "pool.overflow_pool", egress.MAX_POOL_NAME)
        other = await store.named(connection, tenant.tenant_id, wanted.overflow_pool) if wanted.overflow_pool else None
        if wanted.overflow_pool and (other is None or (pool is not None and other == pool.pool_id)):
            shown = wanted.overflow_pool[: egress.MAX_POOL_NAME]
            raise invalid("pool.overflow_pool", f'pool.overflow_pool: there is no other pool "{shown}"')
        settings = replace(settings, overflow_pool_id=other)
    if "overflow" in paths:
        settings = replace(settings, overflow=wanted.overflow)
    if settings.overflow and settings.overflow_pool_id is None:
        raise invalid("pool.overflow_pool", "pool.overflow_pool must name another pool if pool.overflow is set")
    return settings


def _strategy(wanted: pool_pb2.TenantPool) -> str:
    if wanted.routing_strategy == pool_pb2.TenantPool.ROUTING_STRATEGY_UNSPECIFIED:
        return "round_robin"
    strategy = _STRATEGIES.get(wanted.routing_strategy)
    if strategy is None:
        field = "pool.routing_strategy"
        raise invalid(field, f"{field} must be one of {', '.join(sorted(_STRATEGY_PROTOS)).upper()}")
    return strategy


def _addresses(given: Collection[str], field: str) -> list[str]:
    """The addresses in their one spelling, each once."""
    checked = [egress.address(address, f"{field}[{index}]") for index, address in enumerate(given)]
    return list(dict.fromkeys(checked))


def _warmed_up(source: Source, auto: bool) -> Source:
    """A source that is, or is not, warmed up by the platform's plan. A plan of the operator's is left alone."""
    if auto and source.warm_up_start is None:
        today = datetime.now(UTC).date()
        return replace(source, auto_warm_up=True, warm_up_start=today, warm_up_limits=egress.AUTO_WARM_UP)
    if not auto and source.auto_warm_up and source.warm_up_limits == egress.AUTO_WARM_UP:
        return replace(source, auto_warm_up=False, warm_up_start=None, warm_up_limits=())
    return replace(source, auto_warm_up=auto)


def _page(request: Any, tenant_id: str) -> tuple[Page[int], str, int]:
    search, skip = selection.search(request.search), selection.skip(request.skip)
    return page_of(request, 0, tenant_id, search), search, skip


def _name(name: str, collection: str, field: str) -> names.ChildName:
    return names.child(name, collection, caller().tenant_id, field)


def _number(name: names.ChildName, what: str) -> int:
    """The number in a name; one that cannot be is none of ours."""
    number = int(name.id) if name.id.isascii() and name.id.isdecimal() and len(name.id) <= 10 else 0
    if not 0 < number < selection.MAX_NUMBER:
        raise not_found(what, name.id[:100])
    return number


def _source_proto(tenant_id: str, source: Source) -> pool_pb2.TenantSource:
    return pool_pb2.TenantSource(
        name=f"tenants/{tenant_id}/sources/{source.number}",
        number=source.number,
        address=source.address,
        ehlo_name=source.ehlo_name,
        dedicated=source.allotted_to == tenant_id,
        auto_warm_up=source.auto_warm_up,
        warm_up_day=source.warm_up_day(datetime.now(UTC).date()),
        active=source.state == "active",
        create_time=to_proto(source.created_at),
        update_time=to_proto(source.updated_at),
        etag=str(source.version),
    )


def _pool_proto(pool: TenantPool) -> pool_pb2.TenantPool:
    settings = pool.settings
    return pool_pb2.TenantPool(
        name=f"tenants/{pool.owner}/pools/{pool.number}",
        number=pool.number,
        display_name=settings.display_name,
        addresses=[source.address for source in pool.sources],
        sources=[_source_proto(pool.owner, source) for source in pool.sources],
        routing_strategy=_STRATEGY_PROTOS[settings.routing_strategy],
        routing_metadata=settings.routing_metadata,
        overflow=settings.overflow,
        overflow_pool=pool.overflow_name,
        create_time=to_proto(pool.created_at),
        update_time=to_proto(pool.updated_at),
        etag=pool.etag,
    )
