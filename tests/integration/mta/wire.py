"""A client that says exactly what a test tells it to, byte for byte, and reads one reply at a time. Blocking.

::

    with Wire(stack.smtp_port) as wire:
        assert wire.ask("EHLO client.test").code == 250

Errors: ``Closed`` when the server has closed instead of answering; ``TimeoutError`` when it says nothing.
"""

import base64
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.stack import Login

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3}) ")
SECONDS = 60.0


class Closed(Exception):
    """The server has closed the connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply."""

    code: int
    enhanced: str
    text: str
    """What follows the codes, lines joined by a newline."""


class Wire:
    """One connection; ``greeting`` is the first reply. With ``tls`` the handshake comes first."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.socket: socket.socket = socket.create_connection((host, port), timeout=SECONDS)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._received = b""
        self.greeting = self.reply()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def reply(self) -> Answer:
        """Read one reply."""
        lines: list[str] = []
        while True:
            line = self._line()
            lines.append(line)
            if line[3:4] != "-":
                break
        code = int(lines[0][:3])
        texts = [line[4:] for line in lines]
        found = _ENHANCED.match(texts[0] + " ")
        if found is None:
            return Answer(code, "", "\n".join(texts))
        return Answer(code, found[1], "\n".join(text.removeprefix(found[1]).strip() for text in texts))

    def replies(self, count: int) -> list[Answer]:
        """Read some replies."""
        return [self.reply() for _ in range(count)]

    def ask(self, line: str) -> Answer:
        """Send one line and read the reply."""
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def start_tls(self, context: ssl.SSLContext) -> Answer:
        """STARTTLS, the handshake, EHLO; the reply to that."""
        assert self.ask("EHLO client.test").code == 250
        assert self.ask("STARTTLS").code == 220
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._received = b""
        return self.ask("EHLO client.test")

    def log_in(self, login: Login) -> Answer:
        """AUTH PLAIN with an initial response."""
        return self.ask(f"AUTH PLAIN {plain(login)}")

    def begin(self, sender: str, recipients: Iterable[str]) -> None:
        """MAIL, RCPT and DATA, all of which must be taken."""
        reply = self.ask(f"MAIL FROM:<{sender}>")
        assert reply.code == 250, reply
        for recipient in recipients:
            answer = self.ask(f"RCPT TO:<{recipient}>")
            assert answer.code == 250, answer
        assert self.ask("DATA").code == 354

    def rest(self) -> list[Answer]:
        """What the server still says before it closes."""
        answers = []
        try:
            while True:
                answers.append(self.reply())
        except Closed:
            return answers

    def is_closed(self) -> bool:
        """Wait until the server closes; False if it says something first."""
        return self.rest() == []

    def close(self) -> None:
        """Close without a word."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self) -> str:
        while b"\r\n" not in self._received:
            try:
                data = self.socket.recv(65536)
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed(f"the server closed; unfinished: {self._received!r}")
            self._received += data
        line, _, self._received = self._received.partition(b"\r\n")
        return line.decode("ascii")


def plain(login: Login) -> str:
    """The response of SASL PLAIN."""
    return encoded(f"\0{login.username}\0{login.password}")


def encoded(text: str) -> str:
    """Base64, as AUTH wants it."""
    return base64.b64encode(text.encode()).decode()
