"""The paths of SendPulse, and what the frame asks of a dialect."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import Route

from api_bridge.dialects.sendpulse import (
    description,
    domains,
    emails,
    errors,
    lists,
    resubscribes,
    senders,
    templates,
    token,
    unsubscribes,
)
from api_bridge.dialects.sendpulse.calls import NAME, Paths, Reader
from api_bridge.endpoint import Endpoint
from api_bridge.openapi import Document
from api_bridge.parts import Parts
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal


class SendPulse:
    """The dialect."""

    name = NAME

    def __init__(self, parts: Parts) -> None:
        self._reader = Reader(parts, parts.options.dialects.sendpulse)

    def routes(self) -> Sequence[Route]:
        """All paths."""
        handlers = {
            path: {method: self._reader.handler(call) for method, call in calls.items()} for path, calls in PATHS
        }
        handlers["/oauth/access_token"] = {"POST": token.handler(self._reader)}
        handlers.setdefault("/smtp/emails", {})["POST"] = emails.handler(self._reader)
        return [Route(path, Endpoint(self, path, calls)) for path, calls in handlers.items()]

    def problem(self, refusal: Refusal) -> Problem:
        """The status and text for a refusal."""
        return errors.problem(refusal)

    def render(self, problem: Problem) -> Response:
        """The error body."""
        return errors.render(problem)

    def openapi(self) -> Document:
        """What it serves."""
        return description.openapi()


RESOURCES = (lists, unsubscribes, resubscribes, senders, domains, templates)
PATHS: Paths = [path for resource in RESOURCES for path in resource.PATHS]
"""All paths but those of the token and of sending."""
