"""One request to an endpoint: to an address that was checked, verified, bounded in time and size.

The host is looked up and checked here, and the connection goes to that very address; the name is used for the Host
field, for SNI and for verifying the certificate, and is not looked up again. Redirects are not followed, proxies of the
environment are not used, cookies are not kept, and of an answer's body only the beginning is read.

A ``Line`` is a connection of its own for one webhook: connections are never shared between webhooks, whose hosts may
have the same address. Nothing here raises for what an endpoint does: it is all in the ``Attempt``.

Limits: ``timeout_seconds`` from look-up to the last octet wanted, ``MAX_ANSWER`` octets of the answer.
"""

import asyncio
import ssl
import time
from types import TracebackType
from typing import Self

import httpx
from prometheus_client import Histogram

from control.store.webhook_deliveries import Attempt
from control.webhooks.destinations import Address, Target
from control.webhooks.rendering import Rendered
from control.webhooks.resolving import Addresses, Unreachable

MAX_ANSWER = 1000
"""Octets of an answer's body that are read and kept."""
MAX_ADDRESSES = 3
"""Addresses of a host that are tried, one after the other, when connecting fails."""
CONNECT_SHARE = 0.5
"""Of the whole time, at most so much for one connection."""
USER_AGENT = "Barua-Webhook/1"
_MAX_ERROR = 300

_seconds = Histogram("barua_control_webhook_request_seconds", "Duration of requests to webhook endpoints.")


class Sender:
    """Posts to endpoints."""

    def __init__(self, addresses: Addresses, context: ssl.SSLContext, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._addresses = addresses
        self._context = context

    def line(self) -> "Line":
        """A connection of its own, to be used as a context."""
        return Line(self._addresses, self._context, self.timeout_seconds)


class Line:
    """A connection of its own: one request at a time."""

    def __init__(self, addresses: Addresses, context: ssl.SSLContext, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False),
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(timeout_seconds, connect=timeout_seconds * CONNECT_SHARE),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def post(self, target: Target, rendered: Rendered, added: dict[str, str]) -> Attempt:
        """Post, and tell how it went. ``added`` are further header fields."""
        started = time.monotonic()
        status, answer, error = 0, b"", ""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status, answer = await self._post(target, rendered, added)
        except TimeoutError:
            error = f"no answer within {self._timeout_seconds:g} s"
        except Unreachable as unreachable:
            error = str(unreachable)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as failure:
            error = _text(f"{_WORDS.get(type(failure), 'the request failed')}: {failure}")
        duration = time.monotonic() - started
        _seconds.observe(duration)
        return Attempt(status, _text(answer.decode("utf-8", "replace")), error[:_MAX_ERROR], round(duration * 1000))

    async def _post(self, target: Target, rendered: Rendered, added: dict[str, str]) -> tuple[int, bytes]:
        addresses = (await self._addresses.of(target))[:MAX_ADDRESSES]
        for address in addresses[:-1]:
            try:
                return await self._post_to(address, target, rendered, added)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._post_to(addresses[-1], target, rendered, added)

    async def _post_to(
        self, address: Address, target: Target, rendered: Rendered, added: dict[str, str]
    ) -> tuple[int, bytes]:
        host = f"[{address}]" if address.version == 6 else str(address)
        ours = {"user-agent", "accept-encoding", "host", *(name.lower() for name in rendered.headers)}
        further = {name: value for name, value in added.items() if name.lower() not in ours}
        request = self._client.build_request(
            "POST",
            f"{target.scheme}://{host}:{target.port}{target.path}",
            content=rendered.body,
            headers={
                **further, "User-Agent": USER_AGENT, "Accept-Encoding": "identity", **rendered.headers,
                "Host": target.authority,
            },
            extensions={"sni_hostname": target.host},
        )  # fmt: skip
        self._client.cookies.clear()
        response = await self._client.send(request, stream=True)
        try:
            answer = b""
            async for part in response.aiter_raw():
                answer += part
                if len(answer) >= MAX_ANSWER:
                    break
            return response.status_code, answer[:MAX_ANSWER]
        finally:
            await response.aclose()


_WORDS: dict[type[Exception], str] = {
    httpx.ConnectError: "cannot connect",
    httpx.ConnectTimeout: "cannot connect in time",
    httpx.ReadError: "the connection broke",
    httpx.RemoteProtocolError: "the answer is not HTTP",
    httpx.ReadTimeout: "no answer in time",
}


def _text(text: str) -> str:
    """A text that can be kept and shown: no control characters but line ends and tabs."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def trust(ca_file: str) -> ssl.SSLContext:
    """What certificates of endpoints are verified with: the system's authorities, and those of a file if there is one.

    Raises OSError and ssl.SSLError for a file that cannot be used.
    """
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    return context
