"""Every transcript against the pure server session: whole, octet by octet, and cut at random."""

import random
from pathlib import Path

import pytest

from mta.smtp import (
    AuthenticationOffer,
    AuthReceived,
    MailReceived,
    MessageReceived,
    RcptReceived,
    Reply,
    ServerConfig,
    ServerSession,
    StartTlsReceived,
    codes,
)
from tests.golden.dialogue import FOLDER, Dialogue, Step, load, play

TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))


def make_session(dialogue: Dialogue) -> ServerSession:
    """The session a transcript asks for."""
    words = dict(dialogue.settings)
    tls = words.pop("tls", None) is not None
    offer = AuthenticationOffer[words.pop("authentication", "never").upper()]
    flags = {name: True for name in ("starttls", "require_auth") if words.pop(name, None) is not None}
    limits = {name: int(value) for name, value in words.items()}
    config = ServerConfig("mx.test", authentication=offer, **flags, **limits)  # type: ignore[arg-type]
    return ServerSession(config, tls_active=tls)


def answer(event: object) -> Reply:
    """The policy of the transcripts: addresses and content say what is to be done with them."""
    match event:
        case MailReceived(path):
            return Reply(550, "5.7.1", "Sender refused") if path.startswith("refused") else codes.SENDER_OK
        case RcptReceived(path):
            if path.startswith("closing"):
                return codes.SHUTTING_DOWN
            return Reply(550, "5.1.1", "No such user") if path.startswith("refused") else codes.RECIPIENT_OK
        case MessageReceived(content):
            return Reply(554, "5.7.1", "Content refused") if content.startswith(b"X-Refuse:") else codes.OK
        case AuthReceived(_, authzid, username, password):
            good = authzid in ("", username) and (username, password) == ("user", "secret")
            return codes.AUTHENTICATED if good else codes.AUTH_REFUSED
        case StartTlsReceived():
            return codes.START_TLS
        case _:
            raise AssertionError(f"{event} needs no answer")


class PureTransport:
    """A server session in place of a connection, fed in pieces that ``cut`` chooses."""

    def __init__(self, session: ServerSession, cut: random.Random | int | None) -> None:
        self.session = session
        self.cut = cut
        self.received = bytearray()
        self.messages: list[bytes] = []
        session.greet()

    def send(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            if isinstance(self.cut, random.Random):
                length = self.cut.choice((1, 2, 3, 5, 17, 400))
            else:
                length = self.cut or len(data)
            self.session.feed(data[start : start + length])
            start += length
            self.pump()

    def pump(self) -> None:
        while (event := self.session.next_event()) is not None:
            if self.session.awaiting_reply:
                self.session.reply(answer(event))
            if isinstance(event, MessageReceived) and not event.content.startswith(b"X-Refuse:"):
                self.messages.append(event.content)
        assert not self.session.awaiting_reply

    def receive_line(self) -> bytes:
        self.received += self.session.take_output()
        line, end, rest = bytes(self.received).partition(b"\r\n")
        if not end:
            raise EOFError
        assert len(line) <= 510
        assert line.decode("ascii").isprintable()
        self.received[:] = rest
        return line

    def start_tls(self) -> None:
        self.session.tls_started()

    def is_open(self) -> bool:
        self.received += self.session.take_output()
        assert not self.received, f"the server has more to say: {bytes(self.received)!r}"
        return not self.session.closing

    def take_message(self) -> bytes | None:
        return self.messages.pop(0) if self.messages else None


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("cut", ["whole", "octets", "random"])
def test_dialogue(path: Path, cut: str) -> None:
    dialogue = load(path)
    if dialogue.whole_only and cut != "whole":
        pytest.skip("the dialogue depends on how the bytes are cut")
    if cut == "random":
        for seed in range(10):
            play(dialogue, PureTransport(make_session(dialogue), random.Random(seed)))
    else:
        play(dialogue, PureTransport(make_session(dialogue), 1 if cut == "octets" else None))


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 30


def test_malformed_transcript_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("X: what\n")
    with pytest.raises(ValueError, match=r"bad\.txt:1"):
        load(path)


def test_departure_is_named() -> None:
    dialogue = Dialogue("made up", {}, False, (Step("S", b"221 2.0.0 Bye", 7),))
    with pytest.raises(AssertionError, match="made up, line 7"):
        play(dialogue, PureTransport(make_session(dialogue), None))


def test_codes_alone_suffice_for_a_live_server() -> None:
    steps = (Step("S", b"220 another.example banner", 1), Step("C", b"NOOP\r\n", 2), Step("S", b"250 2.0.0 Fine", 3))
    dialogue = Dialogue("live", {}, False, steps)
    play(dialogue, PureTransport(make_session(dialogue), None), exact=False)
