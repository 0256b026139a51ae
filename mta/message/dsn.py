"""Bounce messages: delivery status notifications for recipients that were given up.

`build` gives a whole message: multipart/report (RFC 6522) of a text for people, a message/delivery-status (RFC 3464)
and the header of the original (text/rfc822-headers); never its body, which may be large or private. It is marked
Auto-Submitted (RFC 3834) and has to be sent with the null sender. One notification serves all recipients of a message
that failed together.

What remote servers said may be hostile: it is reduced to printable ASCII, cut to 900 characters and folded, so that it
can neither end a field nor a part. All lines are within 998 octets, and 7-bit unless the sender's own address is not.

Errors: ValueError from `build` when the boundary occurs in the content or there is no failure. Pure; any thread.
"""

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mta.message.address import Address
from mta.message.outcome import Outcome, SaidBy

MAX_DIAGNOSTIC = 900
MAX_LISTED_IN_TEXT = 20

_UNPRINTABLE = re.compile(r"[^ -~]+")
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,500}>")
_BOUNDARY = re.compile(r"[A-Za-z0-9_.=\-]{1,70}")
# RFC 6533 §3: what may stand as it is in a utf-8-addr-xtext.
_NEEDS_XTEXT = re.compile(r"[^!-*,-<>-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Failure:
    """One recipient that was given up."""

    recipient: Address
    outcome: Outcome
    last_attempt: str | None
    """When it was last tried, as an RFC 5322 date; None if it never was."""


@dataclass(frozen=True, slots=True)
class Bounce:
    """The facts of one notification."""

    hostname: str
    """Our name: Reporting-MTA, and the domain of the From address."""
    recipient: Address
    """Who is told: the envelope sender of the original."""
    message_id: str
    """Of the notification, with angle brackets."""
    date: str
    """Of the notification (RFC 5322)."""
    boundary: str
    """Up to 70 of A-Z a-z 0-9 `_.=-` that occur nowhere else: random."""
    arrival_date: str
    """When the original was accepted (RFC 5322)."""
    queue_id: str
    """The original's id, to be quoted to support."""
    original_message_id: str | None
    """The original's Message-ID as found, for threading; left out when it is malformed. None if there was none."""
    original_header: bytes
    """The original's header fields, CRLF line ends, without the empty line."""
    failures: Sequence[Failure]
    """At least one."""


def build(bounce: Bounce) -> bytes:
    """The notification as a message with CRLF line ends. Raises ValueError; the module's text says when."""
    if not bounce.failures:
        raise ValueError("a bounce message needs at least one failed recipient")
    if not _BOUNDARY.fullmatch(bounce.boundary):
        raise ValueError("the boundary has characters that are not allowed, or is too long")
    parts = [
        ("text/plain; charset=us-ascii", "7bit", _notice(bounce)),
        ("message/delivery-status", "7bit", _status(bounce)),
        ("text/rfc822-headers", *_original(bounce.original_header)),
    ]
    boundary = bounce.boundary.encode("ascii")
    if any(boundary in content for _, _, content in parts):
        raise ValueError("the boundary occurs in the content")
    lines = [_header(bounce)]
    for content_type, encoding, content in parts:
        about = f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        lines.append(b"--%b\r\n%b%b\r\n" % (boundary, about.encode("ascii"), content))
    lines.append(b"--%b--\r\n" % boundary)
    return b"".join(lines)


def _header(bounce: Bounce) -> bytes:
    fields = [
        f"From: Mail Delivery System <MAILER-DAEMON@{bounce.hostname}>",
        f"To: <{bounce.recipient.mailbox}>",
        "Subject: Undelivered mail returned to sender",
        f"Date: {bounce.date}",
        f"Message-ID: {bounce.message_id}",
    ]
    if bounce.original_message_id is not None and _MESSAGE_ID.fullmatch(bounce.original_message_id):
        fields.append(f"In-Reply-To: {bounce.original_message_id}")
        fields.append(f"References: {bounce.original_message_id}")
    fields += [
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{bounce.boundary}"',
        "",
        "",
    ]
    return "\r\n".join(fields).encode("utf-8")


def printable(text: str, limit: int) -> str:
    """`text` as printable ASCII on one line, runs of anything else as one `?`, white space as single spaces."""
    return _UNPRINTABLE.sub("?", " ".join(text[: 4 * limit].split()))[:limit].rstrip()


def _said(outcome: Outcome) -> str:
    """Code and words, for people and for Diagnostic-Code."""
    # What a remote server said is quoted as it is (RFC 3464 §2.3.6); our own words agree with the Status field.
    quoted = outcome.said_by is SaidBy.REMOTE and _ENHANCED.fullmatch(outcome.enhanced)
    enhanced = outcome.enhanced if quoted else _status_code(outcome)
    parts = (str(outcome.code) if outcome.code is not None else "", enhanced, outcome.text)
    return printable(" ".join(filter(None, parts)), MAX_DIAGNOSTIC)


def _status_code(outcome: Outcome) -> str:
    """The enhanced code as a permanent one: the recipient was given up, even if the last reply was a 4yz."""
    code = outcome.enhanced if _ENHANCED.fullmatch(outcome.enhanced) else "5.0.0"
    return "5" + code[1:]


def _folded(field: str) -> str:
    """A field in lines of at most 78 where there are spaces to fold at, and of at most 900 in any case."""
    lines: list[str] = []
    while len(field) > 78:
        at = field.rfind(" ", 1, 78)
        if at < 1:
            at = field.find(" ", 78)
        if at < 1:
            break
        lines.append(field[:at])
        field = field[at:]
    lines.append(field)
    return "\r\n".join(lines)


def _shown(recipient: Address) -> str:
    return printable(recipient.mailbox, 320)


def _notice(bounce: Bounce) -> bytes:
    lines = [
        f"This is the mail system at {bounce.hostname}.",
        "",
        "Your message could not be delivered to the recipients below. It will not be",
        "tried again.",
        "",
    ]
    for failure in bounce.failures[:MAX_LISTED_IN_TEXT]:
        outcome = failure.outcome
        remote = outcome.said_by is SaidBy.REMOTE and outcome.remote_host
        whose = f"{printable(outcome.remote_host or '', 255)} said" if remote else "reason"
        lines.append(_folded(f"<{_shown(failure.recipient)}>: {whose}: {_said(outcome)}"))
        lines.append("")
    unlisted = len(bounce.failures) - MAX_LISTED_IN_TEXT
    if unlisted > 0:
        lines += [f"... and {unlisted} more, listed in the attached report.", ""]
    lines.append(f"The id of your message is {printable(bounce.queue_id, 100)}.")
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


def _status(bounce: Bounce) -> bytes:
    groups = [f"Reporting-MTA: dns; {bounce.hostname}\r\nArrival-Date: {bounce.arrival_date}\r\n"]
    for failure in bounce.failures:
        outcome = failure.outcome
        remote = outcome.said_by is SaidBy.REMOTE
        fields = [
            f"Final-Recipient: {_typed(failure.recipient)}",
            "Action: failed",
            f"Status: {_status_code(outcome)}",
        ]
        if outcome.remote_host:
            fields.append(f"Remote-MTA: dns; {printable(outcome.remote_host, 255)}")
        fields.append(_folded(f"Diagnostic-Code: {'smtp' if remote else 'x-local'}; {_said(outcome)}"))
        if failure.last_attempt is not None:
            fields.append(f"Last-Attempt-Date: {failure.last_attempt}")
        groups.append("\r\n".join(fields) + "\r\n")
    return "\r\n".join(groups).encode("ascii")


def _typed(recipient: Address) -> str:
    """Address type and address; the utf-8 type in its 7-bit form when it has to be (RFC 6533 §3)."""
    if not recipient.needs_smtputf8:
        return f"rfc822; {recipient.mailbox}"
    return "utf-8; " + _NEEDS_XTEXT.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", recipient.mailbox)


def _original(header: bytes) -> tuple[str, bytes]:
    """(transfer encoding, content). Quoted-printable only when the header is not 7-bit (RFC 6522 §4)."""
    if header and not header.endswith(b"\r\n"):
        header += b"\r\n"
    if header.isascii():
        return "7bit", header
    return "quoted-printable", binascii.b2a_qp(header, istext=True)
