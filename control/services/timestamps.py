"""Points in time: ``datetime`` in UTC to and from ``google.protobuf.Timestamp``."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_proto(time: datetime | None) -> Timestamp | None:
    """The proto of a time; None stays None."""
    if time is None:
        return None
    proto = Timestamp()
    proto.FromDatetime(time)
    return proto


def from_proto(proto: Timestamp) -> datetime:
    """The time, to the microsecond. Raises OverflowError if no datetime can hold it."""
    return _EPOCH + timedelta(seconds=proto.seconds, microseconds=proto.nanos // 1000)
