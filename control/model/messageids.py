"""One id, any spelling: the id of a recipient from its number, Message-ID, ``msg_`` name, UUID or base-36 form.

Each recipient of each message has one 63-bit id: 42 bits milliseconds since 2024-01-01T00:00:00Z, 12 bits shard, 9 bits
sequence. All spellings are pure, reversible functions of that number (the worker that makes the ids writes them; a test
holds both to the same answers):

    bare number      the id in decimal (MailPass ``queue_id``, SendPulse integer alias)
    ``msg_<n>``      MSpace
    UUID             version 7: Unix milliseconds, shard, sequence, 53 check bits (SendPost)
    base 36          ``tttttt-rrrrrr-cc``: Unix seconds, remainder, check (SendPulse)
    Message-ID       ``<rrrrrr.seconds@host>``: remainder, Unix seconds (RFC 5322 §3.6.4; MailPass ``message_id``)

"Remainder" is (millisecond in the second, shard, sequence) as one number. Pure.
"""

import re
from datetime import UTC, date, datetime, timedelta

EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z in Unix milliseconds."""
MAX_ID = (1 << 63) - 1
MAX_RECIPIENTS_SPAN = 1000 << 21
"""The ids of the recipients of one message are made in one go: further apart than this are those of two messages."""

_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_DAY_MS = 86_400_000
_LOW_BITS = 21
_SEQUENCE_BITS = 9
_SHARD_MASK = (1 << 12) - 1
_MAX_MS = (1 << 42) - 1
_SIX = 36**6
_SPANS, _CHECKS = 3, 431
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

_DECIMAL = re.compile(r"(?:msg_)?(0|[1-9][0-9]{0,18})")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_BASE36 = re.compile(r"([0-9a-z]{6})-([0-9a-z]{6})-([0-9a-z]{2})")
_MESSAGE_ID = re.compile(r"<?([0-9a-z]{6})\.([1-9][0-9]{9})@[^@<>\s]+>?")


def parse(text: str) -> int | None:
    """The id in any of its spellings; None: the text is none of them."""
    for read in (_decimal, _uuid, _base36, _message_id):
        found = read(text)
        if found is not None:
            return found
    return None


def time_of(id_: int) -> datetime:
    """When the id was made."""
    return _EPOCH + timedelta(milliseconds=id_ >> _LOW_BITS)


def unix_ms(id_: int) -> int:
    """When the id was made, in Unix milliseconds."""
    return (id_ >> _LOW_BITS) + EPOCH_MS


def day_of(id_: int) -> date:
    """The day (UTC) when the id was made."""
    return date.fromordinal(_EPOCH_DAY + (id_ >> _LOW_BITS) // _DAY_MS)


def first_at(time: datetime) -> int:
    """The lowest id that a time can have; 0 before 2024, the highest of all after 2163."""
    ms = (time - _EPOCH) // timedelta(milliseconds=1)
    return min(max(ms, 0) << _LOW_BITS, MAX_ID)


def first_of_day(day: date) -> int:
    """The lowest id of a day (UTC)."""
    return min(max(day.toordinal() - _EPOCH_DAY, 0) * _DAY_MS << _LOW_BITS, MAX_ID)


def uuid(id_: int) -> str:
    """The UUID of an id."""
    ms, shard, sequence = (id_ >> _LOW_BITS) + EPOCH_MS, id_ >> _SEQUENCE_BITS & _SHARD_MASK, id_ & 511
    value = ms << 80 | 7 << 76 | shard << 64 | 2 << 62 | sequence << 53 | _mix(id_)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def message_id(id_: int, host: str) -> str:
    """The Message-ID of an id."""
    seconds, remainder = _split(id_)
    return f"<{_digits(remainder, 6)}.{seconds}@{host}>"


def base36(id_: int) -> str:
    """The base-36 form of an id."""
    seconds, remainder = _split(id_)
    span, low = divmod(seconds, _SIX)
    return f"{_digits(low, 6)}-{_digits(remainder, 6)}-{_digits(id_ % _CHECKS * _SPANS + span, 2)}"


def _split(id_: int) -> tuple[int, int]:
    """Unix seconds and remainder."""
    seconds, ms = divmod(unix_ms(id_), 1000)
    return seconds, ms << _LOW_BITS | id_ & (1 << _LOW_BITS) - 1


def _digits(value: int, size: int) -> str:
    return "".join(_DIGITS[value // 36**place % 36] for place in range(size - 1, -1, -1))


def _decimal(text: str) -> int | None:
    match = _DECIMAL.fullmatch(text)
    return int(match[1]) if match is not None and int(match[1]) <= MAX_ID else None


def _uuid(text: str) -> int | None:
    if not _UUID.fullmatch(text):
        return None
    value = int(text.replace("-", ""), 16)
    ms = (value >> 80) - EPOCH_MS
    if not 0 <= ms <= _MAX_MS:
        return None
    id_ = ms << _LOW_BITS | (value >> 64 & _SHARD_MASK) << _SEQUENCE_BITS | value >> 53 & 511
    return id_ if uuid(id_) == text.lower() else None


def _base36(text: str) -> int | None:
    match = _BASE36.fullmatch(text)
    if match is None:
        return None
    low, remainder, last = (int(group, 36) for group in match.groups())
    check, span = divmod(last, _SPANS)
    id_ = _join(span * _SIX + low, remainder)
    return id_ if id_ is not None and id_ % _CHECKS == check else None


def _message_id(text: str) -> int | None:
    match = _MESSAGE_ID.fullmatch(text)
    if match is None or text.startswith("<") != text.endswith(">"):
        return None
    return _join(int(match[2]), int(match[1], 36))


def _join(seconds: int, remainder: int) -> int | None:
    ms = seconds * 1000 + (remainder >> _LOW_BITS) - EPOCH_MS
    if remainder >= 1000 << _LOW_BITS or not 0 <= ms <= _MAX_MS:
        return None
    return ms << _LOW_BITS | remainder & (1 << _LOW_BITS) - 1


def _mix(id_: int) -> int:
    """53 bits by the finaliser of SplitMix64, so that a UUID from elsewhere is not taken for one of ours."""
    x = (id_ ^ id_ >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (x ^ x >> 31) & ((1 << 53) - 1)
