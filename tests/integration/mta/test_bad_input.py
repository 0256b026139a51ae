"""Bad input over SMTP: the right code, a text that helps, and nothing half-done: no credit moved, nothing queued."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.integration.mta.accounts import Account, Accounts, accepted
from tests.integration.mta.arrivals import one
from tests.integration.mta.conftest import MESSAGE_BYTES, RECIPIENTS
from tests.integration.mta.wire import Answer, Wire, encoded
from tests.support.sink import RecordingSink
from tests.support.stack import RESELLER, Login, Stack
from tests.support.waiting import wait_until


@contextlib.contextmanager
def nothing_happens(*accounts: Account) -> Iterator[None]:
    """No recipient is accepted meanwhile, and the accounts are neither charged nor have anything queued."""
    stack = accounts[0].stack
    before = accepted(stack), [account.balance.consumed for account in accounts]
    yield
    assert (accepted(stack), [account.balance.consumed for account in accounts]) == before
    for account in accounts:
        balance = account.balance
        assert balance.available + balance.reserved + balance.consumed == account.credits
        assert stack.operator.queued(account.tenant) == []


@pytest.fixture
def wire(account: Account, stack: Stack) -> Iterator[Wire]:
    """A connection of the account, over TLS and logged in."""
    with logged_in(account) as wire:
        yield wire


@contextlib.contextmanager
def logged_in(account: Account) -> Iterator[Wire]:
    """A connection of an account, over TLS and logged in."""
    with Wire(account.stack.smtp_port) as wire:
        wire.start_tls(account.stack.authority.client_context())
        assert wire.log_in(account.login).code == 235
        yield wire


def is_alive(wire: Wire, account: Account, sink: RecordingSink, recipient: str) -> bool:
    """Whether the conversation is still in step: a good message goes through and arrives."""
    wire.begin(account.sender, [recipient])
    wire.send(b"Subject: afterwards\r\n\r\nText\r\n.\r\n")
    assert (answer := wire.reply()).code == 250, answer
    return one(sink, recipient).headers("Subject") == ["afterwards"]


# -- authentication --------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_535_and_a_right_one_is_taken_after_it(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    with Wire(stack.smtp_port) as wire, nothing_happens(account):
        wire.start_tls(stack.authority.client_context())
        wrong = wire.log_in(Login(account.tenant, "wrong"))
        unknown = wire.log_in(Login("nobody-of-that-name", "wrong"))
        assert wrong == unknown == Answer(535, "5.7.8", "Authentication credentials invalid")
        assert wire.ask(f"MAIL FROM:<{account.sender}>").code == 530
        assert wire.log_in(account.login).code == 235
    with logged_in(account) as wire:
        assert is_alive(wire, account, sink, f"after535-{account.tenant}@example.net")


def test_three_wrong_passwords_end_the_connection(account: Account, stack: Stack) -> None:
    with Wire(stack.smtp_port) as wire:
        wire.start_tls(stack.authority.client_context())
        codes = [wire.log_in(Login(account.tenant, f"wrong{n}")).code for n in range(3)]
        assert codes == [535, 535, 421]
        assert wire.is_closed()


@pytest.mark.parametrize(
    ("lines", "code", "enhanced"),
    [
        (["AUTH PLAIN !!!"], 501, "5.5.2"),
        ([f"AUTH PLAIN {encoded('no separators')}"], 501, "5.5.2"),
        (["AUTH PLAIN", "*"], 501, "5.7.0"),
        (["AUTH CRAM-MD5"], 504, "5.5.4"),
        (["AUTH"], 501, "5.5.4"),
        (["AUTH LOGIN", "====", "eA=="], 501, "5.5.2"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_malformed_authentication_is_told(stack: Stack, lines: list[str], code: int, enhanced: str) -> None:
    with Wire(stack.smtp_port) as wire:
        wire.start_tls(stack.authority.client_context())
        answer = next(found for found in map(wire.ask, lines) if found.code != 334)
        assert (answer.code, answer.enhanced) == (code, enhanced)
        assert wire.ask("NOOP").code == 250


def test_authentication_before_tls_is_538_and_not_offered(account: Account, stack: Stack) -> None:
    with Wire(stack.smtp_port) as wire:
        assert "AUTH" not in wire.ask("EHLO client.test").text
        answer = wire.log_in(account.login)
        assert (answer.code, answer.enhanced) == (538, "5.7.11")
        assert "STARTTLS" in answer.text
        assert wire.ask("AUTH LOGIN").code == 538


def test_relaying_without_authentication_is_530(account: Account, stack: Stack) -> None:
    with nothing_happens(account):
        with Wire(stack.smtp_port) as wire:
            wire.ask("EHLO client.test")
            assert _refused(wire.ask(f"MAIL FROM:<{account.sender}>"), 530, "5.7.0", "Authentication required")
            assert wire.ask("RCPT TO:<r@example.net>").code == 503
            assert wire.ask("DATA").code == 503
        with Wire(stack.smtp_port) as wire:
            wire.start_tls(stack.authority.client_context())
            assert _refused(wire.ask("MAIL FROM:<a@example.net>"), 530, "5.7.0", "Authentication required")


def test_commands_in_clear_text_behind_starttls_are_not_taken_for_encrypted_ones(stack: Stack) -> None:
    with Wire(stack.smtp_port) as wire:
        wire.ask("EHLO client.test")
        wire.send(b"STARTTLS\r\nMAIL FROM:<injected@example.net>\r\n")
        assert _refused(wire.reply(), 554, "5.5.0", "Clear text after STARTTLS")
        assert wire.is_closed()


# -- who may send ----------------------------------------------------------------------------------------------------


def test_a_sender_domain_that_is_not_verified_is_550(account: Account, wire: Wire, sink: RecordingSink) -> None:
    with nothing_happens(account):
        answer = wire.ask("MAIL FROM:<ceo@bank.example>")
        assert _refused(answer, 550, "5.7.1", "bank.example is not verified for this account")
        assert wire.ask("RCPT TO:<r@example.net>").code == 503
        # A domain below the verified one is another domain.
        assert _refused(wire.ask(f"MAIL FROM:<a@sub.{account.domain}>"), 550, "5.7.1", "not verified")
    assert is_alive(wire, account, sink, f"unverified-{account.tenant}@example.net")


@pytest.mark.parametrize(
    "field",
    [
        "From: ceo@bank.example",
        "From: {sender}, ceo@bank.example",
        'From: "{sender}" <ceo@bank.example>',
        "From: {sender}\r\nSender: ceo@bank.example",
        "From: =?utf-8?q?news?= <ceo@bank.example>",
        "From: ceo@bank.example ({sender})",
        "fRoM:\r\n ceo@bank.example",
        "From: group: ceo@bank.example;",
    ],
)
def test_a_from_field_that_is_not_verified_is_550(
    account: Account, wire: Wire, sink: RecordingSink, field: str
) -> None:
    with nothing_happens(account):
        wire.begin(account.sender, ["r@example.net"])
        wire.send(f"{field.format(sender=account.sender)}\r\n\r\nText\r\n.\r\n".encode())
        answer = wire.reply()
        assert answer.code == 550 and answer.enhanced in ("5.7.1", "5.6.0"), answer
        assert "bank.example is not verified" in answer.text or "From field cannot be used" in answer.text, answer
    assert is_alive(wire, account, sink, f"from-{account.tenant}@example.net")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("From: {sender}\r\nFrom: ceo@bank.example\r\n\r\nText\r\n", "more than one From field"),
        ("From: {sender}\r\nSubject: one\r\nSubject: two\r\n\r\nText\r\n", "more than one Subject field"),
        ("From: {sender}\r\nFrom : ceo@bank.example\r\n\r\nText\r\n", "white space before its colon"),
        ("From: {sender}\r\nno colon here\r\n\r\nText\r\n", "has no colon"),
        ("From: not an address\r\n\r\nText\r\n", "From field cannot be used"),
        ("From:\r\n\r\nText\r\n", "From field"),
        ("From: {sender}\r\nX-Long: " + "x" * 1000 + "\r\n\r\nText\r\n", "longer than 998"),
        ("From: {sender}\r\n" + "X-Many: 1\r\n" * 1100 + "\r\nText\r\n", "more than 1000 header fields"),
        ("From: {sender}\r\nX-Control: \x08\r\n\r\nText\r\n", "control character"),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_a_header_that_two_readers_could_read_differently_is_550(
    account: Account, wire: Wire, sink: RecordingSink, content: str, said: str
) -> None:
    with nothing_happens(account):
        wire.begin(account.sender, ["r@example.net"])
        wire.send(content.format(sender=account.sender).encode() + b".\r\n")
        assert _refused(wire.reply(), 550, "5.6.0", said)
    assert is_alive(wire, account, sink, f"header-{account.tenant}@example.net")


def test_a_message_that_goes_round_in_a_loop_is_refused(account: Account, wire: Wire) -> None:
    with nothing_happens(account):
        wire.begin(account.sender, ["r@example.net"])
        wire.send(b"Received: by one;\r\n" * 101 + f"From: {account.sender}\r\n\r\nText\r\n.\r\n".encode())
        assert _refused(wire.reply(), 554, "5.4.6", "loop")


# -- credits ---------------------------------------------------------------------------------------------------------


def test_no_credits_is_452_until_there_are_some(accounts: Accounts, stack: Stack, sink: RecordingSink) -> None:
    account = accounts.make(credits_=0)
    recipient = f"nocredits-{account.tenant}@example.net"
    with logged_in(account) as wire:
        with nothing_happens(account):
            wire.begin(account.sender, [recipient])
            wire.send(b"\r\nText\r\n.\r\n")
            answer = wire.reply()
            assert _refused(answer, 452, "4.7.1", "not enough credits")
        stack.operator.grant(account.tenant, 1)

        def is_taken() -> bool:
            wire.begin(account.sender, [recipient])
            wire.send(b"\r\nText\r\n.\r\n")
            return wire.reply().code == 250

        wait_until(is_taken, "the new credit can be spent")
    one(sink, recipient)
    wait_until(lambda: account.balance.consumed == 1, "it is spent")
    assert account.balance.balance == 0


def test_a_message_for_more_recipients_than_credits_is_refused_whole(
    accounts: Accounts, stack: Stack, sink: RecordingSink
) -> None:
    account = accounts.make(credits_=3)
    recipients = [f"r{number}-{account.tenant}@example.net" for number in range(4)]
    with logged_in(account) as wire:
        with nothing_happens(account):
            wire.begin(account.sender, recipients)
            wire.send(b"\r\nText\r\n.\r\n")
            assert _refused(wire.reply(), 452, "4.7.1", "not enough credits")
        wire.begin(account.sender, recipients[:3])
        wire.send(b"\r\nText\r\n.\r\n")
        assert wire.reply().code == 250
        wire.begin(account.sender, recipients[3:])
        wire.send(b"\r\nText\r\n.\r\n")
        assert wire.reply().code == 452
    account.wait_until_charged(3)
    assert recipients[3] not in sink.recipients


# -- recipients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("whose", "scope"), [("", "account"), ("parent", "reseller"), ("operator", "platform")])
def test_a_suppressed_recipient_is_550_with_the_scope_and_not_charged(
    accounts: Accounts, stack: Stack, sink: RecordingSink, whose: str, scope: str
) -> None:
    parent = accounts.make()
    account = accounts.make(parent=parent.tenant)
    suppressed = f"Suppressed-{account.tenant}@Example.Net"
    good = f"good-{account.tenant}@example.net"
    stack.operator.suppress({"": account.tenant, "parent": parent.tenant}.get(whose, whose), suppressed.lower())
    with logged_in(account) as wire:

        def answer() -> Answer:
            wire.ask("RSET")
            wire.ask(f"MAIL FROM:<{account.sender}>")
            return wire.ask(f"RCPT TO:<{suppressed}>")

        wait_until(lambda: answer().code == 550, "the suppression is in force")
        assert _refused(answer(), 550, "5.7.1", f"suppression list (scope: {scope}, reason: manual)")
        assert wire.ask("DATA").code == 554
        assert wire.ask(f"RCPT TO:<{good}>").code == 250
        assert wire.ask("DATA").code == 354
        wire.send(b"\r\nText\r\n.\r\n")
        assert wire.reply().code == 250
    assert one(sink, good).recipients == (good,)
    account.wait_until_charged(1)
    assert parent.balance.consumed == 0


@pytest.mark.parametrize(
    "path",
    [
        "no-at-sign",
        "two@@example.net",
        "@example.net",
        "r@",
        "r@-bad-.example",
        "r@example..net",
        ".r@example.net",
        "r@exa mple.net",
        "r" * 65 + "@example.net",
        "r@" + "x" * 64 + ".net",
        "r@" + "abcdefgh." * 30 + "net",
        "r@[127.0.0.1]",
        "r@example.net@other.net",
        "r@localhost",
        "r%other.net@",
        "",
    ],
)
def test_a_malformed_address_is_501_or_553(account: Account, wire: Wire, sink: RecordingSink, path: str) -> None:
    with nothing_happens(account):
        wire.ask(f"MAIL FROM:<{account.sender}>")
        answer = wire.ask(f"RCPT TO:<{path}>")
        assert answer.code in (501, 553) and answer.enhanced.startswith("5.") and len(answer.text) > 20, answer
        wire.ask("RSET")
        if path:
            sender = wire.ask(f"MAIL FROM:<{path}>")
            assert sender.code in (501, 553, 550) and sender.enhanced.startswith("5."), sender
    assert is_alive(wire, account, sink, f"malformed-{account.tenant}@example.net")


@pytest.mark.parametrize("line", ["RCPT TO:r@example.net", "RCPT TO: <r@example.net> X=1", "RCPT r@example.net"])
def test_a_malformed_rcpt_command_is_told(account: Account, wire: Wire, line: str) -> None:
    wire.ask(f"MAIL FROM:<{account.sender}>")
    assert wire.ask(line).code in (500, 501, 555)


def test_too_many_recipients_are_452_and_those_taken_get_the_message(
    account: Account, wire: Wire, sink: RecordingSink
) -> None:
    recipients = [f"r{number}-{account.tenant}@example.net" for number in range(RECIPIENTS + 3)]
    wire.send(f"MAIL FROM:<{account.sender}>\r\n".encode())
    wire.send(b"".join(f"RCPT TO:<{recipient}>\r\n".encode() for recipient in recipients))
    wire.send(b"DATA\r\n")
    answers = wire.replies(1 + len(recipients) + 1)
    assert [answer.code for answer in answers] == [250] + [250] * RECIPIENTS + [452] * 3 + [354]
    assert _refused(answers[-2], 452, "4.5.3", "Too many recipients")
    wire.send(b"\r\nText\r\n.\r\n")
    assert wire.reply().code == 250
    account.wait_until_charged(RECIPIENTS)
    wait_until(lambda: set(recipients[:RECIPIENTS]) <= set(sink.recipients), "they arrive")
    assert not set(recipients[RECIPIENTS:]) & set(sink.recipients)


# -- size ------------------------------------------------------------------------------------------------------------


def test_a_message_announced_as_too_large_is_552(account: Account, wire: Wire, sink: RecordingSink) -> None:
    with nothing_happens(account):
        answer = wire.ask(f"MAIL FROM:<{account.sender}> SIZE={MESSAGE_BYTES + 1}")
        assert _refused(answer, 552, "5.3.4", "size limit")
    assert wire.ask(f"MAIL FROM:<{account.sender}> SIZE={MESSAGE_BYTES}").code == 250
    wire.ask("RSET")
    assert is_alive(wire, account, sink, f"size-{account.tenant}@example.net")


def test_a_message_that_is_too_large_is_552_and_the_conversation_goes_on(
    account: Account, wire: Wire, sink: RecordingSink
) -> None:
    with nothing_happens(account):
        wire.begin(account.sender, ["r@example.net"])
        wire.send(b"Subject: large\r\n\r\n" + b"MAIL FROM:<evil@example.net>\r\n" * (5 * MESSAGE_BYTES // 30))
        wire.send(b".\r\n")
        assert _refused(wire.reply(), 552, "5.3.4", "size limit")
    assert is_alive(wire, account, sink, f"large-{account.tenant}@example.net")


# -- smuggling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r\n\0.\r\n"])
def test_a_second_message_cannot_be_smuggled_behind_a_disguised_end(
    account: Account, wire: Wire, sink: RecordingSink, ending: str
) -> None:
    smuggled = f"smuggled-{account.tenant}@example.net"
    with nothing_happens(account):
        wire.begin(account.sender, [f"first-{account.tenant}@example.net"])
        wire.send(
            f"Subject: first\r\n\r\nText{ending}MAIL FROM:<{account.sender}>\r\nRCPT TO:<{smuggled}>\r\nDATA\r\n"
            "Subject: smuggled\r\n\r\nText\r\n.\r\n".encode()
        )
        answer = wire.reply()
        assert (answer.code, answer.enhanced) in ((521, "5.5.2"), (521, "5.6.0"), (554, "5.6.0")), answer
        assert wire.is_closed() or answer.code == 554
    assert smuggled not in sink.recipients


def test_a_bare_line_feed_in_a_command_ends_the_connection(account: Account, wire: Wire) -> None:
    with nothing_happens(account):
        wire.send(f"MAIL FROM:<{account.sender}>\nRCPT TO:<r@example.net>\r\n".encode())
        assert wire.reply().code == 521
        assert wire.is_closed()


# -- clients that misbehave --------------------------------------------------------------------------------------------


def test_a_client_that_leaves_in_the_middle_of_its_message_leaves_nothing(account: Account) -> None:
    with nothing_happens(account):
        for cut in (b"", b"Subject: half", b"Subject: half\r\n\r\nText\r\n", b"\r\nText\r\n.\r"):
            with logged_in(account) as wire:
                wire.begin(account.sender, ["r@example.net"])
                wire.send(cut)


def test_unknown_commands_are_told_and_too_many_end_the_connection(stack: Stack) -> None:
    with Wire(stack.smtp_port) as wire:
        wire.ask("EHLO client.test")
        codes = [wire.ask(f"NONSENSE {number}").code for number in range(21)]
        assert set(codes[:20]) == {500} and codes[20] == 421
        assert wire.is_closed()


def test_a_client_that_never_reads_its_replies_does_not_hold_up_others(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    deaf = [Wire(stack.smtp_port) for _ in range(4)]
    try:
        for wire in deaf:
            wire.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError, OSError):
                wire.ask("EHLO client.test")
                for _ in range(100):
                    wire.send(b"EHLO client.test\r\n" * 4000)
        with logged_in(account) as good:
            assert is_alive(good, account, sink, f"deaf-{account.tenant}@example.net")
    finally:
        for wire in deaf:
            wire.close()


def test_the_reseller_is_not_charged_for_what_its_accounts_send(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    before = stack.operator.balance(RESELLER)
    with logged_in(account) as wire:
        assert is_alive(wire, account, sink, f"own-{account.tenant}@example.net")
    account.wait_until_charged(1)
    assert stack.operator.balance(RESELLER) == before


def _refused(answer: Answer, code: int, enhanced: str, said: str) -> bool:
    """Whether a reply is that refusal."""
    assert (answer.code, answer.enhanced) == (code, enhanced), answer
    assert said in answer.text, answer
    return True
