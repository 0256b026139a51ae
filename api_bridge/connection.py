"""One HTTP connection: uvicorn's httptools protocol with the limits it lacks.

uvicorn bounds neither the size of a request's head nor the time it may take, answers what it cannot parse with plain
text, and leaves a connection open for ever when a client goes silent within a body whose answer it has had already.
This class adds a limit and a deadline for each of these and answers in JSON.

A request that offers to upgrade the connection is an ordinary request to us (RFC 9110 §7.8): Java's HttpClient offers
HTTP/2 with the first request to any clear-text server. The parser ends such a request after its head and drops its
body, so the head is written again without the offer and parsed anew.

The parser itself (llhttp) is strict:
Content-Length with Transfer-Encoding, two lengths, folded fields and bare line feeds end in 400 and a closed
connection.

Loop rules: callbacks of the event loop, no awaits. Limits are the constants below.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_CONNECTIONS = 4000
"""Open connections of the whole bridge; one costs about 20 KB."""
MAX_HEAD_BYTES = 32_768
"""Request line and all header fields; browsers and clients send below 8 KB."""
MAX_FIELDS = 100
"""Header fields of one request."""
HEAD_SECONDS = 15.0
"""From the first octet of a request, or the opening of a connection, to the end of its head."""
LINGER_SECONDS = 5.0
"""A body whose request is answered already is read and thrown away this long, then the connection is closed."""

_OFFER_FIELDS = (b"connection", b"upgrade", b"http2-settings")
_TEXTS = {
    400: "The HTTP request is malformed.",
    408: "The head of the HTTP request did not arrive in time.",
    431: "The head of the HTTP request is too large.",
    503: "Rate limit or connection error.",
}


class BridgeConnection(HttpToolsProtocol):
    """A connection that refuses heads that are too large or too slow."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._upgrading = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503)
        else:
            self._arm(HEAD_SECONDS, 408)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Octets from the client."""
        if self.transport.is_closing():
            return
        between = not self._in_head and not self._in_body
        if between and self._timer is None:
            self._arm(HEAD_SECONDS, 408)
        if self._in_head:
            self._head_bytes += len(data)
        self._feed(data)
        if self._in_head:
            if between:
                self._head_bytes = len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)

    def on_message_begin(self) -> None:
        """A request begins (parser)."""
        self._in_head = True
        self._head_bytes = 0
        self._arm(HEAD_SECONDS, 408)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole (parser)."""
        self._disarm()
        self._in_head = False
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        self._in_body = True
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_FIELDS:
            self._refuse(431)
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of its body (parser)."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Its body is whole (parser)."""
        if self._upgrading:
            return
        self._in_body = False
        self._disarm()
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent; the body may still be on its way."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._arm(LINGER_SECONDS, 0)

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400)

    def _parse_without_offer(self, rest: bytes) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._refuse(400)
            return
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % field for field in self.headers if field[0] not in _OFFER_FIELDS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _arm(self, seconds: float, status: int) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._expired, status)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self, status: int) -> None:
        self._timer = None
        # A connection without a request in it is closed in silence: there is nothing to answer.
        if status and self._in_head:
            self._refuse(status)
        else:
            self.transport.close()

    def _may_answer(self) -> bool:
        """Whether what is written now would be read as the answer to the request that is being parsed."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        return self._in_body and not self.pipeline and not cycle.response_started

    def _refuse(self, status: int) -> None:
        """Answer without the application, if it is this request's turn, and close."""
        self._disarm()
        if self.transport.is_closing():
            return
        if self._may_answer():
            self.transport.write(_answer(status))
        self.transport.close()


def _answer(status: int) -> bytes:
    body = f'{{"status":"error","message":"{_TEXTS[status]}"}}'
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
