"""One id, five spellings.

Each recipient of each message has one 63-bit id, ordered by time:

    42 bits  milliseconds since 2024-01-01T00:00:00Z
    12 bits  shard: the worker's number on the platform
     9 bits  sequence within the millisecond

Every spelling is a pure, reversible function of that number, so an id can be found from any of them without a table:

    bare number      MailPass `queue_id`, SendPulse integer alias: the id itself, in decimal
    mspace           `msg_<decimal>`
    uuid             a version 7 UUID (RFC 9562 §5.7): Unix milliseconds, shard, sequence, 53 check bits
    sendpulse        `tttttt-rrrrrr-cc`, base 36: Unix seconds, remainder, check
    message id       `<rrrrrr.seconds@host>`: remainder in base 36, Unix seconds in decimal (RFC 5322 §3.6.4)

"Remainder" is (millisecond in the second, shard, sequence) as one number below 1000 * 2**21, which is below 36**6.
Readers take exactly what the writers write (one id has one text in each spelling) and raise ValueError otherwise.

Limits: ids last until 2163. Pure; `IdMaker` belongs to one thread.
"""

import re

EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z in Unix milliseconds."""

MAX_ID = (1 << 63) - 1
SHARD_BITS = 12
SEQUENCE_BITS = 9
MAX_SHARD = (1 << SHARD_BITS) - 1
MAX_SEQUENCE = (1 << SEQUENCE_BITS) - 1

_LOW_BITS = SHARD_BITS + SEQUENCE_BITS
_LOW_MASK = (1 << _LOW_BITS) - 1
_MAX_MS = (1 << 42) - 1
_REMAINDERS = 1000 << _LOW_BITS
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SIX = 36**6
# Six base-36 digits of Unix time run out in 2038; the last group says which span of 36**6 seconds is meant.
_SPANS = 3
# The greatest prime that fits beside the span: unlike 432 it sees a wrong span, which is a multiple of 36**6 seconds.
_CHECKS = 431

_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")
_SENDPULSE = re.compile(r"([0-9a-z]{6})-([0-9a-z]{6})-([0-9a-z]{2})\Z")
_TOKEN = re.compile(r"([0-9a-z]{6})\.([1-9][0-9]{9})\Z")


class IdMaker:
    """Makes ids for one shard, each greater than the one before, whatever the clock does.

    When the clock stands still or goes back, or more than 512 ids are asked for in a millisecond, the time in the ids
    runs ahead of the clock until the clock has caught up.
    """

    __slots__ = ("_low", "_ms", "_sequence")

    def __init__(self, shard: int, last: int = 0) -> None:
        """`shard`: 0 to 4095. `last`: greatest id this shard has ever given out (0: none); the next is greater.

        Raises ValueError when either is out of range.
        """
        if not 0 <= shard <= MAX_SHARD:
            raise ValueError(f"shard {shard} is not between 0 and {MAX_SHARD}")
        _check(last)
        self._low = shard << SEQUENCE_BITS
        self._ms = last >> _LOW_BITS
        # An id of another shard may be the greater one within its millisecond: start with the next.
        same_shard = last & (MAX_SHARD << SEQUENCE_BITS) == self._low
        self._sequence = last & MAX_SEQUENCE if same_shard else MAX_SEQUENCE

    def next(self, now_ms: int) -> int:
        """A new id. `now_ms`: Unix time in milliseconds. Raises OverflowError after the year 2163."""
        ms = now_ms - EPOCH_MS
        if ms > self._ms:
            self._ms = ms
            self._sequence = 0
        elif self._sequence < MAX_SEQUENCE:
            self._sequence += 1
        else:
            self._ms += 1
            self._sequence = 0
        if self._ms > _MAX_MS:
            raise OverflowError("the time is beyond what an id can hold (year 2163)")
        return self._ms << _LOW_BITS | self._low | self._sequence


def _check(id_: int) -> None:
    if not 0 <= id_ <= MAX_ID:
        raise ValueError(f"{id_} is not a message id: it is not between 0 and 2**63-1")


def unix_ms(id_: int) -> int:
    """When the id was made, in Unix milliseconds."""
    return (id_ >> _LOW_BITS) + EPOCH_MS


def unix_time(id_: int) -> int:
    """When the id was made, in whole Unix seconds: the second every spelling carries."""
    return ((id_ >> _LOW_BITS) + EPOCH_MS) // 1000


def shard(id_: int) -> int:
    """The shard that made the id."""
    return id_ >> SEQUENCE_BITS & MAX_SHARD


# --- decimal -----------------------------------------------------------------------------------------------------


def from_decimal(text: str) -> int:
    """The id from its decimal digits (MailPass `queue_id`, SendPulse integer alias). Raises ValueError."""
    if not _DECIMAL.match(text):
        raise ValueError("a message id is a decimal number without sign or leading zeros")
    id_ = int(text)
    _check(id_)
    return id_


def mspace(id_: int) -> str:
    """`msg_<decimal>`."""
    _check(id_)
    return f"msg_{id_}"


def from_mspace(text: str) -> int:
    """The id in `msg_<decimal>`. Raises ValueError."""
    if not text.startswith("msg_"):
        raise ValueError("a message id of this API starts with msg_")
    return from_decimal(text[4:])


# --- UUID --------------------------------------------------------------------------------------------------------


def _mix(id_: int) -> int:
    """53 bits by the finaliser of SplitMix64, so that a UUID from elsewhere is not taken for one of ours."""
    x = (id_ ^ id_ >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (x ^ x >> 31) & ((1 << 53) - 1)


def uuid(id_: int) -> str:
    """A version 7 UUID in lower case: 48 bits Unix milliseconds, shard, sequence, 53 check bits made from the id."""
    _check(id_)
    value = unix_ms(id_) << 80 | 7 << 76 | shard(id_) << 64 | 2 << 62 | (id_ & MAX_SEQUENCE) << 53 | _mix(id_)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def from_uuid(text: str) -> int:
    """The id in a UUID made by `uuid`; upper case is taken too. Raises ValueError, also for a UUID that is not ours."""
    if not _UUID.match(text):
        raise ValueError("a message id of this API is a UUID")
    value = int(text.replace("-", ""), 16)
    ms = (value >> 80) - EPOCH_MS
    if not 0 <= ms <= _MAX_MS:
        raise ValueError("this UUID is not the id of a message")
    id_ = ms << _LOW_BITS | (value >> 64 & MAX_SHARD) << SEQUENCE_BITS | (value >> 53 & MAX_SEQUENCE)
    if uuid(id_) != text.lower():
        raise ValueError("this UUID is not the id of a message")
    return id_


# --- base 36 -----------------------------------------------------------------------------------------------------


def _six_digits(value: int) -> str:
    return _PAIRS[value // 36**4] + _PAIRS[value // 36**2 % 36**2] + _PAIRS[value % 36**2]


def _split(id_: int) -> tuple[int, int]:
    """(Unix seconds, remainder)."""
    seconds, ms = divmod(unix_ms(id_), 1000)
    return seconds, ms << _LOW_BITS | id_ & _LOW_MASK


def _join(seconds: int, remainder: int) -> int:
    if remainder >= _REMAINDERS:
        raise ValueError("this is not the id of a message")
    ms = seconds * 1000 + (remainder >> _LOW_BITS) - EPOCH_MS
    if not 0 <= ms <= _MAX_MS:
        raise ValueError("this is not the id of a message: its time is out of range")
    return ms << _LOW_BITS | remainder & _LOW_MASK


def sendpulse(id_: int) -> str:
    """`tttttt-rrrrrr-cc` in base 36; the first six digits are the Unix time (modulo 36**6, from December 2038)."""
    _check(id_)
    seconds, remainder = _split(id_)
    span, low = divmod(seconds, _SIX)
    return f"{_six_digits(low)}-{_six_digits(remainder)}-{_PAIRS[id_ % _CHECKS * _SPANS + span]}"


def from_sendpulse(text: str) -> int:
    """The id in `tttttt-rrrrrr-cc`. Raises ValueError, also when the check digits do not fit."""
    match = _SENDPULSE.match(text)
    if match is None:
        raise ValueError("a message id of this API looks like xxxxxx-xxxxxx-xx, in digits and lower-case letters")
    low, remainder, last = (int(group, 36) for group in match.groups())
    check, span = divmod(last, _SPANS)
    id_ = _join(span * _SIX + low, remainder)
    if id_ % _CHECKS != check:
        raise ValueError("this is not the id of a message: its check digits are wrong")
    return id_


# --- RFC 5322 Message-ID, MailPass message_id ----------------------------------------------------------------------


def message_id_token(id_: int) -> str:
    """`rrrrrr.<Unix seconds>`: the left side of the Message-ID (RFC 5322 §3.6.4)."""
    _check(id_)
    seconds, remainder = _split(id_)
    return f"{_six_digits(remainder)}.{seconds}"


def from_message_id_token(text: str) -> int:
    """The id in a left side made by `message_id_token`. Raises ValueError."""
    match = _TOKEN.match(text)
    if match is None:
        raise ValueError("this is not the left side of a Message-ID made here: it looks like xxxxxx.<Unix seconds>")
    return _join(int(match[2]), int(match[1], 36))


def message_id(id_: int, host: str) -> str:
    """`<rrrrrr.<Unix seconds>@host>`, with angle brackets. `host`: a domain of ours."""
    return f"<{message_id_token(id_)}@{host}>"


def from_message_id(text: str) -> tuple[int, str]:
    """(id, host) from a Message-ID made by `message_id`, with or without its angle brackets. Raises ValueError."""
    inner = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    token, at, host = inner.partition("@")
    if not at or not host or "@" in host or "<" in host or ">" in host:
        raise ValueError("a message id of this API looks like <xxxxxx.seconds@host>")
    return from_message_id_token(token), host
