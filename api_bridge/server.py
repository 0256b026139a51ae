"""The HTTP server: uvicorn with httptools, embedded, on the program's own loop and signals.

``Server(app, address)`` binds at once (OptionsError if the address is taken), ``run(drain)`` serves until the drain
stops: new connections are refused, idle ones closed, requests under way finished. With a ``Certificate`` it speaks
HTTPS and nothing else. Why uvicorn and httptools: raw bytes of the request target are needed, and the parser is C.

Limits: ``KEEP_ALIVE_SECONDS``, ``STOP_SECONDS``, ``HANDSHAKE_SECONDS`` here; those of a connection in ``connection``,
those of requests in ``edge`` and ``body``.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from api_bridge.certificate import Certificate
from api_bridge.connection import BridgeConnection
from mta.runtime.lifecycle import Drain
from mta.runtime.options import OptionsError, split_address

KEEP_ALIVE_SECONDS = 75
"""An idle connection is kept this long: longer than the 60 s of common proxies, which would otherwise meet a close."""
STOP_SECONDS = 30
"""Requests under way at the stop get this long."""
HANDSHAKE_SECONDS = 10.0
"""A TLS handshake takes no longer, nor does the end of a TLS connection."""
BACKLOG = 1024
"""Connections that wait for accept(2)."""


class Server:
    """An HTTP server bound to one address."""

    def __init__(self, app: ASGIApp, address: str, certificate: Certificate | None = None) -> None:
        self._socket = _bind(address)
        config = uvicorn.Config(
            app,
            http=BridgeConnection,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            backlog=BACKLOG,
        )
        self._server = _Embedded(config, certificate)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one if the options say 0."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def run(self, drain: Drain) -> None:
        """Serve until ``drain`` stops and what was begun is finished."""
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        stopping = asyncio.ensure_future(drain.stopped())
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self._server.should_exit = True
            await serving


class _Embedded(uvicorn.Server):
    """Leaves the signals to the program's own drain, and listens with our certificate and limits."""

    def __init__(self, config: uvicorn.Config, certificate: Certificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on ``sockets``."""
        await self.lifespan.startup()
        loop, config, tls = asyncio.get_running_loop(), self.config, self._certificate

        def connection() -> asyncio.Protocol:
            return BridgeConnection(config=config, server_state=self.server_state, app_state={}, _loop=loop)

        self.servers = [
            await loop.create_server(
                connection,
                sock=listener,
                backlog=config.backlog,
                ssl=tls.context if tls else None,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
                ssl_shutdown_timeout=HANDSHAKE_SECONDS if tls else None,
            )
            for listener in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _bind(address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, name = found[0]
        # With the protocol's number: asyncio sets TCP_NODELAY on what it knows to be TCP only.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OptionsError(f"bridge.listen: {address}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(name)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OptionsError(f"bridge.listen: cannot listen on {address}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
