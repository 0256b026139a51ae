"""The server session: its table, its three lifetimes, its limits, the caller's side.

Dialogues are in tests/golden/smtp.
"""

import pytest

from mta.smtp import (
    AuthenticationOffer,
    AuthReceived,
    CommandRefused,
    EhloReceived,
    MailReceived,
    MessageReceived,
    QuitReceived,
    RcptReceived,
    Reply,
    ServerConfig,
    ServerEvent,
    ServerSession,
    SessionMisuseError,
    StartTlsReceived,
    State,
    codes,
)
from mta.smtp.server import COMMANDS, TRANSITIONS
from mta.smtp.serverconfig import MAIL_LINE_LIMIT

CONFIG = ServerConfig("mx.test", starttls=True, authentication=AuthenticationOffer.ALWAYS)


def events(session: ServerSession, data: bytes) -> list[ServerEvent]:
    """Feed, answer everything with what the client hopes for, and give the events."""
    session.feed(data)
    seen = []
    while (event := session.next_event()) is not None:
        seen.append(event)
        if isinstance(event, AuthReceived):
            session.reply(codes.AUTHENTICATED)
        elif isinstance(event, StartTlsReceived):
            session.reply(codes.START_TLS)
        elif session.awaiting_reply:
            session.reply(codes.OK)
    return seen


TO_STATE = {
    State.START: b"",
    State.READY: b"EHLO me\r\n",
    State.MAIL: b"EHLO me\r\nMAIL FROM:<a@b>\r\n",
    State.RCPT: b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
}
SAMPLES = {
    "EHLO": "EHLO me",
    "HELO": "HELO me",
    "MAIL": "MAIL FROM:<a@b>",
    "RCPT": "RCPT TO:<c@d>",
    "VRFY": "VRFY me",
    "AUTH": "AUTH PLAIN AHUAcA==",
    "BDAT": "BDAT 1",
}
IN_ORDER = {
    State.START: set(),
    State.READY: {"MAIL", "STARTTLS", "AUTH"},
    State.MAIL: {"RCPT"},
    State.RCPT: {"RCPT", "DATA"},
}
ANYWHERE = {"EHLO", "HELO", "RSET", "NOOP", "VRFY", "HELP", "QUIT"}
NEVER = {"EXPN": 502, "BDAT": 521}


def in_state(state: State) -> ServerSession:
    session = ServerSession(CONFIG)
    events(session, TO_STATE[state])
    assert session.state is state
    session.take_output()
    return session


def test_the_table_has_every_command_in_every_state_that_takes_commands() -> None:
    takes_none = {State.AUTH, State.DATA, State.HANDSHAKE, State.CLOSED}
    assert set(TRANSITIONS) == set(State) - takes_none
    for row in TRANSITIONS.values():
        assert set(row) == set(COMMANDS)


@pytest.mark.parametrize("state", TRANSITIONS)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_in_each_state(state: State, command: str) -> None:
    session = in_state(state)
    seen = events(session, SAMPLES.get(command, command).encode() + b"\r\n")
    code = int(session.take_output()[:3])
    if command in NEVER:
        assert code == NEVER[command]
    elif command in IN_ORDER[state] | ANYWHERE:
        assert code < 400
        assert not any(isinstance(event, CommandRefused) for event in seen)
    else:
        assert code == 503
        assert session.state is state
        assert [type(event) for event in seen] == [CommandRefused]
        refused = seen[0]
        assert isinstance(refused, CommandRefused)
        assert refused.command == command


@pytest.mark.parametrize("state", TRANSITIONS)
def test_ehlo_and_rset_drop_the_transaction(state: State) -> None:
    for command in (b"EHLO me\r\n", b"RSET\r\n"):
        session = in_state(state)
        events(session, command)
        assert session._transaction is None
        assert session.state is (State.START if state is State.START and command == b"RSET\r\n" else State.READY)


def test_starttls_drops_session_transaction_and_buffer() -> None:
    session = in_state(State.READY)
    assert events(session, b"AUTH PLAIN AHUAcA==\r\n") == [AuthReceived("PLAIN", "", "u", "p")]
    assert (session.authenticated, session.tls_active) == (True, False)
    before = session._session
    assert events(session, b"STARTTLS\r\n") == [StartTlsReceived()]
    assert (session.state, session.buffered) == (State.HANDSHAKE, 0)
    session.feed(b"EHLO injected\r\n")
    assert (session.next_event(), session.buffered) == (None, 0)
    session.tls_started()
    assert session._session is not before
    assert (session.authenticated, session.tls_active) == (False, True)
    assert (session.next_event(), session.state) == (None, State.START)


def test_clear_text_fed_while_starttls_awaits_its_answer_ends_the_session() -> None:
    session = in_state(State.READY)
    session.feed(b"STARTTLS\r\n")
    assert session.next_event() == StartTlsReceived()
    session.feed(b"MAIL FROM:<injected@b>\r\n")
    session.reply(codes.START_TLS)
    assert session.closing
    assert session.take_output() == codes.CLEARTEXT_AFTER_STARTTLS.render()


def test_starttls_refused_by_the_caller() -> None:
    session = in_state(State.READY)
    session.feed(b"STARTTLS\r\n")
    session.next_event()
    session.reply(Reply(454, "4.7.0", "TLS not available"))
    assert session.state is State.READY
    assert events(session, b"NOOP\r\n") == []


def test_events_of_a_transaction() -> None:
    session = ServerSession(CONFIG)
    assert events(
        session,
        b"HELO me\r\nMAIL FROM:<> SIZE=5 BODY=8bitmime SMTPUTF8\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
    ) == [
        EhloReceived("me", esmtp=False),
        MailReceived("", {"SIZE": "5", "BODY": "8bitmime", "SMTPUTF8": None}),
        RcptReceived("c@d", {}),
        MessageReceived(b"x\r\n"),
        QuitReceived(),
    ]
    mail = MailReceived("", {"SIZE": "5", "BODY": "8bitmime", "SMTPUTF8": None})
    assert (mail.size, mail.body8bit, mail.smtputf8) == (5, True, True)
    mail = MailReceived("", {})
    assert (mail.size, mail.body8bit, mail.smtputf8) == (None, False, False)


def test_an_event_pauses_the_session_until_its_answer() -> None:
    session = in_state(State.READY)
    session.feed(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
    assert isinstance(session.next_event(), MailReceived)
    assert session.awaiting_reply
    assert session.next_event() is None
    assert session.buffered == len(b"RCPT TO:<c@d>\r\n")
    session.reply(codes.SENDER_OK)
    assert isinstance(session.next_event(), RcptReceived)


def test_misuse() -> None:
    session = in_state(State.READY)
    with pytest.raises(SessionMisuseError, match="no event"):
        session.reply(codes.OK)
    with pytest.raises(SessionMisuseError, match="handshake"):
        session.tls_started()
    session.feed(b"MAIL FROM:<a@b>\r\n")
    session.next_event()
    with pytest.raises(SessionMisuseError, match="354"):
        session.reply(codes.START_DATA)
    session.reply(codes.OK)


def test_password_is_not_in_the_repr() -> None:
    assert "secret" not in repr(AuthReceived("PLAIN", "", "user", "secret"))


def test_repr_shows_state_and_counts() -> None:
    session = in_state(State.READY)
    session.feed(b"FOO\r\nMAIL FROM:<a@b>\r\nNOOP")
    session.next_event()
    session.next_event()
    assert repr(session) == "<ServerSession no transaction, awaiting reply, 4 octets buffered, 1 errors>"
    assert repr(MessageReceived(b"12345")) == "MessageReceived(<5 octets>)"


@pytest.mark.parametrize("state", TRANSITIONS)
def test_close_with(state: State) -> None:
    session = in_state(state)
    session.feed(b"NOOP")
    session.close_with(codes.TIMED_OUT)
    assert session.closing
    session.feed(b"\r\nNOOP\r\n")
    assert session.next_event() is None
    assert session.take_output() == codes.TIMED_OUT.render()
    assert session.take_output() == b""


def test_close_with_while_data_is_coming_and_while_an_event_waits() -> None:
    session = in_state(State.RCPT)
    events(session, b"DATA\r\nhalf a mess")
    session.close_with(codes.SHUTTING_DOWN)
    assert session.next_event() is None
    session = in_state(State.READY)
    session.feed(b"MAIL FROM:<a@b>\r\n")
    session.next_event()
    session.close_with(codes.SHUTTING_DOWN)
    assert not session.awaiting_reply


def test_mail_line_limit_and_one_more() -> None:
    for octets, code in ((MAIL_LINE_LIMIT, b"555"), (MAIL_LINE_LIMIT + 1, b"500")):
        session = in_state(State.READY)
        line = b"MAIL FROM:<a@b> X="
        events(session, line + b"x" * (octets - 2 - len(line)) + b"\r\n")
        assert session.take_output()[:3] == code


@pytest.mark.parametrize(
    ("config", "command", "code"),
    [
        (ServerConfig("mx.test", errors_limit=20), b"FOO\r\n", b"500"),
        (ServerConfig("mx.test", junk_limit=100), b"NOOP\r\n", b"250"),
        (ServerConfig("mx.test", junk_limit=100), b"RSET\r\n", b"250"),
        (ServerConfig("mx.test", junk_limit=100), b"HELP\r\n", b"214"),
        (ServerConfig("mx.test", junk_limit=100), b"VRFY x\r\n", b"252"),
        (ServerConfig("mx.test", junk_limit=100), b"HELO x\r\n", b"250"),
    ],
)
def test_patience_limits_and_one_more(config: ServerConfig, command: bytes, code: bytes) -> None:
    session = ServerSession(config)
    limit = config.errors_limit if code == b"500" else config.junk_limit
    events(session, command * limit)
    replies = session.take_output().splitlines()
    assert len(replies) == limit
    assert {reply[:3] for reply in replies} == {code}
    assert not session.closing
    events(session, command * 100_000)
    assert session.take_output()[:9] == b"421 4.7.0"
    assert session.closing


def test_recipients_limit_and_one_more() -> None:
    session = ServerSession(ServerConfig("mx.test"))
    seen = events(session, TO_STATE[State.MAIL] + b"RCPT TO:<c@d>\r\n" * 1001)
    assert sum(isinstance(event, RcptReceived) for event in seen) == 1000
    assert session.take_output().endswith(codes.TOO_MANY_RECIPIENTS.render())
    assert not session.closing


def test_authentication_may_differ_from_the_configured_offer() -> None:
    config = ServerConfig("mx.test", authentication=AuthenticationOffer.TLS_ONLY)
    session = ServerSession(config, authentication=AuthenticationOffer.ALWAYS)
    events(session, b"EHLO me\r\n")
    assert b"AUTH PLAIN LOGIN" in session.take_output()
    session = ServerSession(config)
    events(session, b"EHLO me\r\n")
    assert b"AUTH" not in session.take_output()


@pytest.mark.parametrize(
    "settings",
    [
        {"hostname": "two words"},
        {"hostname": "a\r\nb"},
        {"hostname": ""},
        {"hostname": "ä.test"},
        {"hostname": "a", "size_limit": 0},
        {"hostname": "a", "recipients_limit": 0},
        {"hostname": "a", "errors_limit": -1},
    ],
)
def test_impossible_configurations(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"host name|must"):
        ServerConfig(**settings)  # type: ignore[arg-type]


def test_enhanced_codes_are_on_every_refusal() -> None:
    session = ServerSession(CONFIG)
    events(session, b"FOO\r\nMAIL\r\nEHLO\r\nEHLO me\r\nMAIL x\r\nAUTH X\r\nVRFY\r\nEXPN x\r\nDATA\r\nNOOP\0\r\n")
    replies = [line for line in session.take_output().splitlines() if line[:1] in b"45"]
    assert len(replies) == 9
    for reply in replies:
        assert reply[4:6] in (b"5.", b"4.")
