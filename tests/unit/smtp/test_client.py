"""The client session: opening, TLS, transactions with and without pipelining, and every way a server can go wrong."""

import base64
from collections.abc import Sequence

import pytest

from mta.smtp import (
    AuthDone,
    AuthRefused,
    ClientEvent,
    ClientMisuseError,
    ClientSession,
    ClientState,
    EhloDone,
    Extension,
    Greeted,
    ProtocolError,
    QuitDone,
    RecipientResult,
    Reply,
    ResetDone,
    SaidBy,
    SessionRefused,
    Stage,
    StartTlsRefused,
    TlsReady,
    Transaction,
    TransactionDone,
    codes,
)

ALL = b"250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n"
PLAIN = b"250 mx\r\n"
MAIL = Transaction("a@b.test", ("c@d.test", "e@f.test"), b"hello\r\n")
GROUP = b"MAIL FROM:<a@b.test> SIZE=7\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@f.test>\r\nDATA\r\n"


def events(session: ClientSession, data: bytes) -> list[ClientEvent]:
    session.feed(data)
    seen = []
    while (event := session.next_event()) is not None:
        seen.append(event)
    return seen


def ready(ehlo: bytes = ALL) -> ClientSession:
    session = ClientSession("me.test")
    session.start()
    events(session, b"220 mx ESMTP\r\n")
    assert session.take_output() == b"EHLO me.test\r\n"
    events(session, ehlo)
    assert session.reusable
    return session


def done(session: ClientSession, data: bytes) -> TransactionDone:
    seen = events(session, data)
    assert len(seen) == 1
    assert isinstance(seen[0], TransactionDone)
    return seen[0]


def summary(results: Sequence[RecipientResult]) -> list[tuple[str, int, Stage]]:
    return [(result.recipient, result.reply.code, result.stage) for result in results]


# -- opening -----------------------------------------------------------------------------------------------------------


def test_opening() -> None:
    session = ClientSession("me.test")
    session.start()
    assert session.next_event() is None
    assert str(session.stage) == "Stage.GREETING"
    assert events(session, b"220-mx\r\n220 ESMTP\r\n") == [Greeted(Reply(220, None, "mx", "ESMTP"))]
    (event,) = events(session, ALL)
    assert isinstance(event, EhloDone)
    assert event.extensions is session.extensions
    assert event.extensions.pipelining
    assert event.extensions.size_limit == 1000
    assert session.stage is Stage.IDLE


def test_helo_when_ehlo_is_unknown() -> None:
    session = ClientSession("me.test")
    session.start()
    events(session, b"220 mx\r\n")
    session.take_output()
    assert events(session, b"500 what\r\n") == []
    assert session.take_output() == b"HELO me.test\r\n"
    (event,) = events(session, b"250 mx\r\n")
    assert isinstance(event, EhloDone)
    assert not event.extensions.pipelining
    assert session.reusable


@pytest.mark.parametrize(
    ("replies", "stage", "code"),
    [
        ([b"554 go away\r\n"], Stage.GREETING, 554),
        ([b"421 later\r\n"], Stage.GREETING, 421),
        ([b"220 mx\r\n", b"421 later\r\n"], Stage.EHLO, 421),
        ([b"220 mx\r\n", b"502 what\r\n", b"550 no\r\n"], Stage.EHLO, 550),
    ],
)
def test_session_refused(replies: list[bytes], stage: Stage, code: int) -> None:
    session = ClientSession("me.test")
    session.start()
    seen = [event for reply in replies for event in events(session, reply)]
    last = seen[-1]
    assert isinstance(last, SessionRefused)
    assert (last.stage, last.reply.code) == (stage, code)
    assert session.dead
    assert events(session, b"250 mx\r\n") == []
    session.quit()


@pytest.mark.parametrize("greeting", [b"354 go\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\r\n", b"220-a\r\n221 b\r\n"])
def test_not_an_smtp_server(greeting: bytes) -> None:
    session = ClientSession("me.test")
    session.start()
    (event,) = events(session, greeting)
    assert isinstance(event, ProtocolError)
    assert event.stage is Stage.GREETING
    assert session.dead


@pytest.mark.parametrize("name", ["", "a b", "a\r\nMAIL", "ä.test", "a\0"])
def test_bad_ehlo_name(name: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        ClientSession(name)


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_starttls() -> None:
    session = ready()
    session.start_tls()
    assert session.take_output() == b"STARTTLS\r\n"
    assert not session.reusable
    assert events(session, b"220 go\r\n") == [TlsReady(0)]
    session.feed(b"250 injected\r\n")
    assert session.next_event() is None
    session.tls_started()
    assert session.tls_active
    assert not session.extensions.pipelining
    assert session.take_output() == b"EHLO me.test\r\n"
    (event,) = events(session, PLAIN)
    assert isinstance(event, EhloDone)
    assert not event.extensions.starttls


def test_injected_replies_behind_starttls_are_discarded() -> None:
    session = ready()
    session.start_tls()
    injected = b"250-evil\r\n250 AUTH PLAIN\r\n"
    assert events(session, b"220 go\r\n" + injected) == [TlsReady(len(injected))]
    session.tls_started()
    assert session.next_event() is None
    (event,) = events(session, PLAIN)
    assert isinstance(event, EhloDone)
    assert not event.extensions.auth_mechanisms


def test_starttls_refused() -> None:
    session = ready()
    session.start_tls()
    (event,) = events(session, b"454 4.7.0 not now\r\n")
    assert isinstance(event, StartTlsRefused)
    assert session.reusable
    session.start_tls()
    (event,) = events(session, b"421 bye\r\n")
    assert isinstance(event, SessionRefused)
    assert event.stage is Stage.STARTTLS
    session = ready()
    session.start_tls()
    assert isinstance(events(session, b"250 what\r\n")[0], ProtocolError)


# -- transactions ------------------------------------------------------------------------------------------------------


def test_pipelined() -> None:
    session = ready()
    session.send(MAIL)
    assert (session.take_output(), session.after_final_dot) == (GROUP, False)
    assert events(session, b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n") == []
    assert (session.take_output(), session.after_final_dot) == (b"hello\r\n.\r\n", True)
    result = done(session, b"250 2.0.0 queued\r\n")
    queued = Reply(250, "2.0.0", "queued")
    assert result.data_reply == queued
    assert result.unsupported is None
    assert result.results == (
        RecipientResult("c@d.test", queued, Stage.FINAL_DOT, SaidBy.PEER),
        RecipientResult("e@f.test", queued, Stage.FINAL_DOT, SaidBy.PEER),
    )
    assert (session.after_final_dot, session.reusable) == (False, True)
    session.send(MAIL)
    assert session.take_output() == GROUP


def test_one_by_one() -> None:
    session = ready(PLAIN)
    session.send(MAIL)
    for written, reply in [
        (b"MAIL FROM:<a@b.test>\r\n", b"250 ok\r\n"),
        (b"RCPT TO:<c@d.test>\r\n", b"250 ok\r\n"),
        (b"RCPT TO:<e@f.test>\r\n", b"550 no\r\n"),
        (b"DATA\r\n", b"354 go\r\n"),
    ]:
        assert session.take_output() == written
        assert events(session, reply) == []
    assert session.take_output() == b"hello\r\n.\r\n"
    result = done(session, b"250 queued\r\n")
    assert summary(result.results) == [("c@d.test", 250, Stage.FINAL_DOT), ("e@f.test", 550, Stage.RCPT)]
    assert session.reusable


def test_content_is_stuffed_and_parameters_are_written() -> None:
    session = ready()
    session.send(Transaction("", ("ü@d.test",), b".x\r\n.", body8bit=True, smtputf8=True))
    assert (
        session.take_output() == "MAIL FROM:<> SIZE=5 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<ü@d.test>\r\nDATA\r\n".encode()
    )
    events(session, b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert session.take_output() == b"..x\r\n..\r\n.\r\n"


def test_some_recipients_refused() -> None:
    session = ready()
    session.send(MAIL)
    events(session, b"250 ok\r\n450 4.2.1 later\r\n250 ok\r\n354 go\r\n")
    result = done(session, b"554 5.7.1 spam\r\n")
    assert summary(result.results) == [("c@d.test", 450, Stage.RCPT), ("e@f.test", 554, Stage.FINAL_DOT)]
    assert session.reusable


def test_all_refused_but_354_gets_a_lone_dot() -> None:
    session = ready()
    session.send(MAIL)
    session.take_output()
    events(session, b"250 ok\r\n550 a\r\n551 b\r\n354 go\r\n")
    assert session.take_output() == b".\r\n"
    assert not session.after_final_dot
    result = done(session, b"250 thanks for nothing\r\n")
    assert summary(result.results) == [("c@d.test", 550, Stage.RCPT), ("e@f.test", 551, Stage.RCPT)]
    assert session.reusable


def test_all_refused_and_data_refused_leaves_an_open_transaction_that_is_reset() -> None:
    session = ready()
    session.send(MAIL)
    session.take_output()
    result = done(session, b"250 ok\r\n550 a\r\n551 b\r\n554 no valid recipients\r\n")
    assert summary(result.results) == [("c@d.test", 550, Stage.RCPT), ("e@f.test", 551, Stage.RCPT)]
    assert result.data_reply == Reply(554, None, "no valid recipients")
    session.send(MAIL)
    assert session.take_output() == b"RSET\r\n" + GROUP
    assert session.stage is Stage.RSET
    assert events(session, b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n") == []
    assert session.take_output() == b"hello\r\n.\r\n"
    assert len(done(session, b"250 ok\r\n").results) == 2
    session.send(MAIL)
    assert session.take_output() == GROUP


def test_all_refused_one_by_one() -> None:
    session = ready(PLAIN)
    session.send(MAIL)
    events(session, b"250 ok\r\n")
    events(session, b"550 a\r\n")
    result = done(session, b"551 b\r\n")
    assert summary(result.results) == [("c@d.test", 550, Stage.RCPT), ("e@f.test", 551, Stage.RCPT)]
    assert session.reusable
    session.take_output()
    session.send(MAIL)
    assert session.take_output() == b"RSET\r\n"
    assert events(session, b"250 ok\r\n") == []
    assert session.take_output() == b"MAIL FROM:<a@b.test>\r\n"


def test_mail_refused() -> None:
    session = ready()
    session.send(MAIL)
    assert session.take_output() == GROUP
    result = done(session, b"452 4.3.1 full\r\n503 a\r\n503 b\r\n503 c\r\n")
    assert summary(result.results) == [("c@d.test", 452, Stage.MAIL), ("e@f.test", 452, Stage.MAIL)]
    session.send(MAIL)
    assert session.take_output() == GROUP
    events(session, b"550 no\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert session.take_output() == b".\r\n"
    result = done(session, b"250 ok\r\n")
    assert summary(result.results) == [("c@d.test", 550, Stage.MAIL), ("e@f.test", 550, Stage.MAIL)]
    assert session.reusable


def test_mail_refused_one_by_one() -> None:
    session = ready(PLAIN)
    session.send(MAIL)
    result = done(session, b"550 no\r\n")
    assert summary(result.results) == [("c@d.test", 550, Stage.MAIL), ("e@f.test", 550, Stage.MAIL)]
    assert result.data_reply is None
    assert session.reusable


def test_data_refused() -> None:
    for session in (ready(), ready(PLAIN)):
        session.send(MAIL)
        for reply in (b"250 ok\r\n", b"250 ok\r\n", b"550 no\r\n"):
            events(session, reply)
        result = done(session, b"451 4.3.0 later\r\n")
        assert summary(result.results) == [("c@d.test", 451, Stage.DATA), ("e@f.test", 550, Stage.RCPT)]
        assert session.reusable


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (b"421 bye\r\n", [(421, Stage.MAIL), (421, Stage.MAIL)]),
        (b"250 ok\r\n421 bye\r\n", [(421, Stage.RCPT), (421, Stage.RCPT)]),
        (b"250 ok\r\n550 no\r\n421 bye\r\n", [(550, Stage.RCPT), (421, Stage.RCPT)]),
        (b"250 ok\r\n250 ok\r\n421 bye\r\n", [(421, Stage.RCPT), (421, Stage.RCPT)]),
        (b"250 ok\r\n250 ok\r\n550 no\r\n421 bye\r\n", [(421, Stage.DATA), (550, Stage.RCPT)]),
    ],
)
def test_421_kills_the_session(replies: bytes, expected: list[tuple[int, Stage]]) -> None:
    session = ready()
    session.send(MAIL)
    result = done(session, replies)
    assert [(item.reply.code, item.stage) for item in result.results] == expected
    assert {item.said_by for item in result.results} == {SaidBy.PEER}
    assert session.dead
    assert not session.reusable


def test_421_to_the_final_dot() -> None:
    session = ready()
    session.send(MAIL)
    events(session, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    result = done(session, b"421 bye\r\n")
    assert summary(result.results) == [("c@d.test", 421, Stage.FINAL_DOT), ("e@f.test", 421, Stage.FINAL_DOT)]
    assert session.dead


def test_421_to_the_reset_before_a_transaction() -> None:
    session = ready()
    session.send(MAIL)
    done(session, b"250 ok\r\n550 a\r\n551 b\r\n554 no\r\n")
    session.send(MAIL)
    assert [item.reply.code for item in done(session, b"421 bye\r\n").results] == [421, 421]
    assert session.dead


@pytest.mark.parametrize(
    ("transaction", "code", "unsupported"),
    [
        (Transaction("a@b.test", ("ü@d.test",), b"x", smtputf8=True), 550, Extension.SMTPUTF8),
        (Transaction("a@b.test", ("c@d.test",), b"\xff", body8bit=True), 554, Extension.EIGHT_BIT_MIME),
        (Transaction("a@b.test", ("c@d.test",), b"x" * 11), 552, None),
    ],
)
def test_what_the_server_cannot_take_is_not_sent(
    transaction: Transaction, code: int, unsupported: Extension | None
) -> None:
    session = ready(b"250-mx\r\n250 SIZE 10\r\n")
    session.send(transaction)
    assert session.take_output() == b""
    assert not session.reusable
    event = session.next_event()
    assert isinstance(event, TransactionDone)
    assert event.unsupported is unsupported
    assert [(item.reply.code, item.said_by) for item in event.results] == [(code, SaidBy.LOCAL)]
    assert session.reusable


@pytest.mark.parametrize(
    "transaction",
    [
        Transaction("a@b.test", (), b"x"),
        Transaction("a@b.test\r\nDATA", ("c@d.test",), b"x"),
        Transaction("a@b.test", ("c@d.test> X=<",), b"x"),
        Transaction("a@b.test", ("c@d.test\0",), b"x"),
        Transaction("a@b.test", ("ü@d.test",), b"x"),
        Transaction("a@b.test", ("c@d.test",), b"x\n.\r\n"),
        Transaction("a@b.test", ("c@d.test",), b"x\0"),
    ],
)
def test_what_must_not_be_sent_to_anybody(transaction: Transaction) -> None:
    session = ready()
    with pytest.raises(ValueError, match=r"."):
        session.send(transaction)
    assert session.take_output() == b""
    assert session.reusable


# -- out of step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "stage"),
    [
        (b"354 go\r\n", Stage.MAIL),
        (b"250 ok\r\n354 go\r\n", Stage.RCPT),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n", Stage.DATA),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n", Stage.DATA),
        (b"250 ok\r\nwhat\r\n", Stage.RCPT),
        (b"250 ok\r\n" + b"x" * 3000, Stage.RCPT),
    ],
)
def test_protocol_errors(replies: bytes, stage: Stage) -> None:
    session = ready()
    session.send(MAIL)
    (event,) = events(session, replies)
    assert isinstance(event, ProtocolError)
    assert event.stage is stage
    assert session.dead
    result = session.lost(codes.LOCAL_TOO_LARGE)
    assert result is not None
    assert [(item.stage, item.said_by) for item in result.results] == [(stage, SaidBy.LOCAL)] * 2
    assert session.lost(codes.LOCAL_TOO_LARGE) is None


def test_intermediate_reply_to_the_final_dot() -> None:
    session = ready()
    session.send(MAIL)
    events(session, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    (event,) = events(session, b"354 again\r\n")
    assert isinstance(event, ProtocolError)
    assert session.after_final_dot


def test_lost() -> None:
    local = Reply(451, "4.4.2", "Connection lost")
    session = ready()
    assert session.lost(local) is None
    session = ready()
    session.send(MAIL)
    events(session, b"250 ok\r\n550 no\r\n")
    result = session.lost(local)
    assert result is not None
    assert [(item.reply.code, item.stage, item.said_by) for item in result.results] == [
        (550, Stage.RCPT, SaidBy.PEER),
        (451, Stage.RCPT, SaidBy.LOCAL),
    ]
    assert not session.after_final_dot
    session = ready()
    session.send(MAIL)
    events(session, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert session.after_final_dot
    result = session.lost(local)
    assert result is not None
    assert {item.stage for item in result.results} == {Stage.FINAL_DOT}
    assert session.after_final_dot


@pytest.mark.parametrize("data", [b"2", b"250 ok\r\n", b"250-a\r\n", b"421 idle\r\n"])
def test_unsolicited_bytes_make_a_session_unfit(data: bytes) -> None:
    session = ready()
    session.feed(data)
    assert not session.reusable
    event = session.next_event()
    if data.startswith(b"421"):
        assert isinstance(event, SessionRefused)
        assert event.stage is Stage.IDLE
    elif data.endswith(b" ok\r\n"):
        assert isinstance(event, ProtocolError)
    else:
        assert event is None
        assert not session.reusable


def test_unsolicited_bytes_are_bounded() -> None:
    session = ready()
    for _ in range(1000):
        session.feed(b"x" * 1000)
    assert session._replies.buffered < 4096
    assert isinstance(session.next_event(), ProtocolError)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_reset_and_quit() -> None:
    session = ready()
    session.reset()
    assert session.take_output() == b"RSET\r\n"
    assert events(session, b"250 ok\r\n") == [ResetDone(Reply(250, None, "ok"))]
    session.quit()
    assert session.take_output() == b"QUIT\r\n"
    assert not session.reusable
    assert events(session, b"221 bye\r\n") == [QuitDone(Reply(221, None, "bye"))]
    assert session.dead
    session = ready()
    session.reset()
    assert isinstance(events(session, b"500 what\r\n")[0], SessionRefused)


def test_misuse() -> None:
    session = ClientSession("me.test")
    for call in (session.reset, session.start_tls, session.tls_started, session.quit):
        with pytest.raises(ClientMisuseError):
            call()
    session = ready()
    session.send(MAIL)
    with pytest.raises(ClientMisuseError, match="transaction"):
        session.send(MAIL)
    with pytest.raises(ClientMisuseError):
        session.start()
    assert session.state is ClientState.TRANSACTION
    assert repr(session) == "<ClientSession transaction, mail>"


# -- AUTH ------------------------------------------------------------------------------------------------------------


def with_auth(mechanisms: str) -> ClientSession:
    return ready(f"250-mx\r\n250 AUTH {mechanisms}\r\n".encode())


def test_plain_goes_out_with_its_initial_response() -> None:
    session = with_auth("LOGIN PLAIN")
    assert session.authenticate("user", "pass")
    assert session.take_output() == b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n"
    assert (session.state, session.stage) == (ClientState.AUTHENTICATING, Stage.AUTH)
    assert "pass" not in repr(session)
    assert events(session, b"235 2.7.0 welcome\r\n") == [AuthDone(Reply(235, "2.7.0", "welcome"))]
    assert session.reusable


def test_a_long_plain_response_waits_for_its_turn() -> None:
    session = with_auth("PLAIN")
    assert session.authenticate("u" * 300, "p" * 300)
    assert session.take_output() == b"AUTH PLAIN\r\n"
    assert events(session, b"334 \r\n") == []
    response = base64.b64decode(session.take_output().strip())
    assert response == b"\0" + b"u" * 300 + b"\0" + b"p" * 300
    assert isinstance(events(session, b"235 ok\r\n")[0], AuthDone)


def test_login_is_asked_for_name_and_password() -> None:
    session = with_auth("CRAM-MD5 LOGIN")
    assert session.authenticate("üser", "pass")
    assert session.take_output() == b"AUTH LOGIN\r\n"
    assert events(session, b"334 VXNlcm5hbWU6\r\n") == []
    assert base64.b64decode(session.take_output()) == "üser".encode()
    assert events(session, b"334 UGFzc3dvcmQ6\r\n") == []
    assert base64.b64decode(session.take_output()) == b"pass"
    assert isinstance(events(session, b"235 ok\r\n")[0], AuthDone)


@pytest.mark.parametrize("code", [432, 454, 500, 504, 530, 534, 535, 538])
def test_a_refused_login_leaves_the_session_ready(code: int) -> None:
    session = with_auth("PLAIN")
    session.authenticate("user", "pass")
    session.take_output()
    assert events(session, f"{code} no\r\n".encode()) == [AuthRefused(Reply(code, None, "no"))]
    assert session.reusable


@pytest.mark.parametrize("reply", [b"334 more\r\n", b"250 what\r\n", b"354 what\r\n", b"421 4.3.2 bye\r\n", b"2x\r\n"])
def test_an_answer_to_auth_that_cannot_be_ends_the_session(reply: bytes) -> None:
    session = with_auth("PLAIN")
    session.authenticate("user", "pass")
    session.take_output()
    (event,) = events(session, reply)
    assert isinstance(event, SessionRefused if reply.startswith(b"421") else ProtocolError)
    assert session.dead
    assert session.take_output() == b""


def test_without_a_mechanism_of_ours_nothing_is_sent() -> None:
    for session in (with_auth("GSSAPI XOAUTH2"), ready(PLAIN)):
        assert not session.authenticate("user", "pass")
        assert session.take_output() == b""
        assert session.reusable
    with pytest.raises(ClientMisuseError):
        ClientSession("me.test").authenticate("user", "pass")
