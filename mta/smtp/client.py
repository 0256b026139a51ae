"""The client's side of one SMTP connection, without I/O (RFC 5321, 1870, 2920, 3207, 4954, 6152, 6531).

Contract::

    session = ClientSession("mta1.example.org")
    session.start()                         # waits for the banner, then says EHLO by itself
    session.feed(received)                  # any cut of the stream means the same
    while (event := session.next_event()) is not None: ...
    send(session.take_output())             # after start, feed, send, quit, …

The session goes greeting → EHLO → ready by itself and gives :class:`Greeted` and :class:`EhloDone`. When ready, the
caller may :meth:`~ClientSession.start_tls`, :meth:`~ClientSession.authenticate`, :meth:`~ClientSession.send` one
transaction at a time, :meth:`~ClientSession.reset` or :meth:`~ClientSession.quit`.
With PIPELINING the transaction's commands leave as one
group; content leaves only after 354, and a lone final dot when no recipient is left. A session left with an open
transaction (all recipients refused) sends RSET before the next one by itself.

``after_final_dot``  the content and its final dot are written and not yet answered: if the connection is lost now, the
                     server may or may not have the message.
``reusable``         ready, in step, and nothing unexpected has arrived: another transaction may be sent.

It reports which reply answered which command for which recipient, and judges nothing: what a reply means for retry or
bounce is for the caller's failure policy. When the connection is lost or timed out, :meth:`~ClientSession.lost` turns
what is known into results.

Errors: whatever the server sends ends in an event, never in an exception. A server out of step, a malformed reply, or
an intermediate or preliminary code where none belongs gives :class:`ProtocolError`; 421 anywhere and every
:class:`SessionRefused` kill the session too. ``ValueError`` for a path or name that must not stand in a command and for
content with a bare CR, bare LF or NUL; :class:`ClientMisuseError` for a call out of turn. A transaction refused by
``ValueError`` leaves the session as it was.

Limits: those of :mod:`mta.smtp.reply`; bytes that arrive while nothing is awaited are kept up to one reply line.
Loop rules: one thread; no call blocks.
"""

import base64
import enum
from collections.abc import Callable
from dataclasses import dataclass

from mta.smtp import codes, grammar
from mta.smtp.data import stuff
from mta.smtp.events import (
    AuthDone,
    AuthRefused,
    ClientEvent,
    EhloDone,
    Greeted,
    ProtocolError,
    QuitDone,
    RecipientResult,
    ResetDone,
    SaidBy,
    SessionRefused,
    Stage,
    StartTlsRefused,
    TlsReady,
    TransactionDone,
)
from mta.smtp.extensions import NO_EXTENSIONS, Extension, Extensions, parse_ehlo
from mta.smtp.reply import Reply, ReplyError, ReplyParser

_UNSOLICITED_LIMIT = 2048
_COMMAND_OCTETS = 510
"""Of a command line without its end (RFC 5321 §4.5.3.1.4): an initial response that does not fit waits for 334."""


class ClientMisuseError(RuntimeError):
    """The caller called out of turn; a bug on our side of the connection."""


@dataclass(slots=True)
class Transaction:
    """One message to send.

    ``sender``      reverse-path without brackets, ``""`` for null.
    ``recipients``  forward-paths, at least one.
    ``content``     the message with CRLF line ends, dots not stuffed.
    ``body8bit``    the content holds octets above 127: 8BITMIME is needed.
    ``smtputf8``    a path or a header is internationalised: SMTPUTF8 is needed (RFC 6531 §3.1).
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    body8bit: bool = False
    smtputf8: bool = False

    @property
    def size(self) -> int:
        """What SIZE declares (RFC 1870 §5)."""
        return len(self.content)


class ClientState(enum.Enum):
    """Where the conversation is."""

    NEW = "not started"
    OPENING = "greeting or EHLO"
    READY = "ready"
    STARTTLS = "STARTTLS asked"
    HANDSHAKE = "TLS handshake"
    AUTHENTICATING = "AUTH asked"
    TRANSACTION = "transaction"
    RESETTING = "RSET asked"
    QUITTING = "QUIT asked"
    DEAD = "dead"


class _Progress:
    """One transaction under way. ``results`` has a place per recipient, ``None`` until it is decided."""

    __slots__ = (
        "accepted",
        "mail_refusal",
        "next_recipient",
        "pipelined",
        "results",
        "stage",
        "stuffed",
        "transaction",
    )

    def __init__(self, transaction: Transaction, stuffed: bytes, *, pipelined: bool) -> None:
        self.transaction = transaction
        self.stuffed = stuffed
        self.pipelined = pipelined
        self.results: list[RecipientResult | None] = [None] * len(transaction.recipients)
        self.accepted = 0
        self.next_recipient = 0
        self.mail_refusal: Reply | None = None
        self.stage = Stage.MAIL

    def settle(self, reply: Reply, stage: Stage, said_by: SaidBy) -> tuple[RecipientResult, ...]:
        """All results, with this reply for the recipients that have none yet."""
        return tuple(
            [
                result if result is not None else RecipientResult(recipient, reply, stage, said_by)
                for result, recipient in zip(self.results, self.transaction.recipients, strict=True)
            ]
        )


class ClientSession:
    """One connection. See the module text. ``ehlo_name`` is what we call ourselves."""

    __slots__ = (
        "_auth_lines",
        "_early_event",
        "_ehlo_name",
        "_needs_reset",
        "_on_reply",
        "_output",
        "_progress",
        "_replies",
        "_stage",
        "_state",
        "after_final_dot",
        "extensions",
        "replies_taken",
        "tls_active",
    )

    def __init__(self, ehlo_name: str, *, tls_active: bool = False) -> None:
        if not grammar.is_helo_name(ehlo_name):
            raise ValueError(f"{ehlo_name!r} is neither a host name nor an address literal in brackets")
        self._ehlo_name = ehlo_name.encode("ascii")
        self._replies = ReplyParser()
        self._output: list[bytes] = []
        self._state = ClientState.NEW
        self._stage = Stage.GREETING
        self._on_reply: Callable[[Reply], ClientEvent | None] = self._on_greeting
        self._progress: _Progress | None = None
        self._early_event: TransactionDone | None = None
        self._auth_lines: list[bytes] = []
        """Lines of an authentication that are still to be asked for, the next one last."""
        self._needs_reset = False
        self.after_final_dot = False
        self.extensions: Extensions = NO_EXTENSIONS
        self.replies_taken = 0
        """Whole replies so far: a server that sends octets without finishing one makes no progress."""
        self.tls_active = tls_active

    def __repr__(self) -> str:
        return (
            f"<ClientSession {self._state.value}, {self._stage.value}{', tls' if self.tls_active else ''}"
            f"{', after final dot' if self.after_final_dot else ''}>"
        )

    # -- the caller's side ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> ClientState:
        """Where the conversation is."""
        return self._state

    @property
    def stage(self) -> Stage:
        """The command whose answer is awaited; ``IDLE`` when none is."""
        return self._stage

    @property
    def reusable(self) -> bool:
        """Another transaction may be sent on this connection."""
        return self._state is ClientState.READY and self._early_event is None and self._replies.empty

    @property
    def dead(self) -> bool:
        """Nothing but closing the connection makes sense."""
        return self._state is ClientState.DEAD

    def start(self) -> None:
        """Wait for the server's greeting."""
        self._require(ClientState.NEW)
        self._state = ClientState.OPENING

    def feed(self, data: bytes) -> None:
        """Add received bytes. Ignored when dead and during a TLS handshake."""
        state = self._state
        if state is ClientState.DEAD or state is ClientState.HANDSHAKE:
            return
        if state is ClientState.READY and self._replies.buffered > _UNSOLICITED_LIMIT:
            return
        self._replies.feed(data)

    def take_output(self) -> bytes:
        """What to send now; queued output is handed over once."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def next_event(self) -> ClientEvent | None:
        """The next event, or ``None`` when more bytes are needed."""
        if self._early_event is not None:
            event, self._early_event = self._early_event, None
            return event
        while self._state is not ClientState.DEAD and self._state is not ClientState.HANDSHAKE:
            try:
                reply = self._replies.next_reply()
            except ReplyError as error:
                return self._broken(str(error))
            if reply is None:
                return None
            self.replies_taken += 1
            outcome = self._on_reply(reply)
            if outcome is not None:
                return outcome
        return None

    def start_tls(self) -> None:
        """Ask for TLS. Gives :class:`TlsReady` or :class:`StartTlsRefused`."""
        self._require(ClientState.READY)
        self._ask(b"STARTTLS\r\n", ClientState.STARTTLS, Stage.STARTTLS, self._on_starttls)

    def tls_started(self) -> None:
        """The handshake after TlsReady is done: forget the server and say EHLO again (RFC 3207 §4.2)."""
        self._require(ClientState.HANDSHAKE)
        self.tls_active = True
        self.extensions = NO_EXTENSIONS
        self._replies.clear()
        self._say_ehlo()

    def authenticate(self, username: str, password: str) -> bool:
        """Log in with PLAIN (RFC 4616) or LOGIN. Gives :class:`AuthDone` or :class:`AuthRefused`.

        False, with nothing sent, when the server offers neither. Whether TLS is needed first is for the caller to know.
        """
        self._require(ClientState.READY)
        offered = self.extensions.auth_mechanisms
        if "PLAIN" in offered:
            response = base64.b64encode(f"\0{username}\0{password}".encode())
            fits = len(response) + len("AUTH PLAIN ") <= _COMMAND_OCTETS
            command = b"AUTH PLAIN " + response + b"\r\n" if fits else b"AUTH PLAIN\r\n"
            self._auth_lines = [] if fits else [response]
        elif "LOGIN" in offered:
            command = b"AUTH LOGIN\r\n"
            self._auth_lines = [base64.b64encode(password.encode()), base64.b64encode(username.encode())]
        else:
            return False
        self._ask(command, ClientState.AUTHENTICATING, Stage.AUTH, self._on_auth)
        return True

    def send(self, transaction: Transaction) -> None:
        """Begin a transaction. Gives :class:`TransactionDone`, at once when the server's extensions do not allow it.

        Raises ``ValueError`` when the transaction must not be sent to anybody.
        """
        self._require(ClientState.READY)
        if not transaction.recipients:
            raise ValueError("a transaction needs a recipient")
        unsupported = self._unsupported(transaction)
        if unsupported is not None:
            self._early_event = unsupported
            return
        stuffed = stuff(transaction.content)
        commands = self._commands(transaction)
        pipelined = self.extensions.pipelining
        self._progress = _Progress(transaction, stuffed, pipelined=pipelined)
        self._state = ClientState.TRANSACTION
        if self._needs_reset:
            self._stage = Stage.RSET
            self._on_reply = self._on_early_reset
            commands.insert(0, "RSET\r\n")
        else:
            self._stage = Stage.MAIL
            self._on_reply = self._on_mail
        self._output.append("".join(commands).encode() if pipelined else commands[0].encode())

    def reset(self) -> None:
        """Send RSET, for instance to see whether an idle connection still lives. Gives :class:`ResetDone`."""
        self._require(ClientState.READY)
        self._ask(b"RSET\r\n", ClientState.RESETTING, Stage.RSET, self._on_reset)

    def quit(self) -> None:
        """Say QUIT; nothing else may follow. Gives :class:`QuitDone`. Does nothing when the session is dead."""
        if self._state is ClientState.READY:
            self._ask(b"QUIT\r\n", ClientState.QUITTING, Stage.QUIT, self._on_quit)
        elif self._state is not ClientState.DEAD:
            raise ClientMisuseError(f"QUIT is not possible now: {self!r}")

    def lost(self, reply: Reply) -> TransactionDone | None:
        """The connection is gone or given up. The results of the transaction under way, if any: decided ones stand,
        the others get ``reply`` (a local one that says what happened) at the stage reached."""
        self._state = ClientState.DEAD
        progress, self._progress = self._progress, None
        if progress is None:
            return None
        return TransactionDone(progress.settle(reply, progress.stage, SaidBy.LOCAL), None)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _require(self, state: ClientState) -> None:
        if self._state is not state or self._early_event is not None:
            raise ClientMisuseError(f"expected the session to be {state.value}: {self!r}")

    def _ask(
        self, command: bytes, state: ClientState, stage: Stage, on_reply: Callable[[Reply], ClientEvent | None]
    ) -> None:
        self._output.append(command)
        self._state = state
        self._stage = stage
        self._on_reply = on_reply

    def _unsupported(self, transaction: Transaction) -> TransactionDone | None:
        extensions = self.extensions
        missing: Extension | None = None
        if transaction.smtputf8 and not extensions.smtputf8:
            reply, missing = codes.LOCAL_NEEDS_SMTPUTF8, Extension.SMTPUTF8
        elif transaction.body8bit and not extensions.eight_bit_mime:
            reply, missing = codes.LOCAL_NEEDS_8BITMIME, Extension.EIGHT_BIT_MIME
        elif extensions.size_limit is not None and transaction.size > extensions.size_limit:
            reply = codes.LOCAL_TOO_LARGE
        else:
            return None
        results = [RecipientResult(path, reply, Stage.MAIL, SaidBy.LOCAL) for path in transaction.recipients]
        return TransactionDone(tuple(results), None, missing)

    def _commands(self, transaction: Transaction) -> list[str]:
        """MAIL, each RCPT, DATA, as they will be written."""
        sender = grammar.sendable_path(transaction.sender)
        paths = [grammar.sendable_path(recipient) for recipient in transaction.recipients]
        mail = f"MAIL FROM:<{sender}>"
        extensions = self.extensions
        if extensions.size:
            mail += f" SIZE={transaction.size}"
        if transaction.body8bit:
            mail += " BODY=8BITMIME"
        if transaction.smtputf8:
            mail += " SMTPUTF8"
        elif not (sender.isascii() and all(map(str.isascii, paths))):
            raise ValueError("a non-ASCII path needs a transaction with smtputf8")
        return [mail + "\r\n", *[f"RCPT TO:<{path}>\r\n" for path in paths], "DATA\r\n"]

    # -- replies before and between transactions -----------------------------------------------------------------------

    def _on_greeting(self, reply: Reply) -> ClientEvent | None:
        if not reply.positive:
            return self._refused(reply)
        self._say_ehlo()
        return Greeted(reply)

    def _say_ehlo(self) -> None:
        self._ask(b"EHLO " + self._ehlo_name + b"\r\n", ClientState.OPENING, Stage.EHLO, self._on_ehlo)

    def _on_ehlo(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 500:  # RFC 5321 §3.2: a server that knows no EHLO may know HELO
            self._ask(b"HELO " + self._ehlo_name + b"\r\n", ClientState.OPENING, Stage.EHLO, self._on_helo)
            return None
        if not reply.positive:
            return self._refused(reply)
        self.extensions = parse_ehlo(reply)
        self._become_ready()
        return EhloDone(self.extensions, reply)

    def _on_helo(self, reply: Reply) -> ClientEvent | None:
        if not reply.positive:
            return self._refused(reply)
        self._become_ready()
        return EhloDone(NO_EXTENSIONS, reply)

    def _on_starttls(self, reply: Reply) -> ClientEvent | None:
        if reply.code == 220:
            discarded = self._replies.buffered
            self._replies.clear()
            self._state = ClientState.HANDSHAKE
            return TlsReady(discarded)
        if reply.code == 421 or reply.code < 400:
            return self._refused(reply)
        self._become_ready()
        return StartTlsRefused(reply)

    def _on_auth(self, reply: Reply) -> ClientEvent | None:
        if reply.code == 334 and self._auth_lines:
            self._output.append(self._auth_lines.pop() + b"\r\n")
            return None
        self._auth_lines = []
        if reply.code == 421 or (reply.code < 400 and reply.code != 235):
            return self._refused(reply)
        self._become_ready()
        return AuthDone(reply) if reply.code == 235 else AuthRefused(reply)

    def _on_reset(self, reply: Reply) -> ClientEvent | None:
        if not reply.positive:
            return self._refused(reply)
        self._needs_reset = False
        self._become_ready()
        return ResetDone(reply)

    def _on_quit(self, reply: Reply) -> ClientEvent | None:
        self._state = ClientState.DEAD
        return QuitDone(reply)

    def _on_unsolicited(self, reply: Reply) -> ClientEvent | None:
        if reply.code == 421:  # RFC 5321 §3.8: the server may close an idle session at any time
            return self._refused(reply)
        return self._broken(f"a reply to nothing: {reply}")

    def _become_ready(self) -> None:
        self._state = ClientState.READY
        self._stage = Stage.IDLE
        self._on_reply = self._on_unsolicited

    def _refused(self, reply: Reply) -> ClientEvent:
        """The session ends on a reply: by right when it is 4yz or 5yz, else because the server is out of its mind."""
        if reply.code < 400:
            return self._broken(f"a reply that does not belong here: {reply}")
        self._state = ClientState.DEAD
        return SessionRefused(reply, self._stage)

    def _broken(self, text: str) -> ClientEvent:
        self._state = ClientState.DEAD
        return ProtocolError(text, self._stage)

    # -- replies of a transaction --------------------------------------------------------------------------------------

    def _current(self) -> _Progress:
        progress = self._progress
        assert progress is not None  # these handlers are installed only while a transaction is under way
        return progress

    def _on_early_reset(self, reply: Reply) -> ClientEvent | None:
        progress = self._current()
        if reply.code == 421:
            return self._cut_short(progress, reply)
        if not reply.positive:
            return self._broken(f"RSET was refused: {reply}")
        self._needs_reset = False
        self._stage = Stage.MAIL
        self._on_reply = self._on_mail
        if not progress.pipelined:
            self._output.append(self._commands(progress.transaction)[0].encode())
        return None

    def _on_mail(self, reply: Reply) -> ClientEvent | None:
        progress = self._current()
        code = reply.code
        if not 200 <= code < 300:
            if code == 421:
                return self._cut_short(progress, reply)
            if code < 400:
                return self._broken(f"MAIL was answered {reply}")
            progress.mail_refusal = reply
            if not progress.pipelined:
                return self._finish(progress.settle(reply, Stage.MAIL, SaidBy.PEER), None)
            progress.results = list(progress.settle(reply, Stage.MAIL, SaidBy.PEER))
        self._stage = progress.stage = Stage.RCPT
        self._on_reply = self._on_rcpt
        if not progress.pipelined:
            self._output.append(f"RCPT TO:<{progress.transaction.recipients[0]}>\r\n".encode())
        return None

    def _on_rcpt(self, reply: Reply) -> ClientEvent | None:
        progress = self._current()
        code = reply.code
        index = progress.next_recipient
        recipients = progress.transaction.recipients
        if code == 421:
            return self._cut_short(progress, reply)
        if code < 400:
            if code >= 300:
                return self._broken(f"RCPT was answered {reply}")
            if progress.mail_refusal is None:
                progress.accepted += 1
        elif progress.mail_refusal is None:
            progress.results[index] = RecipientResult(recipients[index], reply, Stage.RCPT, SaidBy.PEER)
        progress.next_recipient = index = index + 1
        if index < len(recipients):
            if not progress.pipelined:
                self._output.append(f"RCPT TO:<{recipients[index]}>\r\n".encode())
            return None
        if not progress.accepted and not progress.pipelined:
            self._needs_reset = True
            return self._finish(progress.settle(reply, Stage.RCPT, SaidBy.PEER), None)
        self._stage = progress.stage = Stage.DATA
        self._on_reply = self._on_data
        if not progress.pipelined:
            self._output.append(b"DATA\r\n")
        return None

    def _on_data(self, reply: Reply) -> ClientEvent | None:
        progress = self._current()
        code = reply.code
        if code == 421:
            return self._cut_short(progress, reply)
        if code >= 400:
            self._needs_reset = progress.mail_refusal is None
            return self._finish(progress.settle(reply, Stage.DATA, SaidBy.PEER), reply)
        if code < 300:
            return self._broken(f"DATA was answered {reply}")
        if not self._replies.empty:
            # An extra reply would be taken for the answer to the final dot, and the message for delivered.
            return self._broken("the server sent more after 354 before any content")
        if progress.accepted:
            self._output.append(progress.stuffed)
            self.after_final_dot = True
        progress.stuffed = b""
        self._output.append(b".\r\n")
        self._stage = progress.stage = Stage.FINAL_DOT
        self._on_reply = self._on_final_dot
        return None

    def _on_final_dot(self, reply: Reply) -> ClientEvent | None:
        progress = self._current()
        if 300 <= reply.code < 400:
            return self._broken(f"the final dot was answered {reply}")
        done = self._finish(progress.settle(reply, Stage.FINAL_DOT, SaidBy.PEER), reply)
        if reply.code == 421:
            self._state = ClientState.DEAD
        return done

    def _cut_short(self, progress: _Progress, reply: Reply) -> ClientEvent:
        """421: the server closes; who has no result yet gets this one."""
        done = self._finish(progress.settle(reply, progress.stage, SaidBy.PEER), None)
        self._state = ClientState.DEAD
        return done

    def _finish(self, results: tuple[RecipientResult, ...], data_reply: Reply | None) -> TransactionDone:
        self._progress = None
        self.after_final_dot = False
        self._become_ready()
        return TransactionDone(results, data_reply)
