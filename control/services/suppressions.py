"""SuppressionService: addresses that get no mail."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import suppression_pb2, suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression as SuppressionProto
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, names, paging, selection
from control.model import suppressions as model
from control.model.suppressions import MAX_BATCH, MAX_NOTE, Filter, Place, Reason, kept_id, parse_id
from control.services import suppressionshapes as shapes
from control.services.listing import Page, page_of
from control.services.mutation import Mutations
from control.services.suppressionchecks import checked
from control.services.suppressionimport import SuppressionImport
from control.services.suppressionpolicies import SuppressionPolicies
from control.services.updates import check_etag, paths_of
from control.store import suppressions, tenants
from control.store.suppressions import Suppression
from mta.runtime.options import SuppressionOptions

_Context = grpc.aio.ServicerContext[Any, Any]

UPDATABLE = ("reason", "note", "evidence", "source_message_id", "expire_time")
EXPORT_PAGE = 1000
OLDEST_FIRST, NEWEST_FIRST = "create_time", "create_time desc"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SuppressionServicer(SuppressionServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, options: SuppressionOptions) -> None:
        self._database = database
        self._mutations = mutations
        self._policies = SuppressionPolicies(database, mutations, options)

    async def CreateSuppression(
        self, request: suppression_service_pb2.CreateSuppressionRequest, context: _Context
    ) -> SuppressionProto:
        """See the proto."""
        me = caller()
        tenant_id = names.tenant(request.parent, me.tenant_id, "parent")
        draft = shapes.draft(request.suppression, request.address, "suppression", datetime.now(UTC))

        async def effect(connection: Connection) -> SuppressionProto:
            await tenants.visible(connection, me.tenant_id, tenant_id)
            await suppressions.put(connection, tenant_id, [draft], me.name)
            made = await suppressions.get(connection, tenant_id, Place(draft.address, draft.stream))
            return shapes.to_suppression(made)

        return await self._mutations.run(request, SuppressionProto, effect)

    async def GetSuppression(
        self, request: suppression_service_pb2.GetSuppressionRequest, context: _Context
    ) -> SuppressionProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "suppressions", me)
        place = parse_id(name.id)

        async def read(connection: Connection) -> Suppression:
            await tenants.visible(connection, me, name.tenant_id)
            return await suppressions.get(connection, name.tenant_id, place)

        return shapes.to_suppression(await self._database.transact(read))

    async def ListSuppressions(
        self, request: suppression_service_pb2.ListSuppressionsRequest, context: _Context
    ) -> suppression_service_pb2.ListSuppressionsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        wanted = shapes.wanted(request.filter)
        skip = selection.skip(request.skip)
        if request.order_by not in {"", "address", OLDEST_FIRST, NEWEST_FIRST}:
            raise fields.invalid("order_by", f'order_by must be "address", "{OLDEST_FIRST}" or "{NEWEST_FIRST}"')
        page = page_of(request, "", tenant_id, request.order_by, *wanted.conditions())
        by_time = request.order_by in {OLDEST_FIRST, NEWEST_FIRST}

        async def read(connection: Connection) -> tuple[list[Suppression], int]:
            await tenants.visible(connection, me, tenant_id)
            total = 0
            if request.count_total:
                total = sum((await suppressions.count(connection, tenant_id, wanted)).values())
            if by_time:
                newest = request.order_by == NEWEST_FIRST
                return await _read_by_time(connection, tenant_id, wanted, page, skip, newest=newest), total
            return await _read_by_address(connection, tenant_id, wanted, page, skip), total

        entries, total = await self._database.transact(read)
        found, token = page.cut(entries, _time_place if by_time else _id_of)
        return suppression_service_pb2.ListSuppressionsResponse(
            suppressions=map(shapes.to_suppression, found), next_page_token=token, total_size=min(total, 2**31 - 1)
        )

    async def CountSuppressions(
        self, request: suppression_service_pb2.CountSuppressionsRequest, context: _Context
    ) -> suppression_service_pb2.CountSuppressionsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        wanted = shapes.wanted(request.filter)

        async def read(connection: Connection) -> dict[Reason, int]:
            await tenants.visible(connection, me, tenant_id)
            return await suppressions.count(connection, tenant_id, wanted)

        counts = await self._database.transact(read)
        return suppression_service_pb2.CountSuppressionsResponse(
            count=sum(counts.values()),
            reason_counts=[
                suppression_service_pb2.SuppressionCount(reason=shapes.REASON_PROTOS[reason], count=count)
                for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            ],
        )

    async def UpdateSuppression(
        self, request: suppression_service_pb2.UpdateSuppressionRequest, context: _Context
    ) -> SuppressionProto:
        """See the proto."""
        me = caller().tenant_id
        given = request.suppression
        name = names.child(given.name, "suppressions", me, "suppression.name")
        place = parse_id(name.id, "suppression.name")
        paths = paths_of(request.update_mask, given, "suppression", UPDATABLE)
        changes = _changes(given, paths)

        async def effect(connection: Connection) -> SuppressionProto:
            await tenants.visible(connection, me, name.tenant_id)
            held = await suppressions.get(connection, name.tenant_id, place, lock=True)
            check_etag(given.etag, held.etag, "suppression.etag")
            return shapes.to_suppression(await suppressions.update(connection, replace(held, **changes)))

        return await self._mutations.run(request, SuppressionProto, effect)

    async def DeleteSuppression(
        self, request: suppression_service_pb2.DeleteSuppressionRequest, context: _Context
    ) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "suppressions", me)
        place = parse_id(name.id)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            held = await suppressions.get(connection, name.tenant_id, place, lock=True)
            check_etag(request.etag, held.etag)
            await suppressions.delete(connection, name.tenant_id, [place])
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def BatchCreateSuppressions(
        self, request: suppression_service_pb2.BatchCreateSuppressionsRequest, context: _Context
    ) -> suppression_service_pb2.BatchCreateSuppressionsResponse:
        """See the proto."""
        me = caller()
        tenant_id = names.tenant(request.parent, me.tenant_id, "parent")
        if not 1 <= len(request.suppressions) <= MAX_BATCH:
            text = f"suppressions must be 1 to {MAX_BATCH}; there are {len(request.suppressions)}"
            raise fields.invalid("suppressions", text)
        now = datetime.now(UTC)
        drafts = {
            Place(draft.address, draft.stream): draft
            for index, proto in enumerate(request.suppressions)
            for draft in [shapes.draft(proto, proto.address, f"suppressions[{index}]", now, dated=True)]
        }

        async def effect(connection: Connection) -> suppression_service_pb2.BatchCreateSuppressionsResponse:
            await tenants.visible(connection, me.tenant_id, tenant_id)
            await suppressions.put(connection, tenant_id, list(drafts.values()), me.name)
            found = {entry.place: entry for entry in await suppressions.held(connection, tenant_id, list(drafts))}
            made = [shapes.to_suppression(found[place]) for place in drafts if place in found]
            return suppression_service_pb2.BatchCreateSuppressionsResponse(suppressions=made)

        return await self._mutations.run(request, suppression_service_pb2.BatchCreateSuppressionsResponse, effect)

    async def BatchDeleteSuppressions(
        self, request: suppression_service_pb2.BatchDeleteSuppressionsRequest, context: _Context
    ) -> suppression_service_pb2.BatchDeleteSuppressionsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        wanted = shapes.addresses_of(request.addresses)
        stream = model.stream(request.stream, "stream") if request.HasField("stream") else None
        reasons = [shapes.reason(value, "reasons") for value in request.reasons]

        async def effect(connection: Connection) -> suppression_service_pb2.BatchDeleteSuppressionsResponse:
            await tenants.visible(connection, me, tenant_id)
            found = await suppressions.of_addresses(connection, tenant_id, list(wanted), stream, reasons)
            there = {entry.address for entry in found}
            missing = [given for address, given in wanted.items() if address not in there]
            if missing and not request.allow_missing:
                raise tenants.not_found("suppression", missing[0])
            await suppressions.delete(connection, tenant_id, [entry.place for entry in found])
            order = {address: index for index, address in enumerate(wanted)}
            found.sort(key=lambda entry: (order[entry.address], entry.stream))
            return suppression_service_pb2.BatchDeleteSuppressionsResponse(
                suppressions=map(shapes.to_suppression, found), missing_addresses=missing
            )

        return await self._mutations.run(request, suppression_service_pb2.BatchDeleteSuppressionsResponse, effect)

    async def ImportSuppressions(
        self,
        request_iterator: AsyncIterator[suppression_service_pb2.ImportSuppressionsRequest],
        context: _Context,
    ) -> suppression_service_pb2.ImportSuppressionsResponse:
        """See the proto."""
        return await SuppressionImport(self._database, caller()).run(request_iterator)

    async def ExportSuppressions(
        self, request: suppression_service_pb2.ExportSuppressionsRequest, context: _Context
    ) -> AsyncIterator[suppression_service_pb2.ExportSuppressionsResponse]:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        wanted = shapes.wanted(request.filter)
        token = request.page_token
        while True:
            page = Page(EXPORT_PAGE, *_place_after(request, token, tenant_id, wanted))

            async def read(connection: Connection, page: Page[str] = page) -> list[Suppression]:
                await tenants.visible(connection, me, tenant_id)
                return await _read_by_address(connection, tenant_id, wanted, page)

            found, token = page.cut(await self._database.transact(read), _id_of)
            yield suppression_service_pb2.ExportSuppressionsResponse(
                suppressions=map(shapes.to_suppression, found), next_page_token=token
            )
            if not token:
                return

    async def CheckSuppressions(
        self, request: suppression_service_pb2.CheckSuppressionsRequest, context: _Context
    ) -> suppression_service_pb2.CheckSuppressionsResponse:
        """See the proto."""
        results = await checked(self._database, caller().tenant_id, request)
        return suppression_service_pb2.CheckSuppressionsResponse(results=results)

    async def GetSuppressionPolicy(
        self, request: suppression_service_pb2.GetSuppressionPolicyRequest, context: _Context
    ) -> suppression_service_pb2.GetSuppressionPolicyResponse:
        """See the proto."""
        return await self._policies.get(request)

    async def UpdateSuppressionPolicy(
        self, request: suppression_service_pb2.UpdateSuppressionPolicyRequest, context: _Context
    ) -> suppression_pb2.SuppressionPolicy:
        """See the proto."""
        return await self._policies.update(request)


def _changes(given: SuppressionProto, paths: frozenset[str]) -> dict[str, Any]:
    """The new values of the fields to change, checked."""
    changes: dict[str, Any] = {}
    if "reason" in paths:
        changes["reason"] = shapes.reason(given.reason, "suppression.reason")
    if "note" in paths:
        changes["note"] = fields.text(given.note, "suppression.note", MAX_NOTE)
    if "evidence" in paths:
        changes["evidence"] = shapes.evidence(given.evidence, "suppression.evidence")
    if "source_message_id" in paths:
        changes["source_message_id"] = shapes.message_id(given.source_message_id, "suppression.source_message_id")
    if "expire_time" in paths:
        changes["expires_at"] = shapes.expiry(given, "suppression.expire_time", datetime.now(UTC))
    return changes


def _id_of(entry: Suppression) -> str:
    return entry.place.id


def _time_place(entry: Suppression) -> str:
    return f"{(entry.created_at - _EPOCH) // timedelta(microseconds=1)}:{entry.number}"


async def _read_by_address(
    connection: Connection, tenant_id: str, wanted: Filter, page: Page[str], skip: int = 0
) -> list[Suppression]:
    return await suppressions.page(connection, tenant_id, wanted, kept_id(page.after), page.limit, skip)


async def _read_by_time(
    connection: Connection, tenant_id: str, wanted: Filter, page: Page[str], skip: int, *, newest: bool
) -> list[Suppression]:
    after = None
    if page.after:
        micros, _, number = page.after.partition(":")
        try:
            after = (_EPOCH + timedelta(microseconds=int(micros)), int(number))
        except (ValueError, OverflowError):
            after = None
        if after is None or abs(after[1]) >= 2**63:
            raise fields.invalid("page_token", "page_token must be the next_page_token of the same list")
    return await suppressions.by_time(connection, tenant_id, wanted, after, page.limit, skip, newest=newest)


def _place_after(
    request: suppression_service_pb2.ExportSuppressionsRequest, token: str, tenant_id: str, wanted: Filter
) -> tuple[str, tuple[str, ...]]:
    """Where a piece of an export starts, and what its token is bound to."""
    query = (request.DESCRIPTOR.full_name, tenant_id, *wanted.conditions())
    return paging.decode(token, query, ""), query
