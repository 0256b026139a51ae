"""One SMTP connection: pumps bytes between a socket and a ``ServerSession``, and answers its events.

Everything that can be decided at once is decided in the same turn of the loop; AUTH, TLS and storing answer later, and
until then nothing more is read. Output that the peer does not read pauses input, so that neither buffer grows.

Limits: silence longer than ``idle_seconds`` ends the connection (``expire``, called by the listener every second), and
a peer that does not read its replies is cut off the same way.
"""

import asyncio
import time
from typing import TYPE_CHECKING, cast

from mta.custody.submission import Accepted, Origin, Source, Submission
from mta.ingress import checks
from mta.policy.records import Login
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.smtp import codes
from mta.smtp.connection import SessionMisuseError, State
from mta.smtp.events import (
    AuthReceived,
    EhloReceived,
    MailReceived,
    MessageReceived,
    RcptReceived,
    ServerEvent,
    StartTlsReceived,
)
from mta.smtp.reply import Reply
from mta.smtp.server import ServerSession

if TYPE_CHECKING:
    from mta.ingress.listener import Listener

log = get_logger(__name__)

MAX_AUTH_FAILURES = 3
"""Wrong passwords on one connection, then it is closed (RFC 4954 §4 leaves the number to us)."""
PROGRESS_OCTETS = 4096
"""Octets that count as a sign of life without completing a command: a peer that drips fewer goes silent."""
ANSWER_SECONDS = 600.0
"""An answer we owe for longer than this will not come."""
BROKEN = Reply(421, "4.3.0", "Internal error, closing the connection")
LOGIN_ENDED = Reply(421, "4.7.0", "The login is no longer valid, closing the connection")
NO_MEMORY = Reply(421, "4.3.1", "No memory for the message now, closing the connection")
HANDSHAKE_SECONDS = 30.0
"""Time for a TLS handshake."""


class Connection(asyncio.Protocol):
    """One peer on one listener."""

    def __init__(self, listener: "Listener", tls_active: bool) -> None:
        self._listener = listener
        self._tls_active = tls_active
        self._transport: asyncio.Transport | None = None
        self._session: ServerSession | None = None
        self._transaction: checks.Transaction | None = None
        self._tenant = ""
        self._login: Login | None = None
        self._trusted = False
        self._helo: str | None = None
        self._esmtp = False
        self._auth_failures = 0
        self._handshaking = False
        self._deciphering = False
        self._early = b""
        self._reading = True
        self._writable = True
        self._held = 0
        """Octets of an unfinished message, counted in the listener's budget."""
        self._unnoticed = 0
        """Octets since ``last_active``."""
        self.peer = ""
        self.last_active = time.monotonic()

    # -- the transport's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer is there; also called again, by the loop, once TLS is set up on the same connection."""
        self._transport = cast(asyncio.Transport, transport)
        if self._session is not None:
            return
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) and name else "unknown"
        refusal = self._listener.admit(self)
        policy = self._listener.peer_policy(self.peer)
        self._tenant = policy.trusted_tenant
        self._trusted = bool(self._tenant)
        self._session = ServerSession(policy.config, tls_active=self._tls_active, authentication=policy.authentication)
        if refusal is not None:
            self._session.close_with(checks.reply(refusal))
        else:
            self._session.greet()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        session = self._session
        assert session is not None
        if self._handshaking:
            self._received_early(data)
            return
        session.feed(data)
        self._unnoticed += len(data)
        if self._advance(session) or self._unnoticed >= PROGRESS_OCTETS:
            self._unnoticed = 0
            self.last_active = time.monotonic()
        if session.state is State.DATA:
            self._hold(len(data))
        elif self._held:
            self._let_go()

    def eof_received(self) -> bool:
        """The peer will send no more; what it is owed is still sent by closing in order."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone. A message that is being stored stays ours."""
        self._let_go()
        self._listener.forget(self)
        self._transport = None

    def pause_writing(self) -> None:
        """The peer does not read: stop reading from it."""
        self._writable = False
        self._pace()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._writable = True
        self._pace()

    # -- the listener's side -----------------------------------------------------------------------------------------

    def expire(self, now: float, idle_seconds: float) -> None:
        """Close if the peer has been silent, or deaf, for too long."""
        silence = now - self.last_active
        if silence < idle_seconds or self._transport is None:
            return
        if silence > idle_seconds + ANSWER_SECONDS:
            self._transport.abort()  # an answer of ours never came: a mistake, which must not hold a connection
            return
        if self._session is None or self._session.closing or self._handshaking or not self._writable:
            self._transport.abort()
            if self._handshaking:
                self.connection_lost(None)  # not told by every loop
        elif not self._session.awaiting_reply:
            self._close_with(codes.TIMED_OUT)

    def drain(self) -> None:
        """The service stops: say so, unless an answer is still owed; that one is then the last."""
        if self._session is not None and not self._session.awaiting_reply and not self._handshaking:
            self._close_with(codes.SHUTTING_DOWN)

    # -- the conversation --------------------------------------------------------------------------------------------

    def _advance(self, session: ServerSession) -> bool:
        """Act on what has been received; whether there was anything to act on."""
        acted = False
        while (event := session.next_event()) is not None:
            acted = True
            try:
                self._handle(session, event)
            except Exception:
                # A mistake of ours. The peer gets an answer, and nothing it has not been told of is lost.
                log.exception("connection_broke", peer=self.peer)
                session.close_with(BROKEN)
        self._flush()
        return acted

    def _hold(self, octets: int) -> None:
        """Count content in the budget; close when there is no room, as that of one peer is nobody else's."""
        self._held += octets
        if not self._listener.budget.take(octets):
            log.warning("no_memory_for_message", peer=self.peer, held=self._held)
            self._close_with(NO_MEMORY)

    def _let_go(self) -> None:
        self._listener.budget.give_back(self._held)
        self._held = 0

    def _handle(self, session: ServerSession, event: ServerEvent) -> None:
        match event:
            case MailReceived() | MessageReceived() if not self._login_in_force():
                session.close_with(LOGIN_ENDED)
            case MailReceived():
                session.reply(self._mail(event))
            case RcptReceived():
                session.reply(self._rcpt(event))
            case MessageReceived():
                self._message(event)
            case EhloReceived():
                self._helo, self._esmtp = event.name, event.esmtp
                self._transaction = None
            case AuthReceived():
                self._listener.tasks.start(self._authenticate(event), "smtp-auth")
            case StartTlsReceived():
                self._start_tls(session)
            case _:
                pass

    def _login_in_force(self) -> bool:
        """Whether the login of this session, if it has one, is still what it was when it authenticated."""
        login = self._login
        return login is None or self._listener.authenticator.in_force(login, self.peer)

    def _mail(self, event: MailReceived) -> Reply:
        try:
            self._listener.intake.ready()
            if not self._tenant:
                raise Refusal(Reason.PERMISSION_DENIED, "authentication is required before mail is accepted")
            self._transaction = checks.mail(self._listener.policy, self._tenant, event)
        except Refusal as refusal:
            return checks.malformed_address(refusal)
        return codes.SENDER_OK

    def _rcpt(self, event: RcptReceived) -> Reply:
        assert self._transaction is not None  # the session lets RCPT through only after an accepted MAIL
        try:
            checks.recipient(self._listener.policy, self._transaction, event)
        except Refusal as refusal:
            return checks.malformed_address(refusal)
        return codes.RECIPIENT_OK

    def _message(self, event: MessageReceived) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        submission = Submission(
            line=transaction.line,
            sender=transaction.sender,
            sender_name="",
            recipients=tuple(transaction.recipients.values()),
            content=event.content,
            smtputf8=transaction.smtputf8,
            origin=Origin(Source.SMTP, self._protocol(transaction.smtputf8), self._helo, self.peer),
        )
        self._listener.intake.submit(submission, self._answer)
        if self._session is not None and self._session.awaiting_reply:
            self._pace()

    def _answer(self, result: Accepted | Refusal) -> None:
        """The intake's answer: only a receipt becomes a 250."""
        if isinstance(result, Accepted):
            self._reply(Reply(250, "2.0.0", f"Accepted as {result.receipt.message_id}"))
        else:
            self._reply(checks.reply(result))

    def _protocol(self, smtputf8: bool) -> str:
        """The protocol's name as registered by RFC 3848 and RFC 6531."""
        session = self._session
        assert session is not None
        if not self._esmtp:
            return "SMTP"
        return (
            ("UTF8SMTP" if smtputf8 else "ESMTP")
            + ("S" if session.tls_active else "")
            + ("A" if session.authenticated else "")
        )

    async def _authenticate(self, event: AuthReceived) -> None:
        self._pace()
        try:
            if event.authzid and event.authzid != event.username:
                raise Refusal(Reason.UNAUTHENTICATED, "acting for another user is not possible")
            login = await self._listener.authenticator.verify(event.username, event.password, self.peer)
        except Refusal as refusal:
            self._refuse_auth(refusal)
            return
        except Exception:
            log.exception("auth_broke", peer=self.peer)
            self._reply(codes.AUTH_TEMPORARY)
            return
        self._login = login
        self._tenant = login.tenant_id
        self._reply(codes.AUTHENTICATED)

    def _refuse_auth(self, refusal: Refusal) -> None:
        self._auth_failures += 1
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self._reply(Reply(421, "4.7.0", "Too many failed logins, closing the connection"))
        elif refusal.reason is Reason.UNAUTHENTICATED:
            self._reply(codes.AUTH_REFUSED)
        else:
            self._reply(codes.AUTH_TEMPORARY)

    def _start_tls(self, session: ServerSession) -> None:
        session.reply(codes.START_TLS)
        # Reading stops before the 220 leaves: the handshake's first bytes belong to the TLS layer alone (RFC 3207 §4).
        self._handshaking = not session.closing
        self._pace()
        self._flush()
        if self._handshaking:
            self._listener.tasks.start(self._handshake(session), "smtp-starttls")

    def _received_early(self, data: bytes) -> None:
        """Bytes before the handshake's task went on: a fast client's first command, behind its last handshake record.

        Clear text that got past the pause in reading is an injection (RFC 3207 §5).
        """
        if self._deciphering:
            self._early += data
        elif self._transport is not None:
            self._transport.abort()

    async def _handshake(self, session: ServerSession) -> None:
        transport = self._transport
        context = self._listener.tls_context
        if transport is None or context is None:
            return
        loop = asyncio.get_running_loop()
        try:
            # The TLS layer takes the connection over before this first waits: what comes from now on is deciphered.
            self._deciphering = True
            secured = await loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except Exception as error:
            log.info("tls_handshake_failed", peer=self.peer, error=str(error))
            transport.abort()
            self.connection_lost(error)  # a loss during the handshake is not told by the loop
            return
        if secured is None or self._transport is None:
            self.connection_lost(None)
            return
        self._transport = secured
        self._transaction = None
        self._helo = None
        if not self._trusted:
            self._tenant = ""
        self._login = None
        session.tls_started()
        self._handshaking = self._deciphering = False
        self._reading = True
        self.last_active = time.monotonic()
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    # -- writing and pacing ------------------------------------------------------------------------------------------

    def _reply(self, reply: Reply) -> None:
        """Answer the event in wait, later than it came."""
        session = self._session
        if session is None or self._transport is None:
            return
        try:
            session.reply(reply)
        except SessionMisuseError:
            return  # the session was closed meanwhile, by a timeout or a drain
        self.last_active = time.monotonic()
        self._advance(session)
        if self._listener.draining:
            self.drain()

    def _close_with(self, reply: Reply) -> None:
        assert self._session is not None
        if not self._session.closing:
            self._session.close_with(reply)
        self._flush()

    def _flush(self) -> None:
        session, transport = self._session, self._transport
        if session is None or transport is None:
            return
        output = session.take_output()
        if output:
            transport.write(output)
        if session.closing and not self._handshaking:
            transport.close()
        else:
            self._pace()

    def _pace(self) -> None:
        """Read only when the bytes can be acted upon."""
        session, transport = self._session, self._transport
        if session is None or transport is None:
            return
        wanted = self._writable and not self._handshaking and not session.awaiting_reply
        if wanted is self._reading or transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()
