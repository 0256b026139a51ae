"""``POST /oauth/access_token``: a token for an OAuth client (RFC 6749 §4.4).

The answer to a wrong client is 401 with the word ``invalid_client``: one client library asks again for ever without it,
another breaks at any other status. Every other error says ``is_error``, without which that one takes it for a token and
ends its process. Tokens issued before stay valid. An ``Authorization`` field is ignored here: some clients send the
token that has just expired.
"""

from starlette.requests import Request
from starlette.responses import Response

from barua.control.v1.oauth_service_pb2 import IssueTokenRequest

from api_bridge.dialects.sendpulse import errors
from api_bridge.dialects.sendpulse.calls import NAME, SMALL_BYTES, Reader
from api_bridge.dialects.sendpulse.decoder import Parameters, Undecodable
from api_bridge.endpoint import Handler, json_answer, peer_of
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

GRANT = "client_credentials"
TOKEN_BYTES = 65_536
"""Size of a request's body."""

_FAILED = "Client authentication failed."
_CODES = {"invalid_client": 1, "unsupported_grant_type": 2, "invalid_request": 3}
"""``error_code`` by ``error``; only the first is known of the original."""
_FIELDS = {"cache-control": "no-store"}
"""RFC 6749 §5.1."""
_WRONG = frozenset({Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED, Reason.INVALID_ARGUMENT})


def handler(reader: Reader) -> Handler:
    """For ``Endpoint``."""

    async def handle(request: Request) -> Response:
        try:
            return await issue(request)
        except Refusal as refusal:
            return errors.render(errors.problem(refusal), is_error=1)
        except Problem as problem:
            return errors.render(problem, is_error=1)

    async def issue(request: Request) -> Response:
        async with reader.parts.received(request, min(TOKEN_BYTES, SMALL_BYTES)) as data:
            parameters = await reader.parameters(request, data)
        try:
            client_id, secret = parameters.text("client_id"), parameters.text("client_secret")
            grant = parameters.text("grant_type")
        except Undecodable:
            return _refused(400, "invalid_request", "The parameters must be strings.")
        refused = _missing(parameters) or _wrong_grant(grant)
        if refused is not None:
            return refused
        reader.parts.rates.admit(NAME, client_id)
        try:
            answer = await reader.parts.backend.ask(
                "oauth",
                "IssueToken",
                IssueTokenRequest(client_id=client_id, client_secret=secret),
                authorization="",
                peer=peer_of(request),
            )
        except Refusal as refusal:
            if refusal.reason in _WRONG:
                return _refused(401, "invalid_client", _FAILED)
            raise
        seconds = int(answer.expires_in.ToSeconds())
        return json_answer(
            200, {"access_token": answer.access_token, "token_type": "Bearer", "expires_in": seconds}, _FIELDS
        )

    return handle


def _missing(parameters: Parameters) -> Response | None:
    if parameters.text("client_id") and parameters.text("client_secret"):
        return None
    # To the clients it is the same as a wrong one: 400 breaks one of them.
    return _refused(401, "invalid_client", _FAILED)


def _wrong_grant(grant: str) -> Response | None:
    if grant == GRANT:
        return None
    text = f"The grant type must be {GRANT}." if grant else f"Argument grant_type missing: send {GRANT}."
    return _refused(400, "unsupported_grant_type", text)


def _refused(status: int, error: str, text: str) -> Response:
    body: dict[str, str | int] = {
        "error": error,
        "error_description": text,
        "message": text,
        "error_code": _CODES[error],
    }
    if status != 401:
        body["is_error"] = 1
    return json_answer(status, body, _FIELDS)
