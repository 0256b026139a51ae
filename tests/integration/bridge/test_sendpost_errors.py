"""SendPost: every error of the contract, provoked on a running installation and compared byte for byte."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.integration.bridge.conftest import MESSAGE_BYTES
from tests.support.sendpost import Account, api_key, make_account, wait_for_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until_steady

EMAIL = "/subaccount/email/"
STATS = "/account/stat"
UNKNOWN_KEY = "bk_aaaaaaaaaaaa_" + "a" * 32
NO_KEY: dict[str, str] = {}


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """An account for the tests of this module."""
    made = make_account(shared_stack.operator)
    wait_for_key(shared_stack.bridge_url, made.sub_key)
    return made


def letter(**changes: Any) -> dict[str, Any]:
    """The body of a send; ``...`` takes a field away."""
    body = {
        "from": {"email": "news@{sub_domain}"},
        "to": [{"email": "ann@example.net"}],
        "subject": "Hello",
        "textBody": "Hello",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not ...}


@dataclass(frozen=True)
class Row:
    """A request and the error it gets. ``{sub_domain}`` and so on stand for what the account has."""

    name: str
    method: str
    path: str
    status: int
    code: str
    message: str
    type: str
    param: str | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] | None = None
    detailed: bool | None = None

    @property
    def error(self) -> dict[str, Any]:
        """The body of the answer."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "type": self.type}
        if self.param is not None:
            error["param"] = self.param
            if self.status == 422:
                error["details"] = [{"field": self.param, "message": self.message}]
        return {"error": error}


def unauthorized(name: str, path: str, keys: dict[str, str], body: Any = None) -> Row:
    """A row for a key that is not the one for a path."""
    text = "The API key is missing or not valid for this path."
    method = "GET" if body is None else "POST"
    return Row(name, method, path, 401, "authentication_failed", text, "authentication_error", body=body, keys=keys)


def invalid(name: str, param: str | None, message: str, **changes: Any) -> Row:
    """A row for a send whose body is not in the right form."""
    body = letter(**changes)
    return Row(name, "POST", EMAIL, 422, "validation_error", message, "invalid_request_error", param, body)


def malformed(name: str, path: str, param: str, message: str) -> Row:
    """A row for a bad parameter."""
    return Row(name, "GET", path, 400, "invalid_request", message, "invalid_request_error", param)


ROWS = [
    unauthorized("no key for a send", EMAIL, NO_KEY, letter()),
    unauthorized("no key for statistics", STATS, NO_KEY),
    unauthorized("a malformed key", EMAIL, {"X-SubAccount-ApiKey": "secret"}, letter()),
    unauthorized("an unknown key for a send", EMAIL, {"X-SubAccount-ApiKey": UNKNOWN_KEY}, letter()),
    unauthorized("an unknown key for suppressions", "/subaccount/suppression", {"X-SubAccount-ApiKey": UNKNOWN_KEY}),
    unauthorized("an unknown key for statistics", STATS, {"X-Account-ApiKey": UNKNOWN_KEY}),
    unauthorized("the account's key in the wrong field", EMAIL, {"X-Account-ApiKey": "{key}"}, letter()),
    unauthorized("the sub-account's key for an account", STATS, {"X-Account-ApiKey": "{sub_key}"}),
    malformed("no range", STATS, "from", "from is required."),
    malformed("half a range", f"{STATS}?from=2026-01-01", "to", "to is required."),
    malformed(
        "no date",
        f"{STATS}?from=yesterday&to=2026-01-01",
        "from",
        "from must be a date such as 2024-01-31 or a time such as 2024-01-31T12:00:00Z.",
    ),
    malformed(
        "a day that is not",
        f"{STATS}?from=2026-02-30&to=2026-03-01",
        "from",
        "from must be a date such as 2024-01-31 or a time such as 2024-01-31T12:00:00Z.",
    ),
    malformed("a range backwards", f"{STATS}?from=2026-02-02&to=2026-02-01", "from", "from must not be later than to."),
    malformed(
        "a range too long",
        f"{STATS}?from=2026-01-01&to=2026-02-02",
        "to",
        "to must not be more than 31 days after from.",
    ),
    malformed(
        "an aggregate too long",
        f"{STATS}/aggregate?from=2025-01-01&to=2026-01-03",
        "to",
        "to must not be more than 366 days after from.",
    ),
    malformed("no group", f"{STATS}/group?from=2026-01-01&to=2026-01-02", "group", "group is required."),
    malformed(
        "too many messages",
        "/account/message?from=2026-01-01&to=2026-01-02&limit=101",
        "limit",
        "limit must be a whole number from 1 to 100.",
    ),
    malformed(
        "messages of too long a time",
        "/account/message?from=2026-01-01T00:00:00Z&to=2026-03-04T00:00:01Z",
        "to",
        "to must not be more than 60 days after from.",
    ),
    malformed(
        "an unknown type",
        "/subaccount/suppression?type=other",
        "type",
        "type must be one of manual, unsubscribe, hardBounce, spamComplaint.",
    ),
    Row(
        "an unknown message",
        "GET",
        "/account/message/0198a1b2-0000-7000-8000-000000000000",
        404,
        "resource_not_found",
        "Message not found.",
        "not_found_error",
    ),
    Row(
        "no message id", "GET", "/account/message/1", 404, "resource_not_found", "Message not found.", "not_found_error"
    ),
    Row(
        "events of an unknown message",
        "GET",
        "/account/message/1/events",
        406,
        "resource_not_found",
        "Message not found.",
        "not_found_error",
    ),
    Row(
        "an unknown sub-account",
        "GET",
        "/account/subaccount/stat/2000000000?from=2026-01-01&to=2026-01-02",
        404,
        "resource_not_found",
        "Sub-account not found.",
        "not_found_error",
    ),
    Row(
        "a sub-account that is no number",
        "GET",
        "/account/subaccount/stat/x?from=2026-01-01&to=2026-01-02",
        404,
        "resource_not_found",
        "Sub-account not found.",
        "not_found_error",
    ),
    Row(
        "nothing at a path",
        "GET",
        "/account/nothing",
        404,
        "resource_not_found",
        "Not Found",
        "not_found_error",
    ),
    Row(
        "another method",
        "PATCH",
        "/account/stat",
        405,
        "invalid_request",
        "Method PATCH is not allowed here; use GET, HEAD.",
        "invalid_request_error",
    ),
    Row(
        "nothing to suppress",
        "POST",
        "/subaccount/suppression",
        406,
        "invalid_request",
        "Nothing to suppress: hardBounce, manual, unsubscribe or spamComplaint is needed.",
        "not_found_error",
        body={},
    ),
    Row(
        "nothing to suppress no longer",
        "DELETE",
        "/subaccount/suppression",
        406,
        "invalid_request",
        "Nothing to delete: suppressions is empty.",
        "not_found_error",
        body={"suppressions": []},
    ),
    Row(
        "no list of suppressions",
        "DELETE",
        "/subaccount/suppression",
        422,
        "validation_error",
        "suppressions is required.",
        "invalid_request_error",
        "suppressions",
        body={},
    ),
    Row(
        "a suppression of nobody",
        "POST",
        "/subaccount/suppression",
        422,
        "validation_error",
        "manual[1].email must be a mail address of the form local@domain, without spaces.",
        "invalid_request_error",
        "manual[1].email",
        body={"manual": [{"email": "a@example.net"}, {"email": "nobody"}]},
    ),
    Row(
        "a body in another encoding",
        "POST",
        EMAIL,
        415,
        "invalid_request",
        "The request body must not be compressed: send it without Content-Encoding.",
        "invalid_request_error",
        body=letter(),
        headers={"Content-Encoding": "gzip"},
    ),
    Row(
        "a message too large",
        "POST",
        EMAIL,
        413,
        "validation_error",
        f"The message is larger than {MESSAGE_BYTES} bytes.",
        "invalid_request_error",
        body=letter(textBody="x" * 70 + "\n" * MESSAGE_BYTES),
    ),
    invalid("no sender", "from", "from is required.", **{"from": ...}),
    invalid("no address of the sender", "from.email", "from.email is required.", **{"from": {}}),
    invalid("a sender that is no object", "from", "from must be an object.", **{"from": "a@b.test"}),
    invalid("no recipients", "to", "to is required.", to=...),
    invalid("an empty list of recipients", "to", "to must have at least 1 items.", to=[]),
    invalid("too many recipients", "to", "to must have at most 1000 items.", to=[{"email": "a@example.net"}] * 1001),
    invalid("a recipient that is no object", "to[0]", "to[0] must be an object.", to=["a@example.net"]),
    invalid("no subject", "subject", "subject is required, unless a template has one.", subject=...),
    invalid("no text", "htmlBody", "htmlBody, textBody or a template is required.", textBody=...),
    invalid("an unknown template", "template", "template names no template of this account.", template="nothing"),
    invalid(
        "an unknown pool",
        "ippool",
        'There is no ippool "nothing" that this account may use; leave it out to send as usual.',
        ippool="nothing",
    ),
    invalid(
        "a header field of the server's",
        "headers",
        "header Received cannot be set: the server writes it.",
        headers={"Received": "x"},
    ),
    invalid(
        "Base64 that is none",
        "attachments[0].content",
        "attachments[0].content is not valid Base64.",
        attachments=[{"content": "*", "filename": "a"}],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_error_is_this_one(row: Row, client: httpx.Client, account: Account) -> None:
    values = {name: getattr(account, name) for name in ("key", "sub_key", "sub_domain", "domain")}

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)

    both = {**account.account_headers, **account.sub_headers}
    keys = both if row.keys is None else {name: filled(value) for name, value in row.keys.items()}
    content = None if row.body is None else filled(json.dumps(row.body)).encode()
    answer = client.request(row.method, "/api/v1" + row.path, content=content, headers={**keys, **row.headers})
    assert (answer.status_code, answer.text) == (row.status, json.dumps(row.error, separators=(",", ":")))
    assert answer.headers["x-sendpost-public-contract"] == "v1"


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.keys is None and row.status not in (405, 413, 415) and row.message != "Not Found"],
    ids=lambda row: row.name,
)
def test_strangers_are_told_of_nothing_else(row: Row, client: httpx.Client) -> None:
    """Whatever is wrong with a request on a path that there is, if its body arrives."""
    keys = {"X-SubAccount-ApiKey": UNKNOWN_KEY, "X-Account-ApiKey": UNKNOWN_KEY}
    content = None if row.body is None else json.dumps(row.body).encode()
    answer = client.request(row.method, "/api/v1" + row.path, content=content, headers={**keys, **row.headers})
    expected = unauthorized(row.name, row.path, keys).error
    assert (answer.status_code, answer.text) == (401, json.dumps(expected, separators=(",", ":")))


def test_a_key_that_may_not_send_is_told_of_nothing_else(
    shared_stack: Stack, client: httpx.Client, account: Account
) -> None:
    headers = {"X-SubAccount-ApiKey": api_key(shared_stack.operator, account.name, ("domains",))}
    text = "This API key may not send mail; use one with the scope 'mail'."
    error = {"code": "authentication_failed", "message": text, "type": "authentication_error"}
    expected = json.dumps({"error": error}, separators=(",", ":"))

    def send(content: bytes) -> tuple[int, str]:
        answer = client.post(f"/api/v1{EMAIL}", content=content, headers=headers)
        return answer.status_code, answer.text

    good = json.dumps(letter()).encode()
    wait_until_steady(lambda: send(good) == (401, expected), "the workers know the key")
    for content in (b"{}", b"{", json.dumps(letter(to=...)).encode()):
        assert send(content) == (401, expected)
