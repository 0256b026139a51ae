"""CreditService: balances, grants, transfers, statements."""

from typing import Any

import grpc

from barua.control.v1 import credit_service_pb2
from barua.control.v1.credit_service_pb2_grpc import CreditServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, names
from control.model.credits import Balance, Movement
from control.recalls import Recalls
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.store import ledger, tenants
from control.store.ledger import Entry
from control.store.tenants import Tenant

_Context = grpc.aio.ServicerContext[Any, Any]

TRANSFER_WAIT_SECONDS = 3.0
"""Wait for leased credits to come back: people wait for the answer, and nodes need one round trip."""

_KINDS = {
    Movement.GRANT: credit_service_pb2.LedgerEntry.KIND_GRANT,
    Movement.TRANSFER: credit_service_pb2.LedgerEntry.KIND_TRANSFER,
    Movement.LEASE: credit_service_pb2.LedgerEntry.KIND_LEASE,
    Movement.USAGE: credit_service_pb2.LedgerEntry.KIND_USAGE,
    Movement.RELEASE: credit_service_pb2.LedgerEntry.KIND_RELEASE,
}
_NEWEST = 2**63 - 1


class CreditServicer(CreditServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, recalls: Recalls) -> None:
        self._database = database
        self._mutations = mutations
        self._recalls = recalls

    async def GetBalance(
        self, request: credit_service_pb2.GetBalanceRequest, context: _Context
    ) -> credit_service_pb2.Balance:
        """See the proto."""
        me = caller().tenant_id
        named = names.tenant_or_login(request.tenant, me, "tenant")

        async def read(connection: Connection) -> Balance:
            tenant = await tenants.resolve(connection, me, named)
            return await ledger.balance(connection, tenant.tenant_id)

        return _balance(await self._database.transact(read))

    async def GrantCredits(
        self, request: credit_service_pb2.GrantCreditsRequest, context: _Context
    ) -> credit_service_pb2.Balance:
        """See the proto."""
        me = caller().tenant_id
        named = names.tenant_or_login(request.tenant, me, "tenant")
        amount = fields.amount(request.amount)
        note = fields.text(request.note, "note")

        async def effect(connection: Connection) -> credit_service_pb2.Balance:
            tenant = await tenants.resolve(connection, me, named)
            return _balance(await ledger.grant(connection, tenant.tenant_id, amount, note))

        return await self._mutations.run(request, credit_service_pb2.Balance, effect)

    async def TransferCredits(
        self, request: credit_service_pb2.TransferCreditsRequest, context: _Context
    ) -> credit_service_pb2.TransferCreditsResponse:
        """See the proto. A dry run, too, has leased credits called back: only so it can tell whether they suffice."""
        me = caller().tenant_id
        source_named = names.tenant_or_login(request.source, me, "source")
        destination_named = names.tenant_or_login(request.destination, me, "destination")
        amount = fields.amount(request.amount)
        note = fields.text(request.note, "note")

        async def effect(connection: Connection) -> credit_service_pb2.TransferCreditsResponse:
            source = await tenants.resolve(connection, me, source_named)
            destination = await tenants.resolve(connection, me, destination_named)
            _check_related(source, destination)
            gave, got = await ledger.transfer(connection, source.tenant_id, destination.tenant_id, amount, note)
            return credit_service_pb2.TransferCreditsResponse(source=_balance(gave), destination=_balance(got))

        return await self._recalls.settled(
            lambda: self._mutations.run(request, credit_service_pb2.TransferCreditsResponse, effect),
            TRANSFER_WAIT_SECONDS,
            hold=True,
        )

    async def ListLedgerEntries(
        self, request: credit_service_pb2.ListLedgerEntriesRequest, context: _Context
    ) -> credit_service_pb2.ListLedgerEntriesResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant, me, "tenant")
        page = page_of(request, _NEWEST, tenant_id)

        async def read(connection: Connection) -> list[Entry]:
            await tenants.visible(connection, me, tenant_id)
            return await ledger.entries(connection, tenant_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda entry: entry.posting_id)
        return credit_service_pb2.ListLedgerEntriesResponse(entries=map(_entry, found), next_page_token=token)


def _check_related(source: Tenant, destination: Tenant) -> None:
    if source.tenant_id == destination.tenant_id:
        raise fields.invalid("destination", "source and destination are the same tenant")
    if source.tenant_id not in destination.path and destination.tenant_id not in source.path:
        raise fields.invalid("destination", "credits move between a tenant and one below it; neither is that here")


def _balance(balance: Balance) -> credit_service_pb2.Balance:
    return credit_service_pb2.Balance(
        tenant=f"tenants/{balance.tenant_id}",
        balance=balance.spendable,
        available=balance.available,
        reserved=balance.reserved,
        consumed=balance.consumed,
    )


def _entry(entry: Entry) -> credit_service_pb2.LedgerEntry:
    return credit_service_pb2.LedgerEntry(
        transaction=entry.transaction_id,
        account=entry.account,
        amount=entry.amount,
        kind=_KINDS[entry.kind],
        note=entry.note,
        create_time=to_proto(entry.created_at),
    )
