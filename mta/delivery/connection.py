"""One outgoing connection: pumps bytes between a socket and a ``ClientSession``, one job at a time.

Life: ``dial`` makes it and waits for ``opened``; from then on its site gives it jobs (``assign``) and hears of each end
through ``ConnectionOwner``. A connection that may be out of step (timeout, unexpected bytes, broken protocol) is closed
and never used again. There are no timers per message: the site looks at ``deadline`` every second.
"""

import asyncio
import time
from typing import Protocol, cast

from mta.queues.jobs import Job
from mta.runtime.log import get_logger
from mta.smtp.client import ClientSession, Transaction
from mta.smtp.events import (
    AuthRefused,
    ClientEvent,
    EhloDone,
    ProtocolError,
    SessionRefused,
    Stage,
    StartTlsRefused,
    TlsReady,
    TransactionDone,
)
from mta.smtp.reply import Reply
from mta.spool.records import MessageFlag

log = get_logger(__name__)

LOST = "the connection was lost"
TIMED_OUT = "the server did not answer in time"


class SessionEnded(Exception):
    """A connection could not be brought to the point where it takes mail; ``event`` says why, if the server did."""

    def __init__(self, text: str, event: SessionRefused | None = None) -> None:
        super().__init__(text)
        self.event = event


class ConnectionOwner(Protocol):
    """Who gives a connection its jobs."""

    def finished(self, connection: "OutgoingConnection", job: Job, done: TransactionDone) -> None:
        """A job has ended, well or badly; the connection may have died with it."""

    def returned(self, connection: "OutgoingConnection", job: Job) -> None:
        """The connection had died before the server answered anything to a job; ``lost`` follows."""

    def lost(self, connection: "OutgoingConnection") -> None:
        """The connection is gone. A job it had has been reported as finished before."""


class OutgoingConnection(asyncio.Protocol):
    """A connection to one server."""

    def __init__(
        self, ehlo_name: str, host: str, tls_active: bool, command_seconds: float, final_dot_seconds: float
    ) -> None:
        self.host = host
        self.jobs_done = 0
        self.job: Job | None = None
        self.owner: ConnectionOwner | None = None
        self.deadline = time.monotonic() + command_seconds
        self._session = ClientSession(ehlo_name, tls_active=tls_active)
        self._command_seconds = command_seconds
        self._final_dot_seconds = final_dot_seconds
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Queue[ClientEvent] = asyncio.Queue()
        """Events until the connection has an owner: a handful."""
        self._gone = False
        self._unsent = 0
        """Octets that waited to be written when the deadline was last put off."""

    # -- the transport's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._session.start()

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        session = self._session
        replies = session.replies_taken
        session.feed(data)
        while (event := session.next_event()) is not None:
            if type(event) is TransactionDone:
                self._finish(event)
            else:
                self._other(event)
        self._flush()
        if session.replies_taken != replies:  # octets alone are no progress
            late = self._final_dot_seconds if session.after_final_dot else self._command_seconds
            self.deadline = time.monotonic() + late
        if self.owner is not None and self.job is None and not session.reusable:
            self.close()

    def eof_received(self) -> bool:
        """The server closes."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._end(LOST)

    # -- opening -----------------------------------------------------------------------------------------------------

    async def opened(self) -> bool:
        """Wait for greeting and EHLO; whether the server offers STARTTLS. Raises SessionEnded."""
        while not isinstance(event := await self._next_step(), EhloDone):
            pass
        return event.extensions.starttls and not self._session.tls_active

    async def start_tls(self) -> asyncio.Transport | None:
        """Ask for TLS: the transport to do the handshake on, None if the server refuses. Raises SessionEnded."""
        self._session.start_tls()
        self._flush()
        event = await self._next_step()
        if isinstance(event, StartTlsRefused):
            return None
        assert isinstance(event, TlsReady) and self._transport is not None
        if event.discarded:
            raise SessionEnded("the server sent more than its answer to STARTTLS")
        return self._transport

    def secured(self, transport: asyncio.Transport) -> None:
        """The handshake is done; say EHLO again."""
        self._transport = transport
        self._session.tls_started()
        self._flush()

    @property
    def secure(self) -> bool:
        """TLS is in use."""
        return self._session.tls_active

    async def authenticate(self, username: str, password: str) -> Reply | None:
        """Log in: None if the server took it, else its refusal. Raises SessionEnded."""
        if not self._session.authenticate(username, password):
            raise SessionEnded("the server offers neither AUTH PLAIN nor AUTH LOGIN")
        self._flush()
        event = await self._next_step()
        return event.reply if isinstance(event, AuthRefused) else None

    async def _next_step(self) -> ClientEvent:
        """The next event before the first job. Raises SessionEnded."""
        try:
            async with asyncio.timeout(self._command_seconds):
                event = await self._opening.get()
        except TimeoutError:
            raise SessionEnded(TIMED_OUT) from None
        if isinstance(event, SessionRefused):
            raise SessionEnded(event.reply.text, event)
        if isinstance(event, ProtocolError):
            raise SessionEnded(event.text)
        return event

    # -- jobs --------------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Ready for a job."""
        return self.job is None and not self._gone and self._session.reusable

    def assign(self, job: Job) -> None:
        """Begin a transaction. Raises ValueError, with the connection still good, when the job must not be sent."""
        content = job.content
        assert content is not None
        recipients = tuple([recipient.address for recipient in job.recipients])
        transaction = Transaction(
            job.sender,
            recipients,
            content,
            body8bit=bool(job.flags & MessageFlag.EIGHT_BIT),
            smtputf8=bool(job.flags & MessageFlag.SMTPUTF8) or not all(map(str.isascii, recipients)),
        )
        self._session.send(transaction)
        self.job = job
        self._unsent = 0
        self.deadline = time.monotonic() + self._command_seconds
        self._flush()
        # The session may know at once that the server cannot take it.
        while (event := self._session.next_event()) is not None:
            if isinstance(event, TransactionDone):
                asyncio.get_running_loop().call_soon(self._finish, event)

    def expire(self, now: float) -> None:
        """Give up if the server is late. One that still takes content, however slowly, is not."""
        if now <= self.deadline:
            return
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if 0 < unsent < self._unsent or (unsent and not self._unsent):
            self._unsent = unsent
            self.deadline = now + self._command_seconds
            return
        self._end(TIMED_OUT)
        self.close()

    def close(self) -> None:
        """Say goodbye if that makes sense, and close."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._session.reusable:
            self._session.quit()
            transport.write(self._session.take_output())
            transport.close()
        else:
            transport.abort()
        self._end(LOST)

    def _other(self, event: ClientEvent) -> None:
        if self.owner is None:
            self._opening.put_nowait(event)
        elif isinstance(event, ProtocolError | SessionRefused):
            self._end(event.text if isinstance(event, ProtocolError) else event.reply.text)
            self.close()

    def _finish(self, done: TransactionDone) -> None:
        job, self.job = self.job, None
        if job is None or self.owner is None:
            return
        self.jobs_done += 1
        self.owner.finished(self, job, done)

    def _return(self) -> None:
        """A server that closed an idle connection, as it may, has taken nothing of the job."""
        job, self.job = self.job, None
        if job is not None and self.owner is not None:
            self.owner.returned(self, job)

    def _end(self, why: str) -> None:
        """The connection will carry nothing more: report a job under way, then the loss."""
        if self._gone:
            return
        self._gone = True
        if self.owner is None:
            self._opening.put_nowait(ProtocolError(why, self._session.stage))
        done = self._session.lost(Reply(451, "4.4.2", why))
        if done is not None and why is LOST and self.jobs_done and done.results[0].stage is Stage.MAIL:
            self._return()
        elif done is not None:
            self._finish(done)
        if self.owner is not None:
            self.owner.lost(self)

    def _flush(self) -> None:
        output = self._session.take_output()
        if output and self._transport is not None:
            self._transport.write(output)
