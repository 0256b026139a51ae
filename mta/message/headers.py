"""Header fields as bytes: looked at once on the way in, completed once before the message is stored.

`scan` reads the header of a whole message (CRLF line ends) in linear time and refuses what two readers could read
differently. `prepare` gives the message as it is stored and sent: trace field and missing fields in front, private
fields out, everything else, the body above all, byte for byte as it came.

What counts as header:

- Everything before the first empty line; without an empty line, everything.
- When the first line is no header field, the message has no header and all of it is body; `prepare` puts an empty line
  before it. (A first line that starts with `From `, or has white space before its colon, is refused instead.)

Refused, by MessageError with a text fit for the peer:

- a later line without colon, an empty field name, white space or control characters in or after a field name, a
  continuation line of white space alone;
- NUL, other control characters except tab, CR or LF on its own;
- a second From, Sender, Reply-To, To, Cc, Subject, Date, Message-ID, In-Reply-To, References, MIME-Version,
  Content-Type, Content-Transfer-Encoding (RFC 5322 §3.6; large receivers refuse these as well);
- a line above 998 octets (RFC 5322 §2.1.1), more than 128 KiB of header, more than 1,000 fields.

Octets above 127 are accepted and reported by `Headers.is_ascii`. Body lines are not looked at here: the SMTP session
lets no stray CR, LF or NUL in; `check_body` does the same for messages from elsewhere.

Pure; any thread. Cost of scan and prepare for 4 KB with 8 fields: benchmarks/micro/bench_message.py.
"""

import re
from functools import lru_cache

from mta.message import encodedword
from mta.message.address import Address
from mta.message.mailboxes import format_mailbox

MAX_HEADER = 131_072
MAX_FIELDS = 1_000
MAX_LINE = 998
MAX_SUBJECT = 500

Field = tuple[bytes, int, int]
"""Name in lower case; offsets of its first octet and of the octet after its final CRLF."""

_SINGLETONS = frozenset(
    b"from sender reply-to to cc subject date message-id in-reply-to references mime-version content-type"
    b" content-transfer-encoding".split()
)
_COMMON_NAMES = _SINGLETONS | frozenset(b"received dkim-signature list-unsubscribe bcc return-path x-mailer".split())
REMOVED = frozenset({b"bcc", b"resent-bcc", b"return-path"})
"""Fields that never leave: blind recipients, and what the final server alone may add (RFC 5321 §4.4)."""
_CONTROL_PREFIX = b"x-barua-"

_NAME = re.compile(rb"[!-9;-~]++")
_SPACED_NAME = re.compile(rb"[!-9;-~]++[ \t]++:")
_FIELD_TEXT = bytes([9, 10, 13, *range(32, 127)])
_HIGH = bytes(range(128, 256))
_UNFIT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_WEEKDAYS = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")  # 1970-01-01 was a Thursday
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HELO = re.compile(r"[A-Za-z0-9_.\-]{1,255}|\[[A-Za-z0-9.:]{1,60}\]")


class MessageError(ValueError):
    """The message is not one we accept. The text says what is wrong with it and may be shown to the peer."""


class Headers:
    """The header of one message and where its body starts. Made by `scan` and `prepare`; not to be changed."""

    __slots__ = ("body", "content", "end", "fields", "is_ascii", "received")

    content: bytes
    """The whole message."""
    fields: list[Field]
    """In order of appearance."""
    end: int
    """Offset after the last field."""
    body: int
    """Offset of the body; `end` when there is no empty line."""
    is_ascii: bool
    """False: some field has octets above 127, so SMTPUTF8 or at least 8BITMIME is wanted (RFC 6532)."""
    received: int
    """Number of Received fields, for loop detection (RFC 5321 §6.3)."""

    def __init__(self, content: bytes, fields: list[Field], end: int, body: int, is_ascii: bool, received: int) -> None:
        self.content = content
        self.fields = fields
        self.end = end
        self.body = body
        self.is_ascii = is_ascii
        self.received = received

    def __repr__(self) -> str:
        return f"<Headers {len(self.fields)} fields, {self.end} octets, body at {self.body} of {len(self.content)}>"

    def has(self, name: bytes) -> bool:
        """Whether there is a field of that name (lower case)."""
        return any(field[0] == name for field in self.fields)

    def first(self, name: bytes) -> bytes | None:
        """Value of the first field of that name (lower case), unfolded and stripped; None if there is none."""
        for field in self.fields:
            if field[0] == name:
                return self._value(field)
        return None

    def values(self, name: bytes) -> list[bytes]:
        """Values of all fields of that name (lower case), unfolded and stripped, in order."""
        return [self._value(field) for field in self.fields if field[0] == name]

    def _value(self, field: Field) -> bytes:
        name, start, end = field
        return self.content[start + len(name) + 1 : end].replace(b"\r\n", b"").strip(b" \t")


def scan(content: bytes) -> Headers:
    """The header of a message with CRLF line ends. Raises MessageError; the module's text says when."""
    end, body = _bounds(content)
    block = content[:end]
    is_ascii = _check_octets(block)
    names: list[bytes] = []
    starts: list[int] = []
    seen: set[bytes] = set()
    start = 0
    if block:
        for line in (block[:-2] if block.endswith(b"\r\n") else block).split(b"\r\n"):
            if line[:1] in b" \t":
                if not names or not line.strip():
                    raise _malformed(line, content, start)
            else:
                colon = line.find(b":")
                name = line[:colon].lower()
                if colon < 1 or (name not in _COMMON_NAMES and not _NAME.fullmatch(name)):
                    raise _malformed(line, content, start)
                if name in seen and name in _SINGLETONS:
                    raise MessageError(f"the message has more than one {name.decode().title()} field")
                seen.add(name)
                names.append(name)
                starts.append(start)
            if len(line) > MAX_LINE:
                raise MessageError(f"a line of the {_shown(names[-1])} field is longer than {MAX_LINE} octets; fold it")
            start += len(line) + 2
    if len(names) > MAX_FIELDS:
        raise MessageError(f"the message has more than {MAX_FIELDS} header fields")
    fields = list(zip(names, starts, [*starts[1:], end], strict=True)) if names else []
    return Headers(content, fields, end, body, is_ascii, names.count(b"received"))


def _bounds(content: bytes) -> tuple[int, int]:
    """(end of the header, start of the body)."""
    if content.startswith(b"\r\n"):
        return 0, 2
    # Only what is cut off at the first colon can tell a field from a line of body.
    name = _NAME.match(content)
    if name is None or content[name.end() : name.end() + 1] != b":":
        if content.startswith((b"From ", b">From ")):
            raise MessageError("the message starts with a mailbox separator line ('From ...'); leave that line off")
        if _SPACED_NAME.match(content):
            raise MessageError("the first header line has white space before its colon")
        return 0, 0
    empty_line = content.find(b"\r\n\r\n", 0, MAX_HEADER + 4)
    if empty_line >= 0:
        return empty_line + 2, empty_line + 4
    if len(content) > MAX_HEADER:
        raise MessageError(f"the header is longer than {MAX_HEADER} octets")
    return len(content), len(content)


def _check_octets(block: bytes) -> bool:
    """Whether the header is ASCII; MessageError for control characters and stray line ends."""
    lines = block.count(b"\r\n")
    if block.count(b"\n") != lines or block.count(b"\r") != lines:
        raise MessageError("the header contains CR or LF on its own; lines end with CR LF")
    rest = block.translate(None, _FIELD_TEXT)
    if not rest:
        return True
    control = rest.translate(None, _HIGH)
    if control:
        raise MessageError(f"the header contains the control character 0x{control[0]:02X}")
    return False


def _shown(octets: bytes) -> str:
    return "".join(chr(octet) if 32 <= octet < 127 else "?" for octet in octets[:40])


def _malformed(line: bytes, content: bytes, start: int) -> MessageError:
    number = content.count(b"\n", 0, start) + 1
    if not line.strip():
        why = "is empty but for white space"
    elif b":" not in line:
        why = "has no colon; put an empty line between header and body"
    elif _SPACED_NAME.match(line):
        why = "has white space before its colon"
    else:
        why = "has no field name before its colon, or one with characters that are not allowed"
    return MessageError(f"line {number} of the header ('{_shown(line)}') {why}")


def check_body(headers: Headers) -> None:
    """For messages that did not come by SMTP: MessageError when the body contains NUL, or CR or LF on its own."""
    content, body = headers.content, headers.body
    lines = content.count(b"\r\n", body)
    if content.count(b"\n", body) != lines or content.count(b"\r", body) != lines:
        raise MessageError("the body contains CR or LF on its own; lines end with CR LF")
    if content.find(b"\0", body) >= 0:
        raise MessageError("the body contains the character NUL; encode it (base64)")


def prepare(
    headers: Headers, *, received: bytes, date: str, message_id: str, sender: Address | None, sender_name: str
) -> Headers:
    """The message as it is stored and sent, with its header scanned again.

    `received`: the finished trace field, from `received_field`. `date`, `message_id` (with angle brackets): used when
    the message has none. `sender`, `sender_name`: make the From field when the message has none.
    Taken out: Bcc, Resent-Bcc, Return-Path, and X-Barua-* (meant for this program alone).
    Raises MessageError when there is neither a From field nor a `sender`.
    """
    names = {field[0] for field in headers.fields}
    added: list[tuple[bytes, bytes]] = [(b"received", received)]
    if b"from" not in names:
        if sender is None:
            raise MessageError("the message has no From field and no envelope sender to make one from")
        added.append((b"from", b"From: " + format_mailbox(sender_name, sender) + b"\r\n"))
    if b"date" not in names:
        added.append((b"date", b"Date: " + date.encode("ascii") + b"\r\n"))
    if b"message-id" not in names:
        added.append((b"message-id", b"Message-ID: " + message_id.encode("ascii") + b"\r\n"))
    prefix = b"".join([field for _, field in added])
    fields: list[Field] = []
    start = 0
    for name, field in added:
        fields.append((name, start, start + len(field)))
        start += len(field)
    private = not REMOVED.isdisjoint(names) or any(map(_is_control, names))
    if headers.body == headers.end + 2 and not private:
        content = prefix + headers.content
        fields += [(name, first + start, last + start) for name, first, last in headers.fields]
        start += headers.end
        is_ascii = headers.is_ascii and prefix.isascii()
    else:
        content, start = _rebuilt(headers, prefix, fields)
        is_ascii = content[:start].isascii()
    return Headers(content, fields, start, start + 2, is_ascii, headers.received + 1)


def _is_control(name: bytes) -> bool:
    return name.startswith(_CONTROL_PREFIX)


def _rebuilt(headers: Headers, prefix: bytes, fields: list[Field]) -> tuple[bytes, int]:
    """(content, end of header) with private fields left out and an empty line put in where there was none.

    Appends to `fields`.
    """
    parts = [prefix]
    start = len(prefix)
    for name, first, last in headers.fields:
        if name in REMOVED or _is_control(name):
            continue
        field = headers.content[first:last]
        if not field.endswith(b"\r\n"):
            field += b"\r\n"
        fields.append((name, start, start + len(field)))
        start += len(field)
        parts.append(field)
    parts.append(b"\r\n")
    parts.append(headers.content[headers.body :])
    return b"".join(parts), start


def received_field(
    *, helo: str | None, peer: str | None, by: str, protocol: str, id_: str, recipient: Address | None, date: str
) -> bytes:
    """A Received field (RFC 5321 §4.4), folded, with its final CRLF.

    `helo`: what the peer called itself; replaced by `unknown` unless it is a plain name or literal. `peer`: its IP
    address. Both None: no from clause. `by`: our name. `protocol`: as registered by RFC 3848 (ESMTPSA and the like).
    `id_`: any atom. `recipient`: only when the message has a single one, so that none learns of another.
    """
    if helo is not None or peer is not None:
        name = helo if helo is not None and _HELO.fullmatch(helo) else "unknown"
        address = "" if peer is None else f" ([IPv6:{peer}])" if ":" in peer else f" ([{peer}])"
        source = f"from {name}{address}\r\n\tby"
    else:
        source = "by"
    whom = "" if recipient is None else f"\r\n\tfor <{recipient.mailbox}>"
    return f"Received: {source} {by} with {protocol} id {id_}{whom};\r\n\t{date}\r\n".encode()


def subject(headers: Headers) -> str:
    """The Subject for people: encoded-words decoded, control characters replaced, at most 500 characters."""
    value = headers.first(b"subject")
    if not value:
        return ""
    text = encodedword.decode(value[: 16 * MAX_SUBJECT].decode("utf-8", "replace"))
    return _UNFIT_SHOWN.sub(" ", text)[:MAX_SUBJECT].strip()


def format_date(unix_seconds: float) -> str:
    """RFC 5322 §3.3 date and time in UTC, `Fri, 21 Nov 2025 22:19:00 +0000`."""
    return _date(int(unix_seconds))


@lru_cache(maxsize=128)
def _date(seconds: int) -> str:
    days, second = divmod(seconds, 86_400)
    year, month, day = _civil(days)
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f"{_WEEKDAYS[days % 7]}, {day:02d} {_MONTHS[month - 1]} {year:04d} {clock} +0000"


def _civil(days: int) -> tuple[int, int, int]:
    """(year, month, day) of a day counted from 1970-01-01, in the proleptic Gregorian calendar.

    Years are counted from March in eras of 400 years, so that the leap day is the last of its year.
    """
    era, of_era = divmod(days + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    day_of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year_of_era + era * 400 + (month <= 2), month, day
