"""What recipients did, as control is told of it."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import engagement_service_pb2 as proto


@dataclass(frozen=True, slots=True)
class Engagement:
    """Something that a recipient did. It has a request id, so telling of it again says nothing new."""

    token: str
    ip_address: str
    user_agent: str
    time_ns: int = field(default_factory=time.time_ns)
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def request(engagements: Sequence[Engagement]) -> proto.RecordEngagementsRequest:
    """The request that tells of them."""
    return proto.RecordEngagementsRequest(
        engagements=[
            proto.Engagement(
                token=one.token,
                request_id=one.request_id,
                time=Timestamp(seconds=one.time_ns // 10**9, nanos=one.time_ns % 10**9),
                ip_address=one.ip_address,
                user_agent=one.user_agent,
            )
            for one in engagements
        ]
    )


def refused(answer: proto.RecordEngagementsResponse) -> int:
    """How many control does not believe."""
    return sum(result != proto.RecordEngagementsResponse.RESULT_RECORDED for result in answer.results)
