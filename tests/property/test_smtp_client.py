"""The client session against our server session and against noise.

Chunking never changes meaning, and nothing but events comes out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from mta.smtp import (
    ClientEvent,
    ClientSession,
    ClientState,
    MailReceived,
    MessageReceived,
    RcptReceived,
    Reply,
    ServerConfig,
    ServerSession,
    SessionRefused,
    Transaction,
    TransactionDone,
)

Cut = Callable[[bytes], list[bytes]]


@dataclass(frozen=True)
class Exchange:
    """One transaction and what the server makes of it: a code for MAIL, for each recipient, and for the content."""

    transaction: Transaction
    mail: int
    rcpt: tuple[int, ...]
    content: int


codes_of_replies = st.sampled_from([250, 250, 250, 450, 550])
lines = st.text(alphabet="ab. ", max_size=6).map(lambda line: line + "\r\n")


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    recipients = draw(st.lists(st.sampled_from(["c@d", "e@f", '"g >h"@i']), min_size=1, max_size=4))
    content = "".join(draw(st.lists(lines, max_size=6))).encode()
    rcpt = tuple(draw(codes_of_replies) for _ in recipients)
    return Exchange(
        Transaction("a@b", tuple(recipients), content), draw(codes_of_replies), rcpt, draw(codes_of_replies)
    )


def whole(data: bytes) -> list[bytes]:
    return [data]


def cutter(lengths: list[int]) -> Cut:
    def cut(data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        start = 0
        while start < len(data):
            length = lengths[len(pieces) % len(lengths)]
            pieces.append(data[start : start + length])
            start += length
        return pieces

    return cut


class Pair:
    """A client and a server session, joined by two streams that are cut as ``cut`` says."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.client = ClientSession("me.test")
        self.server = ServerSession(ServerConfig("mx.test", errors_limit=100))
        self.answers: list[int] = []
        self.contents: list[bytes] = []
        self.events: list[ClientEvent] = []
        self.server.greet()
        self.client.start()
        self.run()

    def run(self) -> None:
        """Carry bytes both ways until nobody says anything."""
        while True:
            to_client, to_server = self.server.take_output(), self.client.take_output()
            if not to_client and not to_server:
                return
            for piece in self.cut(to_client):
                self.client.feed(piece)
                while (event := self.client.next_event()) is not None:
                    self.events.append(event)
            for piece in self.cut(to_server):
                self.server.feed(piece)
                self.serve()

    def serve(self) -> None:
        while (event := self.server.next_event()) is not None:
            if isinstance(event, MessageReceived):
                self.contents.append(event.content)
            if isinstance(event, MailReceived | RcptReceived | MessageReceived):
                code = self.answers.pop(0)
                self.server.reply(Reply(code, f"{code // 100}.0.0", f"answer {code}"))

    def transact(self, exchange: Exchange) -> TransactionDone:
        """Send one transaction and give its outcome."""
        recipients = exchange.rcpt if exchange.mail == 250 else ()
        self.answers = [exchange.mail, *recipients]
        if 250 in recipients:
            self.answers.append(exchange.content)
        self.client.send(exchange.transaction)
        self.run()
        done = self.events[-1]
        assert isinstance(done, TransactionDone)
        assert not self.answers
        return done


@settings(max_examples=200, deadline=None)
@given(st.lists(exchanges(), min_size=1, max_size=4), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_two_sessions_agree_however_their_streams_are_cut(sequence: list[Exchange], lengths: list[int]) -> None:
    pairs = [Pair(whole), Pair(cutter([1])), Pair(cutter(lengths))]
    for exchange in sequence:
        outcomes = [pair.transact(exchange) for pair in pairs]
        assert outcomes[0] == outcomes[1] == outcomes[2]
        check(exchange, outcomes[0])
        for pair in pairs:
            assert pair.client.reusable
            assert not pair.client.after_final_dot
    assert pairs[0].contents == pairs[1].contents == pairs[2].contents
    expected = [item.transaction.content for item in sequence if item.mail == 250 and 250 in item.rcpt]
    assert pairs[0].contents == expected


def check(exchange: Exchange, done: TransactionDone) -> None:
    """Each recipient got the reply that decided about it."""
    assert [result.recipient for result in done.results] == list(exchange.transaction.recipients)
    for result, code in zip(done.results, exchange.rcpt, strict=True):
        deciding = exchange.mail if exchange.mail != 250 else code if code != 250 else exchange.content
        assert result.reply.code == deciding


noise = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"220 mx\r\n",
                b"250 ok\r\n",
                b"250-PIPELINING\r\n",
                b"354 go\r\n",
                b"421 bye\r\n",
                b"550 5.1.1 no\r\n",
                b"25",
            ]
        ),
        st.binary(max_size=30),
    ),
    max_size=20,
)


@settings(max_examples=300, deadline=None)
@given(noise, st.integers(0, 3))
def test_nothing_but_events_comes_of_noise(pieces: list[bytes], eagerness: int) -> None:
    client = ClientSession("me.test")
    client.start()
    for piece in [b"220 mx\r\n", b"250-mx\r\n250 PIPELINING\r\n"][:eagerness] + pieces:
        client.feed(piece)
        while (event := client.next_event()) is not None:
            if isinstance(event, SessionRefused):
                assert client.dead
        if client.reusable:
            client.send(Transaction("a@b", ("c@d", "e@f"), b"x\r\n"))
        elif client.state is ClientState.HANDSHAKE:
            client.tls_started()
    result = client.lost(Reply(451, "4.4.2", "Connection lost"))
    assert result is None or len(result.results) == 2
