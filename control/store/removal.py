"""Deleting tenants.

A tenant goes when nothing depends on it: no tenants below it, no credits, none on lease. One that shares a balance has
none: what workers have leased for its mail is called back, and belongs to who pays all the while. What of it works by
itself or blocks others goes with it: logins, API keys, OAuth clients, webhooks, alert rules, SMTP providers with their
passwords, senders, whose codes are not mailed any more, its pools, and its domains, which somebody else may then claim.
Sources that were allotted to it are the operator's again. What is left of it (suppressions, history, the ledger) nobody
reaches any more.
"""

import asyncpg

from control.database import Connection
from control.store import leases, ledger, policy_log, providers, tenants
from control.store.policy_log import Key, Kind
from control.store.tenants import Tenant
from mta.runtime.refusals import Reason, Refusal

_REMOVED = (
    (Kind.LOGIN, "DELETE FROM login WHERE tenant_id = $1 RETURNING username AS key"),
    (Kind.API_KEY, "DELETE FROM api_key WHERE tenant_id = $1 RETURNING key_id AS key"),
    (Kind.OAUTH_CLIENT, "DELETE FROM oauth_client WHERE tenant_id = $1 RETURNING client_id AS key"),
    (Kind.DOMAIN, "DELETE FROM domain WHERE tenant_id = $1 RETURNING domain AS key"),
)
_UNKNOWN_TO_NODES = (
    "DELETE FROM webhook WHERE tenant_id = $1",
    "DELETE FROM alert_rule WHERE tenant_id = $1",
)


async def remove(connection: Connection, tenant: Tenant) -> None:
    """Delete a tenant, which is locked, and log it. FAILED_PRECONDITION if something depends on it."""
    if tenant.parent_id is None:
        raise _needed(tenant, "the operator's tenant cannot be deleted")
    if await tenants.count_below(connection, tenant.tenant_id, at_most=1):
        raise _needed(tenant, f'tenant "{tenant.tenant_id}" has tenants below it; delete them first')
    has = (await ledger.lock(connection, [tenant.tenant_id]))[tenant.tenant_id]
    if has.spendable:
        message = (
            f'tenant "{tenant.tenant_id}" has {has.spendable} credits ({has.reserved} on lease); transfer them first'
        )
        raise _needed(tenant, message, credits=str(has.spendable), reserved=str(has.reserved))
    await connection.execute("UPDATE account SET closed = true WHERE tenant_id = $1", tenant.tenant_id)
    await tenants.mark_deleted(connection, tenant.tenant_id)
    changes = [tenants.change(tenant.tenant_id)]
    for kind, statement in _REMOVED:
        rows = await connection.fetch(statement, tenant.tenant_id)
        changes += [Key(kind, row["key"]) for row in rows]
    rows = await connection.fetch("DELETE FROM sender WHERE tenant_id = $1 RETURNING address", tenant.tenant_id)
    changes += [Key(Kind.SENDER, row["address"], tenant.tenant_id) for row in rows]
    changes += await providers.remove_all(connection, tenant.tenant_id)
    changes += await _remove_pools(connection, tenant)
    for statement in _UNKNOWN_TO_NODES:
        await connection.execute(statement, tenant.tenant_id)
    await policy_log.note(connection, changes)
    if has.shared:
        await leases.recall(connection, tenant.tenant_id)


async def _remove_pools(connection: Connection, tenant: Tenant) -> list[Key]:
    """Its sources are the operator's again, whose tables tenants cannot reach: hence the function of the schema."""
    try:
        rows = await connection.fetch("SELECT remove_egress_of($1) AS key", tenant.tenant_id)
    except asyncpg.ForeignKeyViolationError as error:
        message = f'an egress rule or another tenant uses a pool of tenant "{tenant.tenant_id}"; the operator can tell'
        raise _needed(tenant, message) from error
    return [Key(Kind.POOL, row["key"]) for row in rows]


def _needed(tenant: Tenant, message: str, **metadata: str) -> Refusal:
    return Refusal(Reason.FAILED_PRECONDITION, message, field="name", metadata={"tenant": tenant.tenant_id, **metadata})
