"""``/t/r/{token}``: where the link leads by which somebody says that they want mail again.

Opening it is the answer, as with the original: who asks for the message has no other way to be sure that a person reads
it, and who opens it by mistake can unsubscribe again. HEAD changes nothing. The page is in the language of the message.
It is not part of the dialect, since it is for recipients: it is served under every host name.
"""

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType

from msgspec import Struct, json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from barua.control.v1.resubscription_service_pb2 import ConfirmResubscriptionRequest

from api_bridge.endpoint import Endpoint, peer_of
from api_bridge.parts import Parts
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

PATH = "/t/r/"
"""Where control has the link lead."""
MAX_TOKEN = 200
"""Characters; those of these links have about 50."""

_FIELDS = {
    "cache-control": "no-store, private",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_PAGE = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 32rem; margin: 15vh auto 0; padding: 0 1.5rem; }}</style>
</head>
<body><h1>{title}</h1><p>{text}</p></body>
</html>
"""


class _Words(Struct, frozen=True):
    title: str
    text: str


_WORDS = json.decode(resources.files(__package__).joinpath("resubscribed.json").read_bytes(), type=dict[str, _Words])
_ENGLISH = "en"


class ResubscriptionPage:
    """The page, in the form of a dialect."""

    name = "resubscription"

    def __init__(self, parts: Parts) -> None:
        self._backend = parts.backend

    def routes(self) -> Sequence[Route]:
        """The one path."""
        return [Route(f"{PATH}{{token}}", Endpoint(self, "resubscribe", {"GET": self._confirm}))]

    def problem(self, refusal: Refusal) -> Problem:
        """Nobody here is told more than that it did not work."""
        if refusal.reason in (Reason.NOT_FOUND, Reason.INVALID_ARGUMENT):
            return Problem(400, "The link is incomplete, was changed, or is too old.")
        return Problem(503, "This cannot be done at the moment. Please try again in a minute.", {"retry-after": "60"})

    def render(self, problem: Problem) -> Response:
        """A page: people read it."""
        title = "Please try again" if problem.status == 503 else "This link does not work"
        return _page(problem.status, _ENGLISH, _Words(title, problem.message), problem.headers)

    async def _confirm(self, request: Request) -> Response:
        token: str = request.path_params["token"]
        # The access log has the path; who can read that must not be able to answer for people.
        request.scope["path"] = PATH
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Problem(400, "The link is incomplete, was changed, or is too old.")
        if request.method == "HEAD":
            return Response(b"", 200, _FIELDS, "text/html; charset=utf-8")
        answer = await self._backend.ask(
            "resubscriptions",
            "ConfirmResubscription",
            ConfirmResubscriptionRequest(token=token),
            authorization="",
            peer=peer_of(request),
        )
        language = answer.language_code if answer.language_code in _WORDS else _ENGLISH
        return _page(200, language, _WORDS[language])


def _page(status: int, language: str, words: _Words, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    body = _PAGE.format(language=language, title=html.escape(words.title), text=html.escape(words.text))
    return Response(body, status, {**_FIELDS, **headers}, "text/html; charset=utf-8")
