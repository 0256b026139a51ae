"""One request, read: who asks, and how control is asked for it; and the envelope of a success.

The key of a request is looked at for its form alone; whether it is good, control or the MTA says. A request that is
wrong in itself is told so only to those whose key is good and, if it sends, may send: see ``precedence``.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api_bridge import credentials, idempotency
from api_bridge.backend import UNFIT, UNKNOWN
from api_bridge.body import parse_object
from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.mailpass import errors
from api_bridge.endpoint import Handler, json_answer, peer_of
from api_bridge.parts import Parts
from api_bridge.precedence import credentials_first
from api_bridge.problems import Problem
from mta.runtime.options import MailPassOptions

NAME = "mailpass"
"""The dialect's name."""
ME = "tenants/me"
"""The account of the credentials, to control."""
DEFAULT_PAGE, MAX_PAGE = 20, 100
MAX_OFFSET = 1_000_000
SMALL_BYTES = 65_536
"""Size of a body, except of messages."""

_PREFIX = re.compile(r"mp_(?:live|test)_(?=bk_)")
"""What the original's keys begin with: taken, and passed over, for programs that insist on it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of somebody who showed a key."""

    parts: Parts
    request: Request
    authorization: str

    @property
    def options(self) -> MailPassOptions:
        """The dialect's own options."""
        return self.parts.options.dialects.mailpass

    @property
    def peer(self) -> str:
        """The client's IP address."""
        return peer_of(self.request)

    @property
    def request_id(self) -> str:
        """For a call to control that changes something."""
        return idempotency.request_id(self.request)

    def parse(self, data: bytes) -> dict[str, Any]:
        """The JSON object of the body. Raises Problem 400."""
        return parse_object(data, self.request.headers.get("content-type", ""))

    async def compute(self, data: bytes, work: Callable[[], Any]) -> Any:
        """What ``work`` returns, beside the loop if the body is large."""
        return work() if len(data) <= OFF_LOOP_BYTES else await self.parts.bulk.compute(work)

    async def ask(self, service: str, method: str, request: Any) -> Any:
        """One call to control. Raises Refusal."""
        return await self.parts.backend.ask(service, method, request, authorization=self.authorization, peer=self.peer)

    def page(self) -> tuple[int, int]:
        """``limit``, lowered if it is too large, and ``offset``. Raises Problem 400."""
        return self._whole("limit", DEFAULT_PAGE, 1, MAX_PAGE), self._whole("offset", 0, 0, MAX_OFFSET)

    def _whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        """A number in the query. Raises Problem 400."""
        values = self.request.query_params.getlist(name)
        text = values[-1] if values else ""
        if not text:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) <= 9) or int(text) < lowest:
            raise errors.invalid(f"The {name} parameter must be a number of at least {lowest}.")
        return min(int(text), highest)


Answering = Callable[[Call], Awaitable[Any]]
"""A handler of this dialect: returns the ``data`` of the answer; raises Problem or Refusal."""


def handler(parts: Parts, answering: Answering, *, sends: bool = False) -> Handler:
    """For ``Endpoint``: the key, its rate, then ``answering``; ``sends``: the MTA judges the key, not control."""

    async def handle(request: Request) -> Response:
        authorization = bearer(request.headers.getlist("authorization"))
        if authorization is None:
            raise errors.unauthorized()
        parts.rates.admit(NAME, authorization)
        try:
            data = await answering(Call(parts, request, authorization))
        except Problem as problem:
            reasons = UNFIT if sends else UNKNOWN
            await credentials_first(
                problem, parts.backend, authorization, peer_of(request), sends=sends, reasons=reasons
            )
            raise
        return json_answer(200, {"success": True, "data": data})

    return handle


def bearer(fields: list[str]) -> str | None:
    """The gRPC ``authorization`` of an API key in an Authorization field; None: there is none, or two."""
    if len(fields) != 1:
        return None
    scheme, _, key = fields[0].strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    return credentials.api_key(_PREFIX.sub("", key.strip(), count=1))
