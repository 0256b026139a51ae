"""Where the links in messages lead: ``/t/o/`` the picture, ``/t/c/`` the links, ``/t/u/`` unsubscribing.

A token decides everything: whom it is about, what was done, and where a link leads. Without a valid one the answer is
400 and nothing happens, so no link of ours leads anywhere that we did not sign, and nobody is unsubscribed by guessing.
HEAD, which programs send that look whether a link lives, records nothing.

Unsubscribing follows RFC 8058: GET shows a page with a button and changes nothing, for scanners follow links; POST with
``List-Unsubscribe=One-Click``, by the button or by a mail program, does it, without cookies and without a redirect, and
says so when it is on record. Doing it twice is the same.

Tokens are in paths, and whoever has one can unsubscribe: they are kept out of the log.
"""

import email
import html
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge.endpoint import Endpoint, peer_of
from api_bridge.parts import Parts
from api_bridge.problems import Problem
from api_bridge.tracking.recording import Recorder
from api_bridge.tracking.shapes import Engagement
from api_bridge.tracking.tracker import CLICK_PATH, OPEN_PATH, PICTURE_SUFFIX, UNSUBSCRIBE_PATH
from mta.runtime.links import InvalidToken, Link, Purpose
from mta.runtime.refusals import Refusal

MAX_FORM_BYTES = 4096
"""Of a POST that unsubscribes; it says one thing."""
MAX_USER_AGENT = 500

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000b4944415478da6360000200"
    "00050001e9fadcd80000000049454e44ae426082"
)
"""A transparent pixel, PNG."""

_PRIVATE = {"cache-control": "no-store, private", "referrer-policy": "no-referrer", "x-robots-tag": "noindex"}
_PAGE_FIELDS = {
    **_PRIVATE,
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; max-width: 32rem; margin: 15vh auto 0; padding: 0 1.5rem; color: #222; }}
button {{ font: inherit; padding: .6rem 1.4rem; cursor: pointer; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
{form}</body>
</html>
"""
_FORM = """<form method="post">
<input type="hidden" name="List-Unsubscribe" value="One-Click">
<button type="submit">Unsubscribe</button>
</form>
"""
_ONE_CLICK = ("list-unsubscribe", "one-click")


class TrackingPages:
    """The pages, in the form of a dialect."""

    name = "tracking"

    def __init__(self, parts: Parts, recorder: Recorder) -> None:
        self._parts = parts
        self._tracker = parts.tracker
        self._recorder = recorder

    def routes(self) -> Sequence[Route]:
        """The three paths."""
        return [
            Route(f"{OPEN_PATH}{{token}}", Endpoint(self, "open", {"GET": self._open})),
            Route(f"{CLICK_PATH}{{token}}", Endpoint(self, "click", {"GET": self._click})),
            Route(
                f"{UNSUBSCRIBE_PATH}{{token}}",
                Endpoint(self, "unsubscribe", {"GET": self._ask, "POST": self._unsubscribe}),
            ),
        ]

    def problem(self, refusal: Refusal) -> Problem:
        """Nobody here is told more than that it did not work now."""
        seconds = str(max(1, round(refusal.retry_after or 5)))
        return Problem(
            503, "This cannot be done at the moment. Please try again in a minute.", {"retry-after": seconds}
        )

    def render(self, problem: Problem) -> Response:
        """A page: people read it."""
        title = {404: "Not found", 503: "Please try again"}.get(problem.status, "This link does not work")
        return _page(problem.status, title, problem.message, headers=problem.headers)

    async def _open(self, request: Request) -> Response:
        token = self._token(request).removesuffix(PICTURE_SUFFIX)
        self._read(token, Purpose.OPEN)
        self._note(request, token)
        return Response(PICTURE, 200, _PRIVATE, "image/png")

    async def _click(self, request: Request) -> Response:
        token = self._token(request)
        link = self._read(token, Purpose.CLICK)
        self._note(request, token)
        return Response(b"", 302, {**_PRIVATE, "location": link.url})

    async def _ask(self, request: Request) -> Response:
        self._read(self._token(request), Purpose.UNSUBSCRIBE)
        return _page(200, "Unsubscribe", "Do you want to get no more of these messages?", form=_FORM)

    async def _unsubscribe(self, request: Request) -> Response:
        token = self._token(request)
        self._read(token, Purpose.UNSUBSCRIBE)
        async with self._parts.received(request, MAX_FORM_BYTES) as body:
            asked = _fields(request.headers.get("content-type", ""), body)
        if _ONE_CLICK not in asked:
            raise Problem(400, "Nothing was changed. To unsubscribe, open the link and press the button.")
        if not await self._recorder.record(_engagement(request, token)):
            raise _broken()
        return _page(200, "You are unsubscribed", "You will get no more of these messages.")

    def _token(self, request: Request) -> str:
        token: str = request.path_params["token"]
        # The access log has the path; who can read that must not be able to unsubscribe people.
        request.scope["path"] = request.scope["path"][: len(OPEN_PATH)]
        return token

    def _read(self, token: str, purpose: Purpose) -> Link:
        try:
            return self._tracker.read(token, purpose)
        except InvalidToken:
            raise _broken() from None

    def _note(self, request: Request, token: str) -> None:
        if request.method == "GET":
            self._recorder.note(_engagement(request, token))


def _engagement(request: Request, token: str) -> Engagement:
    return Engagement(token, peer_of(request), request.headers.get("user-agent", "")[:MAX_USER_AGENT])


def _fields(content_type: str, body: bytes) -> set[tuple[str, str]]:
    """Names and values of a form, in lower case, in either of the two encodings (RFC 8058 §3.2)."""
    if content_type.lower().startswith("multipart/form-data"):
        head = f"Content-Type: {content_type}\r\n\r\n".encode("ascii", "replace")
        message = email.message_from_bytes(head + body)
        found = [
            (str(part.get_param("name", "", "content-disposition")), part.get_payload())
            for part in message.walk()
            if not part.is_multipart()
        ]
    else:
        found = [*parse_qsl(body.decode("ascii", "replace"))]
    return {(name.lower(), str(value).strip().lower()) for name, value in found}


def _broken() -> Problem:
    return Problem(400, "The link is incomplete, was changed, or is too old.")


def _page(
    status: int, title: str, text: str, form: str = "", headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    body = _PAGE.format(title=html.escape(title), text=html.escape(text), form=form)
    return Response(body, status, {**_PAGE_FIELDS, **headers}, "text/html; charset=utf-8")
