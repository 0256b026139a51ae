"""What a server connection is, below the meaning of commands: three lifetimes, buffers, answers, patience.

:class:`Connection` lasts as long as the transport, :class:`Session` from the first byte or the TLS handshake,
:class:`Transaction` from MAIL to the end of data or RSET. Sessions and transactions are never cleared field by field;
they are dropped and made anew, so nothing of one can survive in the next.

:class:`mta.smtp.server.ServerSession` is the only subclass of :class:`Connection`, and this module is no interface for
anybody else. Errors: :class:`SessionMisuseError`. Limits: see ``serverconfig``. Pure; one thread.
"""

import enum
from collections.abc import Callable

from mta.smtp import codes
from mta.smtp.data import DataReceiver
from mta.smtp.events import CommandRefused
from mta.smtp.linebuffer import LineBuffer
from mta.smtp.reply import Reply
from mta.smtp.sasl import SaslDialogue
from mta.smtp.serverconfig import ServerConfig, banner


class SessionMisuseError(RuntimeError):
    """The caller called out of turn; a bug on our side of the connection."""


class State(enum.Enum):
    """Where the conversation is. An event in wait of its answer pauses any of the first four."""

    START = "no EHLO yet"
    READY = "no transaction"
    MAIL = "transaction without recipients"
    RCPT = "transaction with recipients"
    AUTH = "SASL dialogue"
    DATA = "message data"
    HANDSHAKE = "TLS handshake"
    CLOSED = "closing"

    __hash__ = object.__hash__  # states are looked up for each command; Enum's own hash is a Python call


class Session:
    """Who the peer says it is and whether it has proved it."""

    __slots__ = ("authenticated", "esmtp", "sasl")

    def __init__(self) -> None:
        self.esmtp = False
        self.authenticated = False
        self.sasl: SaslDialogue | None = None


class Transaction:
    """The recipients of one transaction, counted: tried, accepted, tried beyond the limit."""

    __slots__ = ("accepted", "attempted", "overshoot", "smtputf8")

    def __init__(self, *, smtputf8: bool) -> None:
        self.smtputf8 = smtputf8
        self.attempted = 0
        self.accepted = 0
        self.overshoot = 0


class Connection:
    """Buffers in and out, the event in wait, the counters of the peer's mistakes."""

    __slots__ = (
        "_answered",
        "_config",
        "_data",
        "_errors",
        "_junk",
        "_lines",
        "_output",
        "_session",
        "_state",
        "_transaction",
        "closing",
        "tls_active",
    )

    def __init__(self, config: ServerConfig, *, tls_active: bool) -> None:
        self._config = config
        self._lines = LineBuffer()
        self._output: list[bytes] = []
        self._errors = 0
        self._junk = 0
        self._answered: Callable[[Reply], None] | None = None
        self._data: DataReceiver | None = None
        self._session = Session()
        self._transaction: Transaction | None = None
        self._state = State.START
        self.tls_active = tls_active
        self.closing = False

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._state.value}{', awaiting reply' if self._answered else ''}"
            f"{', tls' if self.tls_active else ''}, {len(self._lines)} octets buffered, {self._errors} errors>"
        )

    @property
    def state(self) -> State:
        """Where the conversation is."""
        return self._state

    @property
    def awaiting_reply(self) -> bool:
        """An event awaits :meth:`reply`; do not read from the peer meanwhile."""
        return self._answered is not None

    @property
    def authenticated(self) -> bool:
        """AUTH succeeded in this session (a TLS handshake forgets it)."""
        return self._session.authenticated

    @property
    def buffered(self) -> int:
        """Octets fed and not yet acted upon."""
        return len(self._lines)

    def greet(self) -> None:
        """Queue the 220 banner. To turn the client away instead, call :meth:`close_with` (554 or 421)."""
        self._output.append(banner(self._config.hostname).render())

    def close_with(self, reply: Reply) -> None:
        """Queue ``reply`` (421 for a timeout or a drain, 554 at connect) and end the session, whatever it is doing. An
        event in wait is answered by it; data under way is forgotten."""
        self._output.append(reply.render())
        self._close()

    def feed(self, data: bytes) -> None:
        """Add received bytes. Ignored once closing and during a TLS handshake."""
        if self._state is not State.CLOSED and self._state is not State.HANDSHAKE:
            self._lines.feed(data)

    def take_output(self) -> bytes:
        """What to send now; queued output is handed over once."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def reply(self, reply: Reply) -> None:
        """Answer the event in wait. 421 and 521 also end the session (RFC 5321 §3.8, RFC 7504)."""
        answered = self._answered
        if answered is None:
            raise SessionMisuseError("no event awaits a reply")
        if 300 <= reply.code < 400:
            raise SessionMisuseError(f"a {reply.code} reply cannot answer an event")
        self._answered = None
        self._output.append(reply.render())
        answered(reply)
        if reply.code == 421 or reply.code == 521:
            self._close()

    def _enter(self, state: State) -> None:
        self._state = state

    def _close(self) -> None:
        self.closing = True
        self._answered = None
        self._data = None
        self._transaction = None
        self._session.sasl = None
        self._lines = LineBuffer()
        self._enter(State.CLOSED)

    def _refuse(self, command: str, reply: Reply) -> CommandRefused:
        self._output.append(reply.render())
        return CommandRefused(command, reply)

    def _refuse_and_close(self, command: str, reply: Reply) -> CommandRefused:
        event = self._refuse(command, reply)
        self._close()
        return event

    def _error(self, command: str, reply: Reply) -> CommandRefused:
        """Answer a bad command, or end the session when there have been too many."""
        self._errors += 1
        if self._errors > self._config.errors_limit:
            return self._refuse_and_close(command, codes.TOO_MANY_ERRORS)
        return self._refuse(command, reply)

    def _is_junk(self) -> bool:
        """Count a command without progress; true when there have been too many."""
        self._junk += 1
        return self._junk > self._config.junk_limit

    def _progress(self) -> None:
        """A message was accepted: past mistakes no longer count."""
        self._errors = 0
        self._junk = 0
