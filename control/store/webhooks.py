"""Webhooks as they are kept: who wants to be told of what, where, and how the endpoint is doing.

What is due for them is in ``store.webhook_deliveries``. Secrets and header values are sealed; this module never sees
them open.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from control.database import Connection, Row
from control.model.selection import Selection
from control.model.webhooks import MAX_WEBHOOKS, Format, Kind
from control.store import selecting
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

COLUMNS = (
    "webhook.tenant_id, webhook_id, webhook.number, webhook.display_name, url, kinds, streams, sender_domains,"
    " include_subtree, enabled, disabled_reason, disabled_at, format, sealed_headers, batch_size, sealed_secret,"
    " sealed_previous_secret, previous_secret_until, failures, failing_since, webhook.created_at, webhook.updated_at,"
    " webhook.version, endpoint"
)
_TABLE = selecting.Table("webhook", COLUMNS, "webhook_id", ("url", "display_name"))


@dataclass(frozen=True, slots=True)
class Settings:
    """What somebody chose."""

    display_name: str
    url: str
    kinds: tuple[Kind, ...]
    streams: tuple[str, ...]
    sender_domains: tuple[str, ...]
    include_subtree: bool
    enabled: bool
    format: Format
    sealed_headers: bytes = field(repr=False)
    batch_size: int


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook. ``number`` is a short name of it, ``failures`` counts attempts in a row."""

    tenant_id: str
    webhook_id: str
    number: int
    settings: Settings
    sealed_secret: bytes = field(repr=False)
    sealed_previous_secret: bytes | None = field(repr=False)
    previous_secret_until: datetime | None
    disabled_reason: str
    disabled_at: datetime | None
    failures: int
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int
    endpoint: str | None = None
    """Host and port, if it was made for messages that name their own endpoints there; None: somebody made it."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant_id}/webhooks/{self.webhook_id}"


@dataclass(frozen=True, slots=True)
class Listener:
    """A webhook that may want what happens to ``subject``, its own tenant or one below it."""

    subject: str
    webhook: Webhook


async def create(
    connection: Connection, tenant_id: str, webhook_id: str, settings: Settings, sealed_secret: bytes
) -> Webhook:
    """Make a webhook. FAILED_PRECONDITION for one too many."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    if await count(connection, tenant_id) >= MAX_WEBHOOKS:
        message = f'tenant "{tenant_id}" has {MAX_WEBHOOKS} webhooks; delete one of them first'
        metadata = {"tenant": tenant_id, "maximum": str(MAX_WEBHOOKS)}
        raise Refusal(Reason.FAILED_PRECONDITION, message, metadata=metadata)
    row = await connection.fetchrow(
        "INSERT INTO webhook (tenant_id, webhook_id, sealed_secret, display_name, url, kinds, streams, sender_domains,"
        " include_subtree, enabled, format, sealed_headers, batch_size)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING {COLUMNS}",
        tenant_id,
        webhook_id,
        sealed_secret,
        *_values(settings),
    )
    assert row is not None, "INSERT RETURNING gives its row"
    return of_row(row)


async def count(connection: Connection, tenant_id: str) -> int:
    """How many webhooks somebody made for a tenant."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM webhook WHERE tenant_id = $1 AND endpoint IS NULL", tenant_id
    )
    return found


async def check_url(connection: Connection, tenant_id: str, url: str, but: str = "") -> None:
    """ALREADY_EXISTS if a webhook of a tenant, other than ``but``, has the URL; until the end none can get it so."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    taken = await connection.fetchval(
        "SELECT true FROM webhook WHERE tenant_id = $1 AND url = $2 AND webhook_id <> $3 AND endpoint IS NULL LIMIT 1",
        tenant_id,
        url,
        but,
    )
    if taken:
        text = "there is a webhook with this URL already; change that one"
        raise Refusal(Reason.ALREADY_EXISTS, text, field="webhook.url", metadata={"url": url[:200]})


async def get(connection: Connection, tenant_id: str, webhook_id: str, *, lock: bool = False) -> Webhook:
    """A tenant's webhook, locked against other changes if wanted. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM webhook WHERE tenant_id = $1 AND webhook_id = $2 AND endpoint IS NULL"
        + (" FOR NO KEY UPDATE" if lock else ""),
        tenant_id,
        webhook_id,
    )
    if row is None:
        raise not_found("webhook", webhook_id)
    return of_row(row)


async def ready(connection: Connection, webhook_id: str) -> Webhook | None:
    """A webhook, if it is enabled and may be asked now."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM webhook WHERE webhook_id = $1 AND enabled AND paused_until <= now()", webhook_id
    )
    return of_row(row) if row is not None else None


async def page(connection: Connection, tenant_id: str, url: str, wanted: Selection) -> tuple[list[Webhook], int]:
    """A tenant's own webhooks, those of a URL unless it is empty, and how many match."""
    where = "tenant_id = $1 AND endpoint IS NULL AND ($2 = '' OR url = $2)"
    rows, total = await selecting.select(connection, _TABLE, wanted, where, tenant_id, url)
    return [of_row(row) for row in rows], total


async def update(connection: Connection, webhook: Webhook, settings: Settings, *, revive: bool) -> Webhook:
    """Change what somebody chose; ``revive`` forgets failures, pauses and why it was switched off."""
    row = await connection.fetchrow(
        "UPDATE webhook SET display_name = $2, url = $3, kinds = $4, streams = $5, sender_domains = $6,"
        " include_subtree = $7, enabled = $8, format = $9, sealed_headers = $10, batch_size = $11,"
        " version = version + 1, updated_at = now(),"
        " disabled_reason = CASE WHEN $12 THEN '' ELSE disabled_reason END,"
        " disabled_at = CASE WHEN $12 THEN NULL ELSE disabled_at END,"
        " failures = CASE WHEN $12 THEN 0 ELSE failures END,"
        " failing_since = CASE WHEN $12 THEN NULL ELSE failing_since END,"
        " paused_until = CASE WHEN $12 THEN '-infinity' ELSE paused_until END"
        f" WHERE webhook_id = $1 RETURNING {COLUMNS}",
        webhook.webhook_id,
        *_values(settings),
        revive,
    )
    assert row is not None, "the row is locked"
    return of_row(row)


async def rotate(connection: Connection, webhook: Webhook, sealed_secret: bytes, grace_seconds: float) -> Webhook:
    """Give a new secret; the one before is good for so long."""
    row = await connection.fetchrow(
        "UPDATE webhook SET sealed_previous_secret = CASE WHEN $3 > 0 THEN sealed_secret END,"
        " previous_secret_until = CASE WHEN $3 > 0 THEN now() + make_interval(secs => $3) END, sealed_secret = $2,"
        f" version = version + 1, updated_at = now() WHERE webhook_id = $1 RETURNING {COLUMNS}",
        webhook.webhook_id,
        sealed_secret,
        grace_seconds,
    )
    assert row is not None, "the row is locked"
    return of_row(row)


async def delete(connection: Connection, webhook: Webhook) -> None:
    """Remove a webhook with its deliveries."""
    await connection.execute("DELETE FROM webhook WHERE webhook_id = $1", webhook.webhook_id)


async def listeners(connection: Connection, subjects: Sequence[str]) -> list[Listener]:
    """The enabled webhooks that may want what happens to these tenants."""
    rows = await connection.fetch(
        f"SELECT subject.tenant_id AS subject, {COLUMNS} FROM tenant AS subject"
        " CROSS JOIN unnest(subject.path) AS above (tenant_id) JOIN webhook ON webhook.tenant_id = above.tenant_id"
        " AND (webhook.include_subtree OR above.tenant_id = subject.tenant_id)"
        " WHERE subject.tenant_id = ANY ($1) AND webhook.enabled AND endpoint IS NULL",
        subjects,
    )
    return [Listener(row["subject"], of_row(row)) for row in rows]


async def failed(connection: Connection, webhook_id: str, pauses: Sequence[float]) -> Webhook | None:
    """Count a failure of the endpoint; None: the webhook is gone. ``pauses`` holds the pause after each count."""
    row = await connection.fetchrow(
        "UPDATE webhook SET failures = failures + 1, failing_since = coalesce(failing_since, now()),"
        " paused_until = now() + make_interval(secs => ($2::float8[])[least(failures + 1, cardinality($2::float8[]))])"
        f" WHERE webhook_id = $1 RETURNING {COLUMNS}",
        webhook_id,
        pauses,
    )
    return of_row(row) if row is not None else None


async def recovered(connection: Connection, webhook_id: str) -> None:
    """The endpoint took something: forget its failures."""
    await connection.execute(
        "UPDATE webhook SET failures = 0, failing_since = NULL, paused_until = '-infinity'"
        " WHERE webhook_id = $1 AND failures > 0",
        webhook_id,
    )


async def disable(connection: Connection, webhook_id: str, reason: str) -> bool:
    """Switch a webhook off for a reason; whether it was on."""
    return bool(
        await connection.fetchval(
            "UPDATE webhook SET enabled = false, disabled_reason = $2, disabled_at = now(), version = version + 1,"
            " updated_at = now() WHERE webhook_id = $1 AND enabled RETURNING true",
            webhook_id,
            reason,
        )
    )


def _values(settings: Settings) -> tuple[object, ...]:
    return (
        settings.display_name,
        settings.url,
        settings.kinds,
        settings.streams,
        settings.sender_domains,
        settings.include_subtree,
        settings.enabled,
        settings.format,
        settings.sealed_headers,
        settings.batch_size,
    )


def of_row(row: Row) -> Webhook:
    """A webhook from its ``COLUMNS``."""
    settings = Settings(
        display_name=row["display_name"],
        url=row["url"],
        kinds=tuple(Kind(kind) for kind in row["kinds"]),
        streams=tuple(row["streams"]),
        sender_domains=tuple(row["sender_domains"]),
        include_subtree=row["include_subtree"],
        enabled=row["enabled"],
        format=Format(row["format"]),
        sealed_headers=row["sealed_headers"],
        batch_size=row["batch_size"],
    )
    return Webhook(
        tenant_id=row["tenant_id"],
        webhook_id=row["webhook_id"],
        number=row["number"],
        settings=settings,
        sealed_secret=row["sealed_secret"],
        sealed_previous_secret=row["sealed_previous_secret"],
        previous_secret_until=row["previous_secret_until"],
        disabled_reason=row["disabled_reason"],
        disabled_at=row["disabled_at"],
        failures=row["failures"],
        failing_since=row["failing_since"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
        endpoint=row["endpoint"],
    )
