"""A smart host that wants a login, on aiosmtpd: STARTTLS or implicit TLS, AUTH, and a record of what came from where.

It runs in a thread of its own on a free port. ``accounts`` maps usernames to passwords; empty: nobody has to log in.
Errors: ``TimeoutError`` from ``wait``.
"""

import asyncio
import ssl
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.ports import free_port
from tests.support.sink import ClosingController


@dataclass(frozen=True, slots=True)
class Relayed:
    """A message that was taken."""

    username: str
    sender: str
    recipients: tuple[str, ...]
    helo: str
    peer: str
    tls: bool
    content: bytes


class SmartHost:
    """The server. Use as a context manager."""

    def __init__(
        self,
        accounts: dict[str, str] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        host: str = "127.0.0.1",
        port: int | None = None,
        mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN"),
    ) -> None:
        self.accounts = dict(accounts or {})
        self.port = free_port() if port is None else port
        self._lock = threading.Lock()
        self._relayed: list[Relayed] = []
        self._logins: list[str] = []
        settings: dict[str, Any] = {
            "authenticator": self._authenticate,
            "auth_require_tls": tls is not None and not implicit,  # of TLS around it aiosmtpd knows nothing
            "auth_exclude_mechanism": [name for name in ("PLAIN", "LOGIN") if name not in mechanisms],
            "ident": "smarthost",
        }
        if tls is not None and implicit:
            settings["ssl_context"] = tls
        elif tls is not None:
            settings |= {"tls_context": tls, "require_starttls": True}
        self._controller = ClosingController(self, hostname=host, port=self.port, ready_timeout=60, **settings)

    @property
    def relayed(self) -> list[Relayed]:
        """Messages that were taken, in order."""
        with self._lock:
            return list(self._relayed)

    @property
    def logins(self) -> list[str]:
        """Usernames of all attempts to log in, in order."""
        with self._lock:
            return list(self._logins)

    def wait(self, count: int, timeout_seconds: float = 60) -> list[Relayed]:
        """Wait until ``count`` messages were taken."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.relayed) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the smart host has {len(self.relayed)} of {count} messages")
            time.sleep(0.02)
        return self.relayed

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._controller.abort(), self._controller.loop).result(20)
        self._controller.stop()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Begin a transaction for somebody who has logged in, where that is needed."""
        if self.accounts and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a message."""
        content = envelope.content or b""
        login: LoginPassword | None = session.auth_data
        with self._lock:
            self._relayed.append(
                Relayed(
                    username=login.login.decode() if login is not None else "",
                    sender=envelope.mail_from or "",
                    recipients=tuple(envelope.rcpt_tos),
                    helo=session.host_name or "",
                    peer=str(session.peer[0]) if session.peer else "",
                    tls=bool(server.transport and server.transport.get_extra_info("ssl_object")),
                    content=content if isinstance(content, bytes) else content.encode(),
                )
            )
        return "250 2.0.0 taken"

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: Any
    ) -> AuthResult:
        username, password = auth_data.login.decode(), auth_data.password.decode()
        with self._lock:
            self._logins.append(username)
        good = self.accounts.get(username) == password
        return AuthResult(success=good, handled=False, auth_data=auth_data if good else None)
