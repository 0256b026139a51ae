"""One HTTP connection: uvicorn's httptools protocol with the limits it lacks.

uvicorn bounds neither the size of a request's head nor the time it may take, answers what it cannot parse with plain
text, and leaves a connection open for ever when a client goes silent within a body whose answer it has had already.
This class adds a limit and a deadline for each of these and answers in JSON.

A request that offers to upgrade the connection is an ordinary request to us (RFC 9110 §7.8): Java's HttpClient offers
HTTP/2 with the first request to any clear-text server. The parser ends such a request after its head and drops its
body, so the head is written again without the offer and parsed anew.

curl and PHP send an international name in a path as it is written; its UTF-8 is percent-encoded in the request line
before the parser sees it. The parser itself (llhttp) is strict: Content-Length with Transfer-Encoding, two lengths,
folded fields and bare line feeds end in 400 and a closed connection. So does what it lets pass: no Host field or two
of them, one that cannot be a host (RFC 9112 §3.2: which API answers may depend on it), and transfer codings beside
chunked, which nobody would undo.

An answer's head is written together with the first of its body, which saves a system call and a packet; and the ASGI
scope has the request's cycle (``CYCLE``), so that a body which is there already is taken without a timer.

Loop rules: callbacks of the event loop, no awaits. Limits are the constants below.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_CONNECTIONS = 4000
"""Open connections of the whole bridge; one costs about 20 KB."""
MAX_HEAD_BYTES = 32_768
"""Request line and all header fields; browsers and clients send below 8 KB."""
MAX_FRAMING = 16
"""Octets of chunk sizes for each of a body, beside ``MAX_HEAD_BYTES`` for chunk extensions and trailers."""
MAX_FIELDS = 100
"""Header fields of one request."""
HEAD_SECONDS = 15.0
"""From the first octet of a request, or the opening of a connection, to the end of its head."""
LINGER_SECONDS = 5.0
"""A body whose request is answered already is read and thrown away this long, then the connection is closed."""

CYCLE = "barua.cycle"
"""Key in the ASGI scope of the request's ``RequestResponseCycle``: ``more_body`` is False once the body is whole."""

_OFFER_FIELDS = (b"connection", b"upgrade", b"http2-settings")
_VERSIONS = ("1.1", "1.0")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""What a Host field may be made of (RFC 3986 §3.2.2); a client may leave it empty."""
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
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
        self._body_bytes = 0
        self._framing_bytes = 0

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
        if between:
            if self._timer is None:
                self._arm(HEAD_SECONDS, 408)
            if not data.isascii():
                data = _encoded(data)
        if self._in_head:
            self._head_bytes += len(data)
        in_body, body_bytes = self._in_body, self._body_bytes
        self._feed(data)
        if in_body and self._in_body:
            self._framing_bytes += len(data) + body_bytes - self._body_bytes
            if self._framing_bytes > MAX_HEAD_BYTES + MAX_FRAMING * self._body_bytes:
                self._refuse(431)
        if self._in_head:
            if between:
                self._head_bytes = len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)

    def on_message_begin(self) -> None:
        """A request begins (parser)."""
        self._in_head = True
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        self._arm(HEAD_SECONDS, 408)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole (parser)."""
        self._disarm()
        self._in_head = False
        if self.parser.get_http_version() not in _VERSIONS:
            self._refuse(400)
            return
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        self._in_body = True
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_FIELDS:
            self._refuse(431)
        elif not self._is_clear():
            self._refuse(400)
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of its head (parser). Those after a chunked body are nobody's: they came when all was decided."""
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Part of its body (parser)."""
        self._body_bytes += len(body)
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cast(dict[str, Any], cycle.scope)[CYCLE] = cycle
        cycle.send = _Joined(cycle)  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

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

    def _is_clear(self) -> bool:
        """Whether the head says for whom the request is, and how long its body is, in one way only."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                if not _HOST.fullmatch(value):
                    return False
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                return False
        return hosts == 1 or (hosts == 0 and self.parser.get_http_version() == "1.0")

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


def _encoded(data: bytes) -> bytes:
    """The beginning of a request, its first line in ASCII; unless that is not UTF-8, which the parser refuses."""
    line, end, rest = data.partition(b"\r\n")
    try:
        line.decode()
    except UnicodeDecodeError:
        return data
    return _BEYOND_ASCII.sub(lambda octet: b"%%%02X" % ord(octet[0]), line) + end + rest


class _Joined:
    """Takes the parts of an answer, and writes its head with the first of its body."""

    __slots__ = ("_cork", "_cycle", "_send")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._cork: _Cork | None = None

    async def __call__(self, message: Any) -> None:
        """ASGI's ``send``."""
        cork = self._cork
        if message["type"] == "http.response.start":
            self._cork = cork = _Cork(self._cycle.transport)
            self._cycle.transport = cork  # type: ignore[assignment]
            await self._send(message)
        elif cork is None:
            await self._send(message)
        else:
            await self._send(message)
            cork.flush()
            self._cork, self._cycle.transport = None, cork.transport


class _Cork:
    """A transport that holds back what is written."""

    __slots__ = ("_held", "is_closing", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.is_closing = transport.is_closing
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Hold it."""
        self._held.append(data)

    def flush(self) -> None:
        """Write all that is held."""
        if self._held and not self.transport.is_closing():
            self.transport.write(b"".join(self._held))
        self._held.clear()

    def close(self) -> None:
        """Write all, and close."""
        self.flush()
        self.transport.close()


def _answer(status: int) -> bytes:
    body = f'{{"status":"error","message":"{_TEXTS[status]}"}}'
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
