"""The paths of MailPass, and what the frame asks of a dialect."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import Route

from api_bridge.dialects.mailpass import bounces, document, errors, sending, status, webhooks
from api_bridge.dialects.mailpass.calls import NAME, Answering, handler
from api_bridge.endpoint import Endpoint, Handler
from api_bridge.openapi import Document
from api_bridge.parts import Parts
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

PREFIX = "/api/v1"
_SENDING: dict[str, dict[str, Answering]] = {
    "/mail/send": {"POST": sending.send},
    "/mail/send-batch": {"POST": sending.send_batch},
}
PATHS: dict[str, dict[str, Answering]] = {
    **_SENDING,
    "/mail/status/{message_id}": {"GET": status.status},
    "/bounces": {"GET": bounces.listed, "POST": bounces.report},
    "/webhooks": {"GET": webhooks.listed, "POST": webhooks.create},
    "/webhooks/{webhook_id}": {"GET": webhooks.read, "PUT": webhooks.change, "DELETE": webhooks.remove},
}


class MailPass:
    """The dialect."""

    name = NAME

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> Sequence[Route]:
        """All paths."""
        return [Route(PREFIX + path, Endpoint(self, path, self._handlers(path))) for path in PATHS]

    def _handlers(self, path: str) -> dict[str, Handler]:
        sends = path in _SENDING
        return {method: handler(self._parts, call, sends=sends) for method, call in PATHS[path].items()}

    def openapi(self) -> Document:
        """What it serves."""
        return document.openapi(PREFIX)

    def problem(self, refusal: Refusal) -> Problem:
        """The status, code and text for a refusal."""
        return errors.problem(refusal)

    def render(self, problem: Problem) -> Response:
        """The error body."""
        return errors.render(problem)
