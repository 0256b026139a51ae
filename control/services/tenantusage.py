"""What a tenant uses, together with everything below it: figures for an account page."""

from datetime import UTC, date, datetime, timedelta

from barua.control.v1 import tenant_pb2

from control.database import Connection, Database
from control.model import names
from control.model.caller import acting_for_platform
from control.model.fields import invalid
from control.services import terms
from control.store import ledger, tenant_usage, tenants, windows
from control.store.tenant_usage import Figures

_SUFFIX = "/usage"


async def usage(database: Database, me: str, name: str) -> tenant_pb2.TenantUsage:
    """The usage of a tenant by the name of it, which ends in "/usage"."""
    if not name.endswith(_SUFFIX):
        raise invalid("name", 'name must be that of a tenant with "/usage" after it, such as tenants/me/usage')
    tenant_id = names.tenant(name.removesuffix(_SUFFIX), me, "name")

    async def read(connection: Connection) -> tenant_pb2.TenantUsage:
        tenant = await tenants.visible(connection, me, tenant_id)
        line = await tenants.line(connection, tenant_id)
        start, end = _month(await tenant_usage.today(connection))
        figures = await tenant_usage.figures(connection, tenant_id, start, end)
        counted = (await windows.counted(connection, [tenant_id])).get(tenant_id)
        payer = tenants.payer(line)
        available = None
        if me in payer.path:
            available = (await ledger.balance(connection, payer.tenant_id)).available
        answer = _to_proto(figures)
        answer.name = f"tenants/{tenant.tenant_id}{_SUFFIX}"
        answer.month_start_time.FromDatetime(_midnight(start))
        answer.month_end_time.FromDatetime(_midnight(end))
        answer.month_credits = counted.month if counted else 0
        answer.paying_tenant = terms.paying_tenant(me, line)
        if available is not None:
            answer.available_credits = available
        return answer

    with acting_for_platform():
        return await database.transact(read)


def _month(day: date) -> tuple[date, date]:
    """The first day of a day's month, and that of the next month."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _to_proto(figures: Figures) -> tenant_pb2.TenantUsage:
    return tenant_pb2.TenantUsage(
        month_recipients=figures.month_recipients,
        day_recipients=figures.day_recipients,
        tenant_count=figures.tenants,
        domain_count=figures.domains,
        verified_domain_count=figures.verified_domains,
        api_key_count=figures.api_keys,
        webhook_count=figures.webhooks,
        suppression_count=figures.suppressions,
        month_validations=figures.month_validations,
    )
