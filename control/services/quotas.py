"""QuotaService: parts of the hourly and daily limits of SMTP providers and sources, for workers."""

from datetime import UTC, datetime
from typing import Any

import grpc

from barua.control.v1 import quota_service_pb2
from barua.control.v1.quota_service_pb2_grpc import QuotaServiceServicer

from control.database import Connection, Database
from control.model import egress, fields, names, quotas
from control.model.caller import ROOT_TENANT
from control.model.quotas import Limits, Taken, Use, UsedUp
from control.store import egress as egress_store
from control.store import providers
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]


class QuotaServicer(QuotaServiceServicer):
    """See the proto."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def TakeQuota(
        self, request: quota_service_pb2.TakeQuotaRequest, context: _Context
    ) -> quota_service_pb2.TakeQuotaResponse:
        """See the proto."""
        count = fields.amount(request.count, "count")
        now = datetime.now(UTC)
        if request.WhichOneof("subject") == "source":
            source_id = egress.resource(request.source, "sources", "source")
            taken = await self._database.transact(lambda c: _take_of_source(c, source_id, count, now))
        else:
            name = names.child(request.smtp_provider, "smtpProviders", ROOT_TENANT, "smtp_provider")
            taken = await self._database.transact(lambda c: _take_of_provider(c, name, count, now))
        return quota_service_pb2.TakeQuotaResponse(
            granted_count=taken.count, valid_milliseconds=int(taken.seconds * 1000)
        )


async def _take_of_provider(connection: Connection, name: names.ChildName, count: int, now: datetime) -> Taken:
    provider = await providers.get(connection, name.tenant_id, name.id)
    limits = Limits(provider.hourly_limit, provider.daily_limit)
    if provider.created_at is None:  # without a row there are no limits, and nothing to count
        return _granted(quotas.take(limits, Use(0, 0), count, now), "SMTP provider", name.id)
    hour, day = quotas.hour_of(now), quotas.day_of(now)
    use = await providers.lock_use(connection, provider, hour, day)
    taken = _granted(quotas.take(limits, use, count, now), "SMTP provider", name.id)
    await providers.write_use(connection, provider, hour, day, Use(use.hour + taken.count, use.day + taken.count))
    return taken


async def _take_of_source(connection: Connection, source_id: str, count: int, now: datetime) -> Taken:
    source = await egress_store.get_source(connection, source_id, lock=True)
    today = quotas.day_of(now)
    use = Use(0, source.used(today))
    taken = _granted(quotas.take(Limits(0, source.limit(today)), use, count, now), "source", source_id)
    await egress_store.use_source(connection, source_id, today, taken.count)
    return taken


def _granted(answer: Taken | UsedUp, what: str, id_: str) -> Taken:
    if isinstance(answer, Taken):
        return answer
    limit = "hourly" if answer.window == "hour" else "daily"
    raise Refusal(
        Reason.RATE_LIMITED,
        f'the {limit} limit of the {what} "{id_}" is used up: {answer.left} of {answer.limit} recipients are left',
        retry_after=answer.seconds,
        metadata={
            "provider" if what == "SMTP provider" else "source": id_,
            "window": answer.window,
            "limit": str(answer.limit),
            "left": str(answer.left),
        },
    )
