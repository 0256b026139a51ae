"""Refunds: the credit of a recipient that was not reached comes back, if the tenant's policy says so.

A recipient is refunded once, and exactly what it was charged: ``refund`` has a row for each. Nothing is refunded of a
message that was delivered, of leases that were written off and given back, or to a tenant that was deleted or has come
to share a balance. They go back to who paid: not the tenant itself where that shares a balance. Refunded credits never
expire.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from control.database import Connection, Row
from control.model.credits import Account, Movement
from control.model.events import EventKind
from control.model.messageids import day_of, first_of_day
from control.store import ledger, tenants
from control.store.ledger import Posting


async def policies(connection: Connection, tenant_ids: Collection[str]) -> dict[str, frozenset[str]]:
    """The outcomes that are refunded to each of these tenants: its own policy, or that of the nearest above."""
    found = await tenants.some(connection, sorted(tenant_ids))
    lines = await tenants.lines(connection, found)
    return {
        tenant_id: next((above.settings.refunds for above in line if above.settings.refunds is not None), frozenset())
        for tenant_id, line in lines.items()
    }


async def refund(connection: Connection, outcomes: Mapping[int, tuple[str, str]]) -> None:
    """Refund recipients: their id to their tenant and outcome. Those refunded before are passed over."""
    charged = await _charges(connection, outcomes)
    if not charged:
        return
    await ledger.lock(connection, sorted({charge.payer_id for charge in charged.values()}))
    rows = await connection.fetch(
        "INSERT INTO refund (recipient_id, tenant_id, credits)"
        " SELECT recipient_id, charge.tenant_id, credits"
        " FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[])"
        " AS charge (recipient_id, tenant_id, payer_id, credits) JOIN account ON account.tenant_id = payer_id"
        " WHERE NOT closed AND NOT shared ON CONFLICT DO NOTHING RETURNING recipient_id, tenant_id, credits",
        list(charged),
        [outcomes[recipient_id][0] for recipient_id in charged],
        [charge.payer_id for charge in charged.values()],
        [charge.credits for charge in charged.values()],
    )
    amounts: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        payer_id = charged[row["recipient_id"]].payer_id
        amounts[payer_id, row["tenant_id"], outcomes[row["recipient_id"]][1]] += row["credits"]
    for outcome in sorted({outcome for _, _, outcome in amounts}):
        postings: list[Posting] = []
        for (payer_id, tenant_id, why), credits in sorted(amounts.items()):
            other = tenant_id if tenant_id != payer_id else None
            if why == outcome:
                postings.append(Posting(payer_id, Account.CONSUMED, -credits, counterparty_id=other))
                postings.append(Posting(payer_id, Account.AVAILABLE, credits, counterparty_id=other))
        await ledger.post(connection, Movement.REFUND, postings, outcome)


class _Charge(NamedTuple):
    payer_id: str
    credits: int


async def _charges(connection: Connection, outcomes: Mapping[int, tuple[str, str]]) -> dict[int, _Charge]:
    """What each recipient was charged, of those that were charged and not reached; day by day, as events are kept."""
    days: dict[date, list[int]] = {}
    for recipient_id in outcomes:
        days.setdefault(day_of(recipient_id), []).append(recipient_id)
    found: dict[int, _Charge] = {}
    for day, recipient_ids in sorted(days.items()):
        for row in await _charges_of_day(connection, day, recipient_ids):
            if row["tenant_id"] == outcomes[row["recipient_id"]][0]:
                found[row["recipient_id"]] = _Charge(row["payer_id"], row["credits"])
    return found


async def _charges_of_day(connection: Connection, day: date, recipient_ids: Sequence[int]) -> Sequence[Row]:
    return await connection.fetch(
        "SELECT recipient_id, event.tenant_id, payer_id, event.credits"
        " FROM delivery_event AS event JOIN lease USING (lease_id)"
        " WHERE recipient_id = ANY ($1) AND recipient_id >= $2 AND recipient_id < $3 AND kind = $4 AND credits > 0"
        " AND NOT given_back AND NOT EXISTS (SELECT FROM delivery_event AS delivered"
        " WHERE delivered.recipient_id = event.recipient_id AND delivered.recipient_id >= $2"
        " AND delivered.recipient_id < $3 AND delivered.kind = $5)",
        recipient_ids,
        first_of_day(day),
        first_of_day(date.fromordinal(day.toordinal() + 1)),
        EventKind.RECEIVED,
        EventKind.DELIVERED,
    )
