"""What a peer did: the events of both session machines, and the outcome of a client transaction.

The server session (:mod:`mta.smtp.server`) gives :data:`ServerEvent`; the client session (:mod:`mta.smtp.client`)
gives :data:`ClientEvent`. Events are values. Those made for every message are slotted but not frozen, because building
a frozen dataclass costs 2 to 3 times as much (about 0.4 us each, measured by ``benchmarks/micro/bench_smtp.py``);
nobody assigns to them.

Server events marked *pauses* stop the session until the caller has answered with ``ServerSession.reply``.
"""

import enum
from dataclasses import dataclass, field

from mta.smtp.extensions import Extension, Extensions
from mta.smtp.reply import Reply

# -- server ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EhloReceived:
    """The client named itself; already answered. ``esmtp`` is false after HELO. Does not pause."""

    name: str
    esmtp: bool


@dataclass(slots=True)
class MailReceived:
    """MAIL FROM with valid syntax and permitted parameters. *Pauses.*

    ``path``        between the angle brackets, source route removed; ``""`` is the null reverse-path.
    ``parameters``  keyword in upper case → value, ``None`` when the keyword came without ``=``.
    """

    path: str
    parameters: dict[str, str | None]

    @property
    def size(self) -> int | None:
        """The declared SIZE in octets (RFC 1870), ``None`` when the client declared none."""
        value = self.parameters.get("SIZE")
        return None if value is None else int(value)

    @property
    def body8bit(self) -> bool:
        """BODY=8BITMIME was given (RFC 6152)."""
        return (self.parameters.get("BODY") or "").upper() == "8BITMIME"

    @property
    def smtputf8(self) -> bool:
        """SMTPUTF8 was given (RFC 6531)."""
        return "SMTPUTF8" in self.parameters


@dataclass(slots=True)
class RcptReceived:
    """RCPT TO with valid syntax. *Pauses.* A 2yz answer accepts the recipient into the transaction."""

    path: str
    parameters: dict[str, str | None]


@dataclass(slots=True)
class MessageReceived:
    """The whole message, dots removed, every line ended by CRLF, free of NUL. *Pauses.*

    The answer ends the transaction, whatever it is.
    """

    content: bytes

    def __repr__(self) -> str:
        return f"MessageReceived(<{len(self.content)} octets>)"


@dataclass(frozen=True, slots=True)
class AuthReceived:
    """A finished SASL dialogue. *Pauses.* Answer 235 to authenticate the session, anything else to refuse.

    ``authzid`` is the identity to act as, ``""`` when the client named none.
    """

    mechanism: str
    authzid: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTlsReceived:
    """STARTTLS. *Pauses.* After answering 220: flush, do the handshake, then call ``tls_started()``."""


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """The session itself answered a command, or message data, with 4yz or 5yz. For logs and counters; does not pause.

    ``command`` is the verb in upper case when it is a known one, ``"DATA"`` for message data, else ``"?"``.
    """

    command: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class QuitReceived:
    """QUIT, already answered 221; ``closing`` is set. Does not pause."""


ServerEvent = (
    EhloReceived
    | MailReceived
    | RcptReceived
    | MessageReceived
    | AuthReceived
    | StartTlsReceived
    | CommandRefused
    | QuitReceived
)

# -- client ----------------------------------------------------------------------------------------------------------


class Stage(enum.Enum):
    """Which command a reply answers."""

    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    IDLE = "idle"
    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    FINAL_DOT = "final_dot"
    QUIT = "quit"


class SaidBy(enum.Enum):
    """Who decided: the remote server, or this session before or without asking it."""

    PEER = "peer"
    LOCAL = "local"


@dataclass(slots=True)
class RecipientResult:
    """What became of one recipient in one transaction: the deciding reply, the command it answered, who said it.

    The recipient was delivered exactly when ``stage`` is ``FINAL_DOT`` and the reply is 2yz.
    """

    recipient: str
    reply: Reply
    stage: Stage
    said_by: SaidBy


@dataclass(frozen=True, slots=True)
class Greeted:
    """The server's 220 banner arrived; EHLO has been written."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class EhloDone:
    """EHLO (or HELO after a 5yz to EHLO: then no extension is set) was answered; the session is ready."""

    extensions: Extensions
    reply: Reply


@dataclass(frozen=True, slots=True)
class TlsReady:
    """STARTTLS was answered 220: flush nothing more, do the handshake, then call ``tls_started()``.

    ``discarded`` counts octets that came with the 220 in clear text; they are dropped, and a count above zero means
    that somebody tried response injection (RFC 3207 §5).
    """

    discarded: int


@dataclass(frozen=True, slots=True)
class StartTlsRefused:
    """STARTTLS was refused; the session is still ready in clear text, if the caller's policy allows that."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class AuthDone:
    """The server took the username and password; the session is ready."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class AuthRefused:
    """The server refused the username and password, for now (4yz) or as they are (5yz). The session is still ready."""

    reply: Reply


@dataclass(slots=True)
class TransactionDone:
    """One result per recipient, in the order of the transaction.

    ``data_reply``   the answer to the final dot, or to a refused DATA; ``None`` when it came to neither.
    ``unsupported``  the extension the message needs and the server does not offer; then nothing was sent, each result
                     is said by us, and the caller may convert the message and send it again.
    """

    results: tuple[RecipientResult, ...]
    data_reply: Reply | None
    unsupported: Extension | None = None


@dataclass(frozen=True, slots=True)
class ResetDone:
    """RSET was answered positively."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class QuitDone:
    """QUIT was answered; close the connection."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """The server will not serve this session (refused greeting, EHLO or RSET, or 421 while idle). It is dead."""

    reply: Reply
    stage: Stage


@dataclass(frozen=True, slots=True)
class ProtocolError:
    """The server broke the protocol. The session is dead; for a transaction in flight call ``lost()``."""

    text: str
    stage: Stage


ClientEvent = (
    Greeted
    | EhloDone
    | TlsReady
    | StartTlsRefused
    | AuthDone
    | AuthRefused
    | TransactionDone
    | ResetDone
    | QuitDone
    | SessionRefused
    | ProtocolError
)
