"""Endpoints that messages name for themselves: webhooks that nobody made.

All endpoints at one host and port share a webhook of the message's tenant, and with it lanes and breaker; what is
posted where is kept with each delivery. Such a webhook is not listed, does not count, is never switched off, and goes
when nothing is kept for it. A tenant has up to ``MAX_ENDPOINTS``; what is beyond shares one more.
"""

# ruff: noqa: S608 - the only text put into statements is a list of columns

from control.database import Connection
from control.model import apikeys
from control.model.webhooks import SENDPOST_FORMATS, Format, Kind
from control.store import credentials, webhooks
from control.store.credentials import ApiKey
from control.store.webhooks import Webhook

MAX_ENDPOINTS = 100
"""Hosts of a tenant that are kept apart."""
_ID_CHARACTERS = 12


Signer = Webhook | ApiKey
"""What has the secret that signs."""


async def find(connection: Connection, tenant_id: str, endpoint: str, format_: Format) -> Webhook | None:
    """The webhook for endpoints at a host and port."""
    row = await connection.fetchrow(
        f"SELECT {webhooks.COLUMNS} FROM webhook WHERE tenant_id = $1 AND endpoint = $2 AND format = $3",
        tenant_id,
        endpoint,
        format_,
    )
    return webhooks.of_row(row) if row is not None else None


async def crowded(connection: Connection, tenant_id: str) -> bool:
    """Whether a tenant has as many as are kept apart."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM webhook WHERE tenant_id = $1 AND endpoint IS NOT NULL", tenant_id
    )
    return count >= MAX_ENDPOINTS


def new_id() -> str:
    """An id for a webhook."""
    return apikeys.random_name(_ID_CHARACTERS)


async def create(
    connection: Connection, tenant_id: str, webhook_id: str, endpoint: str, format_: Format, sealed: tuple[bytes, bytes]
) -> None:
    """Make the webhook for a host and port, unless it is there. ``sealed``: secret and header fields, both empty."""
    await connection.execute(
        "INSERT INTO webhook (tenant_id, webhook_id, sealed_secret, sealed_headers, display_name, url, kinds, streams,"
        " sender_domains, include_subtree, enabled, format, batch_size, endpoint)"
        " SELECT $1, $2, $3, $4, '', '', $5, '{}', '{}', false, true, $6, 1, $7"
        " WHERE EXISTS (SELECT FROM tenant WHERE tenant_id = $1 AND deleted_at IS NULL) ON CONFLICT DO NOTHING",
        tenant_id,
        webhook_id,
        *sealed,
        [kind for kind in Kind if kind not in (Kind.ALERT, Kind.TEST)],
        format_,
        endpoint,
    )


async def signer(connection: Connection, tenant_id: str) -> Signer | None:
    """What signs what goes to endpoints of a tenant's messages.

    The newest webhook in a form of SendPost, of the nearest tenant that has one, from this one upwards. If there is
    none, the newest API key that can be read again, of the nearest reseller from this tenant upwards, or its own.
    """
    row = await connection.fetchrow(
        f"SELECT {webhooks.COLUMNS} FROM webhook JOIN tenant AS above ON above.tenant_id = webhook.tenant_id"
        " WHERE webhook.tenant_id = ANY (SELECT unnest(path) FROM tenant WHERE tenant_id = $1)"
        " AND endpoint IS NULL AND format = ANY ($2)"
        " ORDER BY cardinality(above.path) DESC, webhook.number DESC LIMIT 1",
        tenant_id,
        list(SENDPOST_FORMATS),
    )
    if row is not None:
        return webhooks.of_row(row)
    return await credentials.newest_recoverable(connection, tenant_id)


async def forget(connection: Connection, limit: int) -> int:
    """Remove those that nothing is kept for; how many."""
    tag = await connection.execute(
        "DELETE FROM webhook WHERE webhook_id IN (SELECT webhook_id FROM webhook WHERE endpoint IS NOT NULL"
        " AND created_at < now() - interval '1 day'"
        " AND NOT EXISTS (SELECT FROM webhook_delivery AS d WHERE d.webhook_id = webhook.webhook_id) LIMIT $1)",
        limit,
    )
    return int(tag.rpartition(" ")[2])
