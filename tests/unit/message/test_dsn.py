"""Bounce messages, read back with the standard library."""

import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage, Message

import pytest

from mta.message.address import parse_path
from mta.message.dsn import Bounce, Failure, build, printable
from mta.message.headers import check_body, scan
from mta.message.outcome import Outcome, OutcomeKind, SaidBy, Stage

DATE = "Fri, 21 Nov 2025 22:19:00 +0000"
REFUSED = Outcome(OutcomeKind.BOUNCED, 550, "5.1.1", "no such user here", SaidBy.REMOTE, Stage.RCPT, "mx.example.com")
EXPIRED = Outcome(OutcomeKind.BOUNCED, None, "4.4.7", "not delivered within 5 days", SaidBy.LOCAL, Stage.QUEUE, None)
BOUNCE = Bounce(
    hostname="out.demo.test",
    recipient=parse_path("sender@demo.test"),
    message_id="<b1@out.demo.test>",
    date=DATE,
    boundary="=_b0undary",
    arrival_date=DATE,
    queue_id="125192299081631232",
    original_message_id="<original@demo.test>",
    original_header=b"From: sender@demo.test\r\nSubject: hello\r\n there\r\n",
    failures=[
        Failure(parse_path("nobody@example.com"), REFUSED, DATE),
        Failure(parse_path("other@example.org"), EXPIRED, None),
    ],
)


def parse(content: bytes) -> EmailMessage:
    headers = scan(content)
    check_body(headers)
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert part.defects == []
    return message


def groups(message: EmailMessage) -> list[Message]:
    status = list(message.iter_parts())[1]
    assert status.get_content_type() == "message/delivery-status"
    return [group for group in status.walk() if group is not status]


def test_the_header_marks_an_automatic_report() -> None:
    message = parse(build(BOUNCE))
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["To"] == "sender@demo.test"
    assert message["From"].addresses[0].addr_spec == "MAILER-DAEMON@out.demo.test"
    assert message["In-Reply-To"] == message["References"] == "<original@demo.test>"
    assert message["Message-ID"] == "<b1@out.demo.test>"
    assert message["Date"] == DATE


def test_three_parts_tell_people_programs_and_the_sender() -> None:
    text, status, original = parse(build(BOUNCE)).iter_parts()
    assert text.get_content_type() == "text/plain"
    notice = text.get_content()
    assert "nobody@example.com" in notice
    assert "mx.example.com said" in notice
    assert "reason: 5.4.7 not delivered" in notice
    assert "125192299081631232" in notice
    assert status.get_content_type() == "message/delivery-status"
    assert original.get_content_type() == "text/rfc822-headers"
    assert original.get_payload(decode=True) == BOUNCE.original_header


def test_the_status_has_one_group_per_recipient() -> None:
    message, refused, expired = groups(parse(build(BOUNCE)))
    assert message["Reporting-MTA"] == "dns; out.demo.test"
    assert message["Arrival-Date"] == DATE
    assert refused["Final-Recipient"] == "rfc822; nobody@example.com"
    assert refused["Action"] == expired["Action"] == "failed"
    assert refused["Status"] == "5.1.1"
    assert refused["Remote-MTA"] == "dns; mx.example.com"
    assert refused["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user here"
    assert refused["Last-Attempt-Date"] == DATE
    assert expired["Status"] == "5.4.7"
    assert expired["Diagnostic-Code"] == "x-local; 5.4.7 not delivered within 5 days"
    assert "Remote-MTA" not in expired
    assert "Last-Attempt-Date" not in expired


@pytest.mark.parametrize(
    "text",
    [
        "x\r\nBcc: evil@evil.test\r\n\r\n--=_other\r\nContent-Type: text/html\r\n\r\nevil",
        "x\nFinal-Recipient: rfc822; evil@evil.test",
        "nul \x00 esc \x1b[2J \u202e bidi \u2028 é",
        "spaces   " * 10_000,
        "n" * 100_000,
        "",
    ],
)
def test_hostile_replies_stay_within_their_field(text: str) -> None:
    outcome = replace(REFUSED, text=text, enhanced="5.1.1\r\nX: y", remote_host="mx\r\nevil.test")
    bounce = replace(BOUNCE, failures=[Failure(parse_path("nobody@example.com"), outcome, DATE)])
    message = parse(build(bounce))
    assert len(list(message.iter_parts())) == 3
    _, group = groups(message)
    assert sorted(group.keys()) == sorted(
        ["Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date"]
    )
    assert group["Status"] == "5.0.0"
    assert len(group["Diagnostic-Code"]) < 1000


def test_a_header_with_8_bit_octets_is_quoted_printable() -> None:
    header = "Subject: café\r\nX: =\r\n".encode()
    message = parse(build(replace(BOUNCE, original_header=header)))
    original = list(message.iter_parts())[2]
    assert original["Content-Transfer-Encoding"] == "quoted-printable"
    assert original.get_payload(decode=True) == header


def test_a_header_without_final_line_end_is_completed() -> None:
    original = list(parse(build(replace(BOUNCE, original_header=b"X: y"))).iter_parts())[2]
    assert original.get_payload(decode=True) == b"X: y\r\n"


def test_recipients_outside_ascii_are_written_as_rfc_6533_says() -> None:
    bounce = replace(BOUNCE, failures=[Failure(parse_path("jü+r=gen@example.com"), REFUSED, None)])
    _, group = groups(parse(build(bounce)))
    assert group["Final-Recipient"] == "utf-8; j\\x{FC}\\x{2B}r\\x{3D}gen@example.com"


def test_many_failures_are_all_in_the_status_and_some_in_the_notice() -> None:
    failures = [Failure(parse_path(f"user{number}@example.com"), REFUSED, DATE) for number in range(500)]
    message = parse(build(replace(BOUNCE, failures=failures)))
    assert len(groups(message)) == 501
    assert "and 480 more" in next(message.iter_parts()).get_content()


@pytest.mark.parametrize("message_id", [None, "", "x@y", "<a b>", "<a>\r\nBcc: x@y.zz", "<" + "x" * 600 + ">", "<é@x>"])
def test_without_a_sound_message_id_there_is_no_reference(message_id: str | None) -> None:
    message = parse(build(replace(BOUNCE, original_message_id=message_id)))
    assert "In-Reply-To" not in message
    assert "References" not in message


def test_a_boundary_within_the_content_is_refused() -> None:
    with pytest.raises(ValueError, match="occurs in the content"):
        build(replace(BOUNCE, original_header=b"X: =_b0undary\r\n"))


@pytest.mark.parametrize("boundary", ["", "a b", 'a"b', "a\r\nb", "x" * 71])
def test_an_unfit_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(ValueError, match="boundary"):
        build(replace(BOUNCE, boundary=boundary))


def test_no_failure_no_bounce() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build(replace(BOUNCE, failures=[]))


def test_printable_cuts_and_cleans() -> None:
    assert printable("a\x00\x01b\tc\r\n d\u00e9", 100) == "a?b c d?"
    assert printable("x" * 50, 10) == "x" * 10
