"""EgressService: sources, pools and rules on which mail uses what."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import egress_pb2, egress_service_pb2
from barua.control.v1.egress_service_pb2_grpc import EgressServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import addresses, egress, fields, names
from control.model.caller import ROOT_TENANT, acting_for_platform
from control.services import egressrules
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import from_proto, to_proto
from control.services.updates import check_etag, paths_of
from control.store import egress as store
from control.store import tenant_pools, tenants
from control.store.egress import Pool, Source
from control.store.tenants import Tenant
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

MAX_NOTE = 500
"""Characters of a note."""

_STATES = {
    egress_pb2.Source.STATE_ACTIVE: "active",
    egress_pb2.Source.STATE_DRAINING: "draining",
    egress_pb2.Source.STATE_DISABLED: "disabled",
}
_STATE_PROTOS = {text: proto for proto, text in _STATES.items()}
_SOURCE_FIELDS = frozenset({"address", "ehlo_name", "warm_up", "daily_limit", "note", "tenant"})
_POOL_FIELDS = frozenset({"display_name", "members"})


class EgressServicer(EgressServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations

    # -- sources -------------------------------------------------------------------------------------------------------

    async def CreateSource(
        self, request: egress_service_pb2.CreateSourceRequest, context: _Context
    ) -> egress_pb2.Source:
        """See the proto."""
        source_id = egress.identifier(request.source_id, "source_id")
        source = _changed_source(Source(source_id, "", ""), request.source, _SOURCE_FIELDS)

        async def effect(connection: Connection) -> egress_pb2.Source:
            return _source_proto(await store.create_source(connection, source))

        return await self._mutations.run(request, egress_pb2.Source, effect)

    async def GetSource(self, request: egress_service_pb2.GetSourceRequest, context: _Context) -> egress_pb2.Source:
        """See the proto."""
        source_id = egress.resource(request.name, "sources", "name")
        return _source_proto(await self._database.transact(lambda c: store.get_source(c, source_id)))

    async def ListSources(
        self, request: egress_service_pb2.ListSourcesRequest, context: _Context
    ) -> egress_service_pb2.ListSourcesResponse:
        """See the proto."""
        page = page_of(request, "")
        everything = await self._database.transact(lambda c: store.page_sources(c, page.after, page.limit))
        found, token = page.cut(everything, lambda source: source.source_id)
        return egress_service_pb2.ListSourcesResponse(sources=map(_source_proto, found), next_page_token=token)

    async def UpdateSource(
        self, request: egress_service_pb2.UpdateSourceRequest, context: _Context
    ) -> egress_pb2.Source:
        """See the proto."""
        source_id = egress.resource(request.source.name, "sources", "source.name")
        paths = paths_of(request.update_mask, request.source, "source", _SOURCE_FIELDS)

        async def effect(connection: Connection) -> egress_pb2.Source:
            current = await store.get_source(connection, source_id, lock=True)
            check_etag(request.source.etag, str(current.version), "source.etag")
            changed = _changed_source(current, request.source, paths)
            if changed.allotted_to != current.allotted_to:
                await tenant_pools.check_unused(connection, current, changed.allotted_to)
            return _source_proto(await store.update_source(connection, changed))

        return await self._mutations.run(request, egress_pb2.Source, effect)

    async def DeleteSource(self, request: egress_service_pb2.DeleteSourceRequest, context: _Context) -> Empty:
        """See the proto."""
        source_id = egress.resource(request.name, "sources", "name")

        async def effect(connection: Connection) -> Empty:
            current = await store.get_source(connection, source_id, lock=True)
            check_etag(request.etag, str(current.version))
            await store.delete_source(connection, source_id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def SetSourceState(
        self, request: egress_service_pb2.SetSourceStateRequest, context: _Context
    ) -> egress_pb2.Source:
        """See the proto."""
        source_id = egress.resource(request.name, "sources", "name")
        state = _STATES.get(request.state)
        if state is None:
            raise fields.invalid("state", f"state must be one of {', '.join(sorted(_STATE_PROTOS)).upper()}")

        async def effect(connection: Connection) -> egress_pb2.Source:
            current = await store.get_source(connection, source_id, lock=True)
            if current.state != state:
                current = await store.update_source(connection, replace(current, state=state))
            return _source_proto(current)

        return await self._mutations.run(request, egress_pb2.Source, effect)

    # -- pools ---------------------------------------------------------------------------------------------------------

    async def CreatePool(self, request: egress_service_pb2.CreatePoolRequest, context: _Context) -> egress_pb2.Pool:
        """See the proto."""
        pool_id = egress.identifier(request.pool_id, "pool_id")
        pool = _changed_pool(Pool(pool_id, "", ()), request.pool, _POOL_FIELDS)

        async def effect(connection: Connection) -> egress_pb2.Pool:
            return _pool_proto(await store.create_pool(connection, pool))

        return await self._mutations.run(request, egress_pb2.Pool, effect)

    async def GetPool(self, request: egress_service_pb2.GetPoolRequest, context: _Context) -> egress_pb2.Pool:
        """See the proto."""
        pool_id = egress.resource(request.name, "pools", "name")
        return _pool_proto(await self._database.transact(lambda c: store.get_pool(c, pool_id)))

    async def ListPools(
        self, request: egress_service_pb2.ListPoolsRequest, context: _Context
    ) -> egress_service_pb2.ListPoolsResponse:
        """See the proto."""
        page = page_of(request, "")
        everything = await self._database.transact(lambda c: store.page_pools(c, page.after, page.limit))
        found, token = page.cut(everything, lambda pool: pool.pool_id)
        return egress_service_pb2.ListPoolsResponse(pools=map(_pool_proto, found), next_page_token=token)

    async def UpdatePool(self, request: egress_service_pb2.UpdatePoolRequest, context: _Context) -> egress_pb2.Pool:
        """See the proto."""
        pool_id = egress.resource(request.pool.name, "pools", "pool.name")
        paths = paths_of(request.update_mask, request.pool, "pool", _POOL_FIELDS)

        async def effect(connection: Connection) -> egress_pb2.Pool:
            current = await store.get_pool(connection, pool_id, lock=True)
            if current.owner is not None:
                text = f'the pool "{pool_id}" is one of tenant "{current.owner}": change it with PoolService'
                raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"tenant": current.owner})
            check_etag(request.pool.etag, str(current.version), "pool.etag")
            return _pool_proto(await store.update_pool(connection, _changed_pool(current, request.pool, paths)))

        return await self._mutations.run(request, egress_pb2.Pool, effect)

    async def DeletePool(self, request: egress_service_pb2.DeletePoolRequest, context: _Context) -> Empty:
        """See the proto."""
        pool_id = egress.resource(request.name, "pools", "name")

        async def effect(connection: Connection) -> Empty:
            current = await store.get_pool(connection, pool_id, lock=True)
            check_etag(request.etag, str(current.version))
            await store.delete_pool(connection, pool_id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    # -- rules ---------------------------------------------------------------------------------------------------------

    async def CreateEgressRule(
        self, request: egress_service_pb2.CreateEgressRuleRequest, context: _Context
    ) -> egress_pb2.EgressRule:
        """See the proto."""
        rule_id = egress.identifier(request.egress_rule_id, "egress_rule_id")
        rule = egressrules.changed(store.Rule(rule_id), request.egress_rule, egressrules.FIELDS)

        async def effect(connection: Connection) -> egress_pb2.EgressRule:
            return egressrules.to_rule_proto(await store.create_rule(connection, rule))

        return await self._mutations.run(request, egress_pb2.EgressRule, effect)

    async def GetEgressRule(
        self, request: egress_service_pb2.GetEgressRuleRequest, context: _Context
    ) -> egress_pb2.EgressRule:
        """See the proto."""
        rule_id = egress.resource(request.name, "egressRules", "name")
        return egressrules.to_rule_proto(await self._database.transact(lambda c: store.get_rule(c, rule_id)))

    async def ListEgressRules(
        self, request: egress_service_pb2.ListEgressRulesRequest, context: _Context
    ) -> egress_service_pb2.ListEgressRulesResponse:
        """See the proto."""
        page = page_of(request, "")
        everything = await self._database.transact(lambda c: store.page_rules(c, page.after, page.limit))
        found, token = page.cut(everything, store.rule_place)
        return egress_service_pb2.ListEgressRulesResponse(
            egress_rules=map(egressrules.to_rule_proto, found), next_page_token=token
        )

    async def UpdateEgressRule(
        self, request: egress_service_pb2.UpdateEgressRuleRequest, context: _Context
    ) -> egress_pb2.EgressRule:
        """See the proto."""
        wanted = request.egress_rule
        rule_id = egress.resource(wanted.name, "egressRules", "egress_rule.name")
        paths = paths_of(request.update_mask, wanted, "egress_rule", egressrules.FIELDS)

        async def effect(connection: Connection) -> egress_pb2.EgressRule:
            current = await store.get_rule(connection, rule_id, lock=True)
            check_etag(wanted.etag, str(current.version), "egress_rule.etag")
            changed = egressrules.changed(current, wanted, paths)
            return egressrules.to_rule_proto(await store.update_rule(connection, changed))

        return await self._mutations.run(request, egress_pb2.EgressRule, effect)

    async def DeleteEgressRule(self, request: egress_service_pb2.DeleteEgressRuleRequest, context: _Context) -> Empty:
        """See the proto."""
        rule_id = egress.resource(request.name, "egressRules", "name")

        async def effect(connection: Connection) -> Empty:
            current = await store.get_rule(connection, rule_id, lock=True)
            check_etag(request.etag, str(current.version))
            await store.delete_rule(connection, rule_id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    # -- assignments ---------------------------------------------------------------------------------------------------

    async def AssignPool(
        self, request: egress_service_pb2.AssignPoolRequest, context: _Context
    ) -> egress_pb2.PoolAssignment:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant, me, "tenant")
        pool_id = egress.resource(request.pool, "pools", "pool") if request.pool else ""

        async def effect(connection: Connection) -> egress_pb2.PoolAssignment:
            tenant = await tenants.visible(connection, me, tenant_id)
            await store.assign(connection, tenant_id, pool_id)
            return await _assignment(connection, tenant)

        return await self._mutations.run(request, egress_pb2.PoolAssignment, effect)

    async def GetPoolAssignment(
        self, request: egress_service_pb2.GetPoolAssignmentRequest, context: _Context
    ) -> egress_pb2.PoolAssignment:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant, me, "tenant")

        async def read(connection: Connection) -> egress_pb2.PoolAssignment:
            return await _assignment(connection, await tenants.visible(connection, me, tenant_id))

        return await self._database.transact(read)

    async def ListOutgoingAddresses(
        self, request: egress_service_pb2.ListOutgoingAddressesRequest, context: _Context
    ) -> egress_service_pb2.ListOutgoingAddressesResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", tenant_id)

        async def read(connection: Connection) -> list[str]:
            tenant = await tenants.visible(connection, me, tenant_id)
            pool_id = _effective(await store.assigned(connection, tenant.path))
            return await store.addresses_of_pool(connection, pool_id, page.after, page.limit) if pool_id else []

        with acting_for_platform():  # the pool may have been assigned further up
            everything = await self._database.transact(read)
        found, token = page.cut(everything, lambda address: address)
        return egress_service_pb2.ListOutgoingAddressesResponse(addresses=found, next_page_token=token)


async def _assignment(connection: Connection, tenant: Tenant) -> egress_pb2.PoolAssignment:
    assigned = await store.assigned(connection, tenant.path)
    effective = _effective(assigned)
    return egress_pb2.PoolAssignment(
        tenant=f"tenants/{tenant.tenant_id}",
        pool=f"pools/{assigned[-1]}" if assigned[-1] else "",
        effective_pool=f"pools/{effective}" if effective else "",
    )


def _effective(assigned: list[str]) -> str:
    return next((pool_id for pool_id in reversed(assigned) if pool_id), "")


def _changed_source(current: Source, wanted: egress_pb2.Source, paths: Collection[str]) -> Source:
    changed = current
    if "address" in paths:
        changed = replace(changed, address=egress.address(wanted.address, "source.address"))
    if "ehlo_name" in paths:
        changed = replace(changed, ehlo_name=addresses.domain_name(wanted.ehlo_name, "source.ehlo_name"))
    if "warm_up" in paths:
        start, limits = _checked_warm_up(wanted)
        changed = replace(changed, warm_up_start=start, warm_up_limits=limits)
    if "daily_limit" in paths:
        changed = replace(changed, daily_limit=egress.limit(wanted.daily_limit, "source.daily_limit"))
    if "note" in paths:
        changed = replace(changed, note=fields.text(wanted.note, "source.note", MAX_NOTE))
    if "tenant" in paths:
        allotted_to = names.tenant(wanted.tenant, ROOT_TENANT, "source.tenant") if wanted.tenant else None
        if allotted_to != changed.allotted_to:
            changed = replace(changed, allotted_to=allotted_to, released=False)
    return changed


def _checked_warm_up(wanted: egress_pb2.Source) -> tuple[date | None, tuple[int, ...]]:
    if not wanted.HasField("warm_up"):
        return None, ()
    limits = egress.warm_up(list(wanted.warm_up.daily_limits), "source.warm_up.daily_limits")
    if not wanted.warm_up.HasField("start_time"):
        return datetime.now(UTC).date(), tuple(limits)
    try:
        return from_proto(wanted.warm_up.start_time).date(), tuple(limits)
    except OverflowError:
        field = "source.warm_up.start_time"
        raise fields.invalid(field, f"{field} is beyond what a date can be") from None


def _changed_pool(current: Pool, wanted: egress_pb2.Pool, paths: Collection[str]) -> Pool:
    changed = current
    if "display_name" in paths:
        changed = replace(changed, display_name=fields.text(wanted.display_name, "pool.display_name"))
    if "members" in paths:
        if len(wanted.members) > egress.MAX_MEMBERS:
            raise fields.invalid("pool.members", f"pool.members must be at most {egress.MAX_MEMBERS}")
        members: dict[str, int] = {}
        for index, member in enumerate(wanted.members):
            field = f"pool.members[{index}]"
            source_id = egress.resource(member.source, "sources", f"{field}.source")
            if source_id in members:
                raise fields.invalid(f"{field}.source", f'{field}.source: "{source_id}" is named twice')
            members[source_id] = egress.weight(member.weight, f"{field}.weight")
        changed = replace(changed, members=tuple(sorted(members.items())))
    return changed


def _source_proto(source: Source) -> egress_pb2.Source:
    today = datetime.now(UTC).date()
    start = source.warm_up_start
    warm_up = None
    if start is not None:
        first = datetime(start.year, start.month, start.day, tzinfo=UTC)
        warm_up = egress_pb2.WarmUp(start_time=to_proto(first), daily_limits=source.warm_up_limits)
    return egress_pb2.Source(
        name=f"sources/{source.source_id}",
        address=source.address,
        ehlo_name=source.ehlo_name,
        state=_STATE_PROTOS[source.state],
        warm_up=warm_up,
        daily_limit=source.daily_limit,
        note=source.note,
        warm_up_day=source.warm_up_day(today),
        limit_today=source.limit(today),
        used_today=source.used(today),
        create_time=to_proto(source.created_at),
        update_time=to_proto(source.updated_at),
        etag=str(source.version),
        tenant=f"tenants/{source.allotted_to}" if source.allotted_to else "",
        number=source.number,
        released=source.released,
    )


def _pool_proto(pool: Pool) -> egress_pb2.Pool:
    return egress_pb2.Pool(
        name=f"pools/{pool.pool_id}",
        display_name=pool.display_name,
        members=[
            egress_pb2.PoolMember(source=f"sources/{source_id}", weight=weight) for source_id, weight in pool.members
        ],
        create_time=to_proto(pool.created_at),
        update_time=to_proto(pool.updated_at),
        etag=str(pool.version),
        tenant=f"tenants/{pool.owner}" if pool.owner else "",
        number=pool.number,
    )
