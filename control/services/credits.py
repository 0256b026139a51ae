"""CreditService: balances, grants, transfers, statements, audits, lost spools."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import credit_service_pb2 as pb
from barua.control.v1.credit_service_pb2_grpc import CreditServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, names
from control.model.caller import ROOT_TENANT, acting_for_platform
from control.model.credits import Balance, Movement, Portion
from control.model.names import LoginAlias
from control.recalls import Recalls
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import from_proto, to_proto
from control.store import holders, leases, ledger, statements, tenants
from control.store.statements import Audited, Discrepancy, Entry, Totals

_Context = grpc.aio.ServicerContext[Any, Any]

TRANSFER_WAIT_SECONDS = 3.0
"""Wait for leased credits to come back: people wait for the answer, and nodes need one round trip."""
MAX_EXPIRIES = 100
"""Times of expiry in one balance."""
MAX_DISCREPANCIES = 1000
LONGEST_EXPIRY = timedelta(days=36_525)
"""Credits that expire do so within a hundred years."""

_KINDS = {
    Movement.GRANT: pb.LedgerEntry.KIND_GRANT,
    Movement.TRANSFER: pb.LedgerEntry.KIND_TRANSFER,
    Movement.LEASE: pb.LedgerEntry.KIND_LEASE,
    Movement.USAGE: pb.LedgerEntry.KIND_USAGE,
    Movement.RELEASE: pb.LedgerEntry.KIND_RELEASE,
    Movement.EXPIRE: pb.LedgerEntry.KIND_EXPIRE,
    Movement.REFUND: pb.LedgerEntry.KIND_REFUND,
    Movement.WRITE_OFF: pb.LedgerEntry.KIND_WRITE_OFF,
}
_MOVEMENTS = {proto: movement for movement, proto in _KINDS.items()}
_GIVE_BACK = {
    pb.WriteOffHolderRequest.DISPOSITION_RETURN: True,
    pb.WriteOffHolderRequest.DISPOSITION_CONSUME: False,
}
_NEWEST = 2**63 - 1


class CreditServicer(CreditServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, recalls: Recalls) -> None:
        self._database = database
        self._mutations = mutations
        self._recalls = recalls

    async def GetBalance(self, request: pb.GetBalanceRequest, context: _Context) -> pb.Balance:
        """See the proto."""
        me = caller().tenant_id
        named = names.tenant_or_login(request.tenant, me, "tenant")

        async def read(connection: Connection) -> tuple[Balance, list[Portion], str]:
            tenant = await tenants.resolve(connection, me, named)
            has = await ledger.balance(connection, tenant.tenant_id)
            # Of the tenants above, this sees those that the caller does.
            line = await tenants.line(connection, tenant.tenant_id) if has.shared else [tenant]
            payer = next((above.tenant_id for above in line if not above.settings.shares_balance), None)
            lots = await ledger.lots_of(connection, tenant.tenant_id) if has.expiring else []
            return has, lots, f"tenants/{payer}" if payer else ""

        has, lots, payer = await self._database.transact(read)
        answer = _balance(has)
        answer.paying_tenant = payer
        answer.expiring.extend(
            pb.ExpiringCredits(expire_time=to_proto(lot.expire_at), amount=lot.amount) for lot in lots[:MAX_EXPIRIES]
        )
        return answer

    async def GrantCredits(self, request: pb.GrantCreditsRequest, context: _Context) -> pb.Balance:
        """See the proto."""
        me = caller().tenant_id
        named = names.tenant_or_login(request.tenant, me, "tenant")
        amount = fields.amount(request.amount)
        note = fields.text(request.note, "note")
        expire_at = _checked_expiry(request.expire_time) if request.HasField("expire_time") else None

        async def effect(connection: Connection) -> pb.Balance:
            tenant = await tenants.resolve(connection, me, named)
            return _balance(
                await ledger.grant(connection, tenant.tenant_id, amount, note, expire_at=expire_at, actor=actor())
            )

        return await self._mutations.run(request, pb.Balance, effect)

    async def TransferCredits(
        self, request: pb.TransferCreditsRequest, context: _Context
    ) -> pb.TransferCreditsResponse:
        """See the proto. A dry run, too, has leased credits called back: only so it can tell whether they suffice."""
        me = caller().tenant_id
        source_named = names.tenant_or_login(request.source, me, "source")
        destination_named = names.tenant_or_login(request.destination, me, "destination")
        amount = fields.amount(request.amount)
        note = fields.text(request.note, "note")

        async def effect(connection: Connection) -> pb.TransferCreditsResponse:
            source = await _id_of(connection, me, source_named)
            destination = await _id_of(connection, me, destination_named)
            pair = await ledger.lock_pair(connection, me, source, destination, amount, note, actor())
            gave, got = pair.giver, pair.getter
            if not pair.moved:
                _check_related(source, pair.giver_path, destination, pair.getter_path)
                gave, got = await ledger.transfer_locked(connection, gave, got, amount, note, actor())
            return pb.TransferCreditsResponse(source=_balance(gave), destination=_balance(got))

        return await self._recalls.settled(
            lambda: self._mutations.run(request, pb.TransferCreditsResponse, effect), TRANSFER_WAIT_SECONDS, hold=True
        )

    async def ListLedgerEntries(
        self, request: pb.ListLedgerEntriesRequest, context: _Context
    ) -> pb.ListLedgerEntriesResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant, me, "tenant")
        since, until = _checked_period(request)
        kinds = _checked_kinds(request.kinds)
        page = page_of(request, _NEWEST, tenant_id, str(since), str(until), ",".join(kinds))

        async def read(connection: Connection) -> tuple[list[Entry], set[str]]:
            await tenants.visible(connection, me, tenant_id)
            found = await statements.entries(
                connection,
                tenant_id,
                before=page.after,
                limit=page.limit,
                since=since,
                until=until,
                kinds=kinds,
            )
            others = {entry.counterparty_id or "" for entry in found} | {_actor_of(entry) for entry in found}
            return found, await _known(connection, me, others)

        found, known = await self._database.transact(read)
        shown, token = page.cut(found, lambda entry: entry.posting_id)
        return pb.ListLedgerEntriesResponse(entries=[_entry(entry, known) for entry in shown], next_page_token=token)

    async def GetStatement(self, request: pb.GetStatementRequest, context: _Context) -> pb.Statement:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant, me, "tenant")
        since, until = _checked_period(request)

        await self._database.transact(lambda connection: tenants.visible(connection, me, tenant_id))
        # The rows of one tenant that the caller sees: asking for each of them whether it does takes ten times as long.
        with acting_for_platform():
            statement, end = await self._database.transact(
                lambda connection: statements.statement(connection, tenant_id, since, until)
            )
        return pb.Statement(
            tenant=f"tenants/{tenant_id}",
            start_time=to_proto(since),
            end_time=to_proto(end),
            opening=statement.opening,
            closing=statement.closing,
            **_figures(statement.moved),
        )

    async def AuditCredits(self, request: pb.AuditCreditsRequest, context: _Context) -> pb.AuditCreditsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant, me, "tenant")
        await self._database.transact(lambda connection: tenants.visible(connection, me, tenant_id))
        audited: list[Audited] = []
        wrong: list[Discrepancy] = []
        # What is audited is below a tenant that the caller sees; deleted tenants are part of the sums.
        with acting_for_platform():
            if tenant_id == ROOT_TENANT:
                wrong += await self._database.transact(statements.audit_world)
            while group := await self._audited(tenant_id, audited[-1].tenant_id if audited else ""):
                audited += group
        wrong += [discrepancy for tenant in audited for discrepancy in tenant.discrepancies]
        totals = Totals()
        for tenant in audited:
            totals = totals.plus(tenant.moved)
        return pb.AuditCreditsResponse(
            tenant_count=len(audited),
            entry_count=sum(tenant.entries for tenant in audited),
            available=sum(tenant.available for tenant in audited),
            reserved=sum(tenant.reserved for tenant in audited),
            discrepancies=[_discrepancy(discrepancy) for discrepancy in wrong[:MAX_DISCREPANCIES]],
            **_figures(totals),
        )

    async def _audited(self, root: str, after: str) -> list[Audited]:
        return await self._database.transact(lambda connection: statements.audit(connection, root, after))

    async def ListHolders(self, request: pb.ListHoldersRequest, context: _Context) -> pb.ListHoldersResponse:
        """See the proto."""
        page = page_of(request, "")
        if page.after:
            fields.identifier(page.after, "page_token")
        found = await self._database.transact(lambda connection: holders.page(connection, page.after, page.limit))
        shown, token = page.cut(found, lambda holder: str(holder.holder))
        return pb.ListHoldersResponse(
            holders=[
                pb.Holder(
                    holder=str(holder.holder),
                    node=holder.node,
                    epoch=holder.epoch,
                    lease_count=holder.leases,
                    reserved=holder.reserved,
                    last_lease_time=to_proto(holder.last_lease_at),
                    write_off_time=to_proto(holder.written_off_at),
                )
                for holder in shown
            ],
            next_page_token=token,
        )

    async def WriteOffHolder(self, request: pb.WriteOffHolderRequest, context: _Context) -> pb.WriteOffHolderResponse:
        """See the proto."""
        holder = fields.identifier(request.holder, "holder")
        give_back = _GIVE_BACK.get(request.disposition)
        if give_back is None:
            raise fields.invalid("disposition", "disposition must be DISPOSITION_RETURN or DISPOSITION_CONSUME")
        note = fields.text(request.note, "note")
        if not note.strip():
            raise fields.invalid("note", "note must say why, in 1 to 200 characters; the tenants' statements show it")

        async def effect(connection: Connection) -> pb.WriteOffHolderResponse:
            closed, amount = await leases.write_off(connection, holder, give_back=give_back, note=note, actor=actor())
            return pb.WriteOffHolderResponse(lease_count=closed, amount=amount)

        return await self._mutations.run(request, pb.WriteOffHolderResponse, effect)


def actor() -> str:
    """The caller, as the ledger keeps who asked for something."""
    who = caller()
    return f"{who.tenant_id} ({who.name})" if who.name else who.tenant_id


def _actor_of(entry: Entry) -> str:
    """The tenant whose credentials asked for an entry."""
    return entry.actor.partition(" ")[0]


async def _known(connection: Connection, me: str, tenant_ids: Collection[str]) -> set[str]:
    """Those of some tenants whose names the caller may be told: its own, those below it, and its parent."""
    own = await tenants.visible(connection, me, me)
    seen = await tenants.some(connection, sorted(tenant_ids))
    return {tenant.tenant_id for tenant in seen if me in tenant.path} | {own.parent_id or ""}


def _checked_expiry(proto: Timestamp) -> datetime:
    now = datetime.now(UTC)
    time = _time(proto, "expire_time")
    if not now < time < now + LONGEST_EXPIRY:
        raise fields.invalid("expire_time", "expire_time must be in the future, and within the next 100 years")
    return time


def _checked_period(request: Any) -> tuple[datetime | None, datetime | None]:
    since, until = (
        _time(getattr(request, name), name) if request.HasField(name) else None for name in ("start_time", "end_time")
    )
    if since is not None and until is not None and until < since:
        raise fields.invalid("end_time", "end_time must not be before start_time")
    return since, until


def _time(proto: Timestamp, field: str) -> datetime:
    try:
        return from_proto(proto)
    except OverflowError:
        raise fields.invalid(field, f"{field} must be a time of the years 1 to 9999") from None


def _checked_kinds(protos: Collection[pb.LedgerEntry.Kind.ValueType]) -> list[Movement]:
    for proto in protos:
        if proto not in _MOVEMENTS:
            raise fields.invalid("kinds", f"kinds has the unknown kind {proto}")
    return sorted({_MOVEMENTS[proto] for proto in protos})


async def _id_of(connection: Connection, me: str, named: str | LoginAlias) -> str:
    return named if isinstance(named, str) else (await tenants.resolve(connection, me, named)).tenant_id


def _check_related(source: str, source_path: Collection[str], destination: str, path: Collection[str]) -> None:
    if source == destination:
        raise fields.invalid("destination", "source and destination are the same tenant")
    if source not in path and destination not in source_path:
        raise fields.invalid("destination", "credits move between a tenant and one below it; neither is that here")


def _balance(balance: Balance) -> pb.Balance:
    return pb.Balance(
        tenant=f"tenants/{balance.tenant_id}",
        balance=balance.spendable,
        available=balance.available,
        reserved=balance.reserved,
        consumed=balance.consumed,
        shared=balance.shared,
    )


def _entry(entry: Entry, known: Collection[str]) -> pb.LedgerEntry:
    counterparty = entry.counterparty_id or ""
    told = _actor_of(entry) in known and entry.actor
    return pb.LedgerEntry(
        transaction=entry.transaction_id,
        account=entry.account,
        amount=entry.amount,
        kind=_KINDS[entry.kind],
        note=entry.note,
        create_time=to_proto(entry.created_at),
        balance=entry.balance,
        counterparty=f"tenants/{counterparty}" if counterparty and counterparty in known else "",
        actor=f"tenants/{entry.actor}" if told else "",
        expire_time=to_proto(entry.expire_at),
    )


def _figures(totals: Totals) -> dict[str, int]:
    return {
        "granted": totals.granted,
        "transferred_in": totals.transferred_in,
        "transferred_out": totals.transferred_out,
        "consumed": totals.consumed,
        "refunded": totals.refunded,
        "expired": totals.expired,
        "written_off": totals.written_off,
    }


def _discrepancy(discrepancy: Discrepancy) -> pb.Discrepancy:
    return pb.Discrepancy(
        tenant=f"tenants/{discrepancy.tenant_id}" if discrepancy.tenant_id else "",
        subject=discrepancy.subject,
        expected=discrepancy.expected,
        found=discrepancy.found,
    )
