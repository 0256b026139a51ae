"""Suppressions and their filters as protos, and what protos of theirs ask for, checked.

Errors: the INVALID_ARGUMENT Refusal, with the name of the field in the request.
"""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import suppression_pb2, suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression as SuppressionProto

from control.model import addresses, fields, selection
from control.model.suppressions import (
    LAST_TIME,
    MAX_BATCH,
    MAX_EVIDENCE,
    MAX_NOTE,
    Draft,
    Filter,
    Reason,
    Scope,
    stream,
)
from control.services.timestamps import from_proto, to_proto
from control.store.suppressions import Suppression

_REASONS = {
    SuppressionProto.REASON_UNSPECIFIED: Reason.MANUAL,
    SuppressionProto.REASON_MANUAL: Reason.MANUAL,
    SuppressionProto.REASON_UNSUBSCRIBE: Reason.UNSUBSCRIBE,
    SuppressionProto.REASON_HARD_BOUNCE: Reason.HARD_BOUNCE,
    SuppressionProto.REASON_COMPLAINT: Reason.COMPLAINT,
    SuppressionProto.REASON_INVALID: Reason.INVALID,
    SuppressionProto.REASON_SOFT_BOUNCE: Reason.SOFT_BOUNCE,
}
REASON_PROTOS = {reason: proto for proto, reason in _REASONS.items() if proto}
SCOPE_PROTOS = {
    Scope.ACCOUNT: suppression_pb2.SUPPRESSION_SCOPE_ACCOUNT,
    Scope.RESELLER: suppression_pb2.SUPPRESSION_SCOPE_RESELLER,
    Scope.PLATFORM: suppression_pb2.SUPPRESSION_SCOPE_PLATFORM,
}


def to_suppression(entry: Suppression) -> SuppressionProto:
    """As proto."""
    return SuppressionProto(
        name=f"tenants/{entry.tenant_id}/suppressions/{entry.place.id}",
        reason=REASON_PROTOS[entry.reason],
        note=entry.note,
        create_time=to_proto(entry.created_at),
        address=entry.address,
        stream=entry.stream,
        evidence=entry.evidence,
        source_message_id=entry.source_message_id,
        expire_time=to_proto(entry.expires_at),
        update_time=to_proto(entry.updated_at),
        created_by=entry.created_by,
        etag=entry.etag,
        uid=entry.number,
    )


def draft(proto: SuppressionProto, address: str, field: str, now: datetime, *, dated: bool = False) -> Draft:
    """What a request says of a suppression. ``dated``: it may say when it was made, in the past."""
    return Draft(
        address=addresses.canonical_address(address, f"{field}.address" if dated else "address"),
        stream=stream(proto.stream, f"{field}.stream"),
        reason=reason(proto.reason, f"{field}.reason"),
        note=fields.text(proto.note, f"{field}.note", MAX_NOTE),
        evidence=evidence(proto.evidence, f"{field}.evidence"),
        source_message_id=message_id(proto.source_message_id, f"{field}.source_message_id"),
        expires_at=expiry(proto, f"{field}.expire_time", now),
        created_at=_made(proto, f"{field}.create_time", now) if dated else None,
    )


def reason(value: SuppressionProto.Reason.ValueType, field: str) -> Reason:
    """A reason; none is manual."""
    found = _REASONS.get(value)
    if found is None:
        raise fields.invalid(field, f"{field} {value} is not known")
    return found


def evidence(text: str, field: str) -> str:
    """What proves a suppression. Replies of servers may have several lines: they are joined."""
    return fields.text(" ".join(text.split()), field, MAX_EVIDENCE)


def message_id(value: int, field: str) -> int:
    """The id of a recipient's copy; 0 is none."""
    if value < 0:
        raise fields.invalid(field, f"{field} must be the id of a message, or 0; it is {value}")
    return value


def expiry(proto: SuppressionProto, field: str, now: datetime) -> datetime | None:
    """When it ends, which lies ahead; None: never."""
    if not proto.HasField("expire_time"):
        return None
    end = _time(proto.expire_time, field)
    if not now < end < LAST_TIME:
        raise fields.invalid(field, f"{field} must be in the future; leave it unset for a suppression without end")
    return end


def wanted(proto: suppression_service_pb2.SuppressionFilter) -> Filter:
    """A filter."""
    return Filter(
        reasons=tuple(sorted({reason(value, "filter.reasons") for value in proto.reasons})),
        stream=stream(proto.stream, "filter.stream") if proto.HasField("stream") else None,
        address_prefix=fields.text(proto.address_prefix, "filter.address_prefix", addresses.MAX_ADDRESS).lower(),
        domain=addresses.domain_name(proto.domain, "filter.domain", labels=1) if proto.domain else "",
        start=_time(proto.start_time, "filter.start_time") if proto.HasField("start_time") else None,
        end=_time(proto.end_time, "filter.end_time") if proto.HasField("end_time") else None,
        search=selection.search(proto.search, "filter.search").lower(),
        number=selection.number(proto.number, "filter.number"),
    )


def addresses_of(given: Sequence[str]) -> dict[str, str]:
    """Canonical addresses of a batch, each once, in the order given; and what was given for each."""
    if not 1 <= len(given) <= MAX_BATCH:
        raise fields.invalid("addresses", f"addresses must be 1 to {MAX_BATCH}; there are {len(given)}")
    wanted: dict[str, str] = {}
    for index, address in enumerate(given):
        wanted.setdefault(addresses.canonical_address(address, f"addresses[{index}]"), address)
    return wanted


def _made(proto: SuppressionProto, field: str, now: datetime) -> datetime | None:
    if not proto.HasField("create_time"):
        return None
    return min(_time(proto.create_time, field), now)


def _time(proto: Timestamp, field: str) -> datetime:
    try:
        return from_proto(proto)
    except (OverflowError, ValueError):
        raise fields.invalid(field, f"{field} is out of range") from None
