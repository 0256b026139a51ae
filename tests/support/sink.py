"""A remote mail server that answers as the recipient's address tells it to, and records what it took; on aiosmtpd.

It runs in a thread of its own on a free loopback port. The local part scripts the reply, whatever follows the digits:

==================  ======================================================================================
``reject-550``      550 at RCPT, always (any 5yz)
``defer-451``       451 at RCPT, always (any 4yz)
``greylist-2``      450 at RCPT for the first two attempts, then 250
``data-554``        554 (any 4yz or 5yz) at the end of the data, if such a recipient is among those accepted
``drop-1``          the connection is closed after the final dot, for the first time or times; then 250
==================  ======================================================================================

Everything else is taken. With ``journal`` each message taken is a JSON line in that file, synced before the 250, so
that it can be read after the test process has died.

Errors: ``TimeoutError`` from ``wait``. Limits: about a thousand messages per second; for more use ``SmtpSink``.
"""

import asyncio
import base64
import json
import os
import re
import ssl
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support.ports import free_port
from tests.support.received import Received

_SCRIPT = re.compile(r"(reject|defer|greylist|data|drop)-(\d{1,3})(?!\d)")
_ENHANCED = {"4": "4.7.0", "5": "5.1.1"}


class RecordingSink:
    """The server. Use as a context manager, or ``start`` and ``stop``."""

    def __init__(
        self,
        *,
        port: int | None = None,
        tls: ssl.SSLContext | None = None,
        require_tls: bool = False,
        journal: Path | None = None,
        size_limit: int = 64 * 1024 * 1024,
        host: str = "127.0.0.1",
    ) -> None:
        self.port = free_port() if port is None else port
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._journal = journal
        self._controller: ClosingController | None = None
        self._host = host
        self._settings: dict[str, Any] = {
            "tls_context": tls,
            "require_starttls": require_tls,
            "data_size_limit": size_limit,
            "enable_SMTPUTF8": True,
            "ident": "sink",
        }

    @property
    def received(self) -> list[Received]:
        """Messages answered with 250, in order."""
        with self._lock:
            return list(self._received)

    @property
    def recipients(self) -> list[str]:
        """Recipients of those messages, in order, with repetitions."""
        return [recipient for received in self.received for recipient in received.recipients]

    def attempts(self, recipient: str, verb: str = "RCPT") -> int:
        """How often a recipient was tried (RCPT), or reached the end of the data (DATA)."""
        with self._lock:
            return self._attempts[recipient, verb]

    def wait(self, count: int, timeout_seconds: float = 60) -> list[Received]:
        """Wait until ``count`` messages were taken. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.received) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the sink has {len(self.received)} of {count} messages after {timeout_seconds:g} s")
            time.sleep(0.02)
        return self.received

    def start(self) -> Self:
        """Listen."""
        self._controller = ClosingController(
            _Handler(self), hostname=self._host, port=self.port, ready_timeout=60, **self._settings
        )
        self._controller.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection. ``start`` begins again on the same port with what it had."""
        if self._controller is not None:
            asyncio.run_coroutine_threadsafe(self._controller.abort(), self._controller.loop).result(20)
            self._controller.stop()
            self._controller = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def attempt(self, recipient: str, verb: str) -> int:
        """Count one more attempt; how many there were."""
        with self._lock:
            self._attempts[recipient, verb] += 1
            return self._attempts[recipient, verb]

    def record(self, received: Received) -> None:
        """Keep a message that is about to be answered with 250."""
        with self._lock:
            if self._journal is not None:
                _append(self._journal, received)
            self._received.append(received)


class ClosingController(Controller):
    """aiosmtpd's controller, which leaves TLS connections open when it stops."""

    def __init__(self, handler: object, **settings: Any) -> None:
        super().__init__(handler, **settings)
        self._sessions: weakref.WeakSet[SMTP] = weakref.WeakSet()

    def factory(self) -> SMTP:
        """A server for one connection."""
        session: SMTP = super().factory()  # type: ignore[no-untyped-call]
        self._sessions.add(session)
        return session

    async def abort(self) -> None:
        """Close every connection at once."""
        for session in list(self._sessions):
            if isinstance(session.transport, asyncio.Transport):
                session.transport.abort()
        await asyncio.sleep(0.01)  # the loop closes the sockets in its next turns


class _Handler:
    """What aiosmtpd calls; the replies are strings with their code."""

    def __init__(self, sink: RecordingSink) -> None:
        self._sink = sink

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        count = self._sink.attempt(address, "RCPT")
        verb, number = _script(address)
        if verb in ("reject", "defer"):
            return _refusal(number, "scripted for this recipient")
        if verb == "greylist" and count <= number:
            return "450 4.2.0 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        for address in envelope.rcpt_tos:
            count = self._sink.attempt(address, "DATA")
            verb, number = _script(address)
            if verb == "data":
                return _refusal(number, "scripted for this message")
            if verb == "drop" and count <= number:
                assert isinstance(server.transport, asyncio.Transport)
                server.transport.abort()
                return "421 4.3.0 closing"
        content = envelope.content or b""
        self._sink.record(
            Received(
                sender=(envelope.mail_from or "").removeprefix("<>"),
                recipients=tuple(envelope.rcpt_tos),
                content=content if isinstance(content, bytes) else content.encode(),
                helo=session.host_name or "",
                tls=session.ssl is not None,
            )
        )
        return "250 2.0.0 taken"


def _script(address: str) -> tuple[str, int]:
    found = _SCRIPT.match(address)
    return (found[1], int(found[2])) if found else ("", 0)


def _refusal(code: int, text: str) -> str:
    return f"{code} {_ENHANCED[str(code)[0]]} {text}"


def _append(journal: Path, received: Received) -> None:
    line = {
        "sender": received.sender,
        "recipients": received.recipients,
        "content": base64.b64encode(received.content).decode(),
        "tls": received.tls,
    }
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
