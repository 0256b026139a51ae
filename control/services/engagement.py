"""EngagementService: what recipients do with messages."""

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import engagement_service_pb2 as proto
from barua.control.v1.engagement_service_pb2_grpc import EngagementServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, messageids, names
from control.model.caller import acting_for_platform
from control.model.events import EventKind
from control.services.mutation import Mutations
from control.services.timestamps import from_proto
from control.store import engagement, history, tenants
from control.store.engagement import Engagement
from mta.runtime import links
from mta.runtime.keyring import KeyFile
from mta.runtime.links import Purpose

_Context = grpc.aio.ServicerContext[Any, Any]

MAX_ENGAGEMENTS = 1000
"""In one call."""
MAX_USER_AGENT = 500
MAX_SOURCE = 200
MAX_AGE = timedelta(days=2)
"""What is said to be older happened now: nobody holds it back for so long."""

_KINDS = {
    Purpose.OPEN: EventKind.OPENED,
    Purpose.CLICK: EventKind.CLICKED,
    Purpose.UNSUBSCRIBE: EventKind.UNSUBSCRIBED,
}
_Result = proto.RecordEngagementsResponse.Result


class EngagementServicer(EngagementServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, keys: KeyFile) -> None:
        self._database = database
        self._mutations = mutations
        self._keys = keys

    async def RecordEngagements(
        self, request: proto.RecordEngagementsRequest, context: _Context
    ) -> proto.RecordEngagementsResponse:
        """See the proto. No caller is known here: each token proves what it tells."""
        if not 1 <= len(request.engagements) <= MAX_ENGAGEMENTS:
            count = len(request.engagements)
            raise fields.invalid("engagements", f"engagements must be 1 to {MAX_ENGAGEMENTS}; there are {count}")
        told = [self._engagement(one, f"engagements[{index}]") for index, one in enumerate(request.engagements)]
        proved = [one for one in told if one is not None]
        if proved:
            with acting_for_platform():
                await self._database.transact(lambda connection: engagement.take(connection, proved), repeatable=True)
        return proto.RecordEngagementsResponse(
            results=[_Result.RESULT_INVALID_TOKEN if one is None else _Result.RESULT_RECORDED for one in told]
        )

    async def RecordComplaint(
        self, request: proto.RecordComplaintRequest, context: _Context
    ) -> proto.RecordComplaintResponse:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "messages", me)
        recipient_id = messageids.parse(name.id)
        source = fields.text(request.source, "source", MAX_SOURCE)
        time = _time(request, "time")

        async def find(connection: Connection) -> int:
            await tenants.visible(connection, me, name.tenant_id)
            if recipient_id is None:
                raise tenants.not_found("message", name.id[:200])
            return (await history.get(connection, name.tenant_id, recipient_id))[0].recipient_id

        found = await self._database.transact(find)

        async def effect(connection: Connection) -> proto.RecordComplaintResponse:
            await engagement.complain(connection, found, time, source)
            return proto.RecordComplaintResponse()

        with acting_for_platform():  # events are control's to write
            return await self._mutations.run(request, proto.RecordComplaintResponse, effect)

    def _engagement(self, one: proto.Engagement, field: str) -> Engagement | None:
        """What is told, in checked form; None: the token is none of ours."""
        request_id = fields.identifier(one.request_id, f"{field}.request_id")
        time = _time(one, f"{field}.time")
        try:
            link = links.verify(self._keys.ring(), one.token)
        except links.InvalidToken:
            return None
        if link.purpose not in _KINDS:
            return None
        agent = "".join(character if character.isprintable() else " " for character in one.user_agent[:MAX_USER_AGENT])
        return Engagement(
            _KINDS[link.purpose],
            time,
            link.reference,
            _address(one.ip_address),
            agent.strip(),
            link.url,
            "",
            request_id,
        )


def _time(request: proto.Engagement | proto.RecordComplaintRequest, field: str) -> datetime:
    now = datetime.now(UTC)
    if not request.HasField("time"):
        return now
    told: Timestamp = request.time
    try:
        time = from_proto(told)
    except OverflowError:
        raise fields.invalid(field, f"{field} is beyond what a time can be") from None
    return time if now - MAX_AGE <= time <= now else now


def _address(text: str) -> str:
    """An IP address in its one spelling; nothing for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
