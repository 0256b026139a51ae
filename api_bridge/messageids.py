"""How the APIs spell the one id that each recipient of each message has.

The id is a number of 63 bits: 42 bits milliseconds since 2024-01-01T00:00:00Z, 12 bits shard, 9 bits sequence. The MTA
makes it, control finds a message by any of its spellings, and here it is written as an API has it. All programs do that
in the same way, which a test checks. Pure.

    decimal   the number itself
    UUID      version 7: Unix milliseconds, shard, sequence, 53 check bits
    base 36   ``tttttt-rrrrrr-cc``: Unix seconds, remainder (millisecond in the second, shard, sequence), check
"""

import re

EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z in Unix milliseconds."""

_LOW_BITS = 21
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SIX = 36**6
_SPANS, _CHECKS = 3, 431
_BASE36 = re.compile(r"([0-9a-z]{6})-([0-9a-z]{6})-([0-9a-z]{2})")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def base36(id_: int) -> str:
    """The spelling of SendPulse; the first six digits are the Unix time (modulo 36**6, from December 2038)."""
    seconds, ms = divmod((id_ >> _LOW_BITS) + EPOCH_MS, 1000)
    span, low = divmod(seconds, _SIX)
    remainder = ms << _LOW_BITS | id_ & (1 << _LOW_BITS) - 1
    return f"{_six_digits(low)}-{_six_digits(remainder)}-{_PAIRS[id_ % _CHECKS * _SPANS + span]}"


def uuid(id_: int) -> str:
    """The spelling of SendPost."""
    value = unix_ms(id_) << 80 | 7 << 76 | (id_ >> 9 & 4095) << 64 | 2 << 62 | (id_ & 511) << 53 | _mix(id_)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def unix_ms(id_: int) -> int:
    """When the id was made, in Unix milliseconds."""
    return (id_ >> _LOW_BITS) + EPOCH_MS


def _mix(id_: int) -> int:
    """53 bits by the finaliser of SplitMix64, so that a UUID from elsewhere is not taken for one of ours."""
    x = (id_ ^ id_ >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (x ^ x >> 31) & ((1 << 53) - 1)


def _six_digits(value: int) -> str:
    return _PAIRS[value // 36**4] + _PAIRS[value // 36**2 % 36**2] + _PAIRS[value % 36**2]


def from_base36(text: str) -> int | None:
    """The id in the spelling of SendPulse; None: the text is none, or its check does not fit."""
    match = _BASE36.fullmatch(text)
    if match is None:
        return None
    low, remainder, last = (int(group, 36) for group in match.groups())
    check, span = divmod(last, _SPANS)
    ms = (span * _SIX + low) * 1000 + (remainder >> _LOW_BITS) - EPOCH_MS
    if remainder >= 1000 << _LOW_BITS or not 0 <= ms < 1 << 42:
        return None
    id_ = ms << _LOW_BITS | remainder & (1 << _LOW_BITS) - 1
    return id_ if id_ % _CHECKS == check else None


def from_decimal(text: str) -> int | None:
    """The id in decimal; None: the text is none."""
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 63:
        return None
    return int(text)
