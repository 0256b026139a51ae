"""The server session under streams nobody would write by hand: chunking never changes meaning, nothing escapes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mta.smtp import AuthenticationOffer, AuthReceived, MessageReceived, ServerConfig, ServerEvent, ServerSession, codes

CONFIG = ServerConfig(
    "mx.test",
    size_limit=200,
    recipients_limit=3,
    recipients_overshoot_limit=3,
    authentication=AuthenticationOffer.ALWAYS,
)

COMMANDS = [
    b"EHLO me\r\n",
    b"HELO me\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<a@b> SIZE=10 BODY=8BITMIME SMTPUTF8\r\n",
    b'MAIL FROM:<"a>b"@c>\r\n',
    b"MAIL FROM:<>\r\n",
    b"RCPT TO:<c@d>\r\n",
    b"RCPT TO:<\xc3\xa4@d>\r\n",
    b"DATA\r\n",
    b"text\r\n.\r\n",
    b"..\r\n.x\r\n.\r\n",
    b"x" * 150 + b"\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"\n.\r\n",
    b"\r.\r\n",
    b"RSET\r\n",
    b"NOOP \0\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN dQ==\r\n",
    b"AHUAcA==\r\n",
    b"*\r\n",
    b"x" * 600 + b"\r\n",
    b"BDAT 5\r\n",
    b"QUIT\r\n",
]
TRANSACTION = b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"

fragments = st.one_of(
    st.sampled_from(COMMANDS),
    st.just(TRANSACTION),
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"\0", b"a", b"\x0b", b"\xff"]), max_size=8).map(b"".join),
    st.binary(max_size=20),
)
streams = st.lists(fragments, max_size=25).map(b"".join)


def converse(pieces: list[bytes]) -> tuple[list[ServerEvent], bytes, str]:
    """Feed the pieces, agree to everything; events, output and final state."""
    session = ServerSession(CONFIG)
    session.greet()
    seen: list[ServerEvent] = []
    for piece in pieces:
        session.feed(piece)
        while (event := session.next_event()) is not None:
            seen.append(event)
            if session.awaiting_reply:
                session.reply(codes.AUTHENTICATED if isinstance(event, AuthReceived) else codes.OK)
    return seen, session.take_output(), f"{session.state} {session.closing} {session.authenticated}"


@settings(max_examples=300, deadline=None)
@given(streams, st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_chunking_never_changes_meaning(stream: bytes, lengths: list[int]) -> None:
    whole = converse([stream])
    assert converse([stream[i : i + 1] for i in range(len(stream))]) == whole
    pieces: list[bytes] = []
    start = 0
    while start < len(stream):
        length = lengths[len(pieces) % len(lengths)]
        pieces.append(stream[start : start + length])
        start += length
    assert converse(pieces) == whole


@settings(max_examples=300, deadline=None)
@given(streams)
def test_output_is_replies_and_nothing_else(stream: bytes) -> None:
    output = converse([stream])[1]
    assert output.endswith(b"\r\n")
    for line in output[:-2].split(b"\r\n"):
        assert len(line) <= 510
        assert line[:3].isdigit()
        assert line[3:4] in (b" ", b"-")
        assert line.decode("ascii").isprintable()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\0", b"x", b"\x0b", b"\xc2\x85"]), max_size=30)
)
def test_accepted_content_is_clean_and_never_more_than_one_message_per_end(parts: list[bytes]) -> None:
    data = b"".join(parts)
    seen, _, _ = converse([TRANSACTION + data + b"\r\n.\r\n"])
    messages = [event for event in seen if isinstance(event, MessageReceived)]
    assert len(messages) <= 1
    for message in messages:
        assert b"\0" not in message.content
        assert b"\r" not in message.content.replace(b"\r\n", b"")
        assert b"\n" not in message.content.replace(b"\r\n", b"")
        assert len(message.content) <= 200
