"""Every error of MailPass, provoked on a running installation and compared to the byte; and input that is wrong."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.integration.bridge.conftest import MESSAGE_BYTES
from tests.support.mailpass import (
    BATCH,
    SEND,
    STATUS,
    Account,
    limit,
    make_account,
    make_key,
    sending,
    wait_until_known,
)
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until, wait_until_steady

WEBHOOKS, BOUNCES = "/api/v1/webhooks", "/api/v1/bounces"
GOOD = {"to": "ann@example.net", "subject": "Hello", "html": "<p>Hello</p>"}
UNKNOWN_KEY = "bk_" + "a" * 12 + "_" + "b" * 32


class Accounts:
    """Accounts in the states that errors need; those that never change are shared by all tests."""

    def __init__(self, stack: Stack, client: httpx.Client) -> None:
        operator = stack.operator
        self.usual = make_account(operator)
        self.bare = make_account(operator, domain=False)
        self.limited = make_account(operator)
        self.poor = make_account(operator, credits=0)
        self.suspended = make_account(operator)
        self.gone = f"gone-{uuid.uuid4().hex[:8]}@example.net"
        other = make_key(operator, self.usual.tenant, ["domains"])
        self.unfit = Account(self.usual.tenant, other, self.usual.domain)
        full = make_key(operator, self.usual.tenant, ["mail", "suppressions", "webhooks"])
        self.full = Account(self.usual.tenant, full, self.usual.domain)
        limit(operator, self.limited.tenant, hourly=1)
        operator.suppress(self.usual.tenant, self.gone)
        for account in (self.usual, self.limited, self.full):
            wait_until_known(client, account)
        wait_until_steady(
            lambda: sending(client, self.usual, to=self.gone).status_code == 422, "the suppression is known"
        )
        wait_until_steady(lambda: sending(client, self.limited).status_code == 429, "the limit is used up")
        wait_until_steady(
            lambda: sending(client, self.bare).status_code == 422, "the account without a domain is known"
        )
        wait_until_steady(lambda: sending(client, self.poor).status_code == 500, "the account without credits is known")
        wait_until_steady(lambda: sending(client, self.unfit).status_code == 403, "the key without permission is known")


@pytest.fixture(scope="module")
def accounts(shared_stack: Stack) -> Iterator[Accounts]:
    """The accounts."""
    with httpx.Client(base_url=shared_stack.bridge_url, timeout=60) as client:
        yield Accounts(shared_stack, client)


def post(
    path: str, body: Any, who: str = "usual", **headers: str
) -> Callable[[httpx.Client, Accounts], httpx.Response]:
    """A request with the key of an account; a body of bytes goes as it is."""

    def ask(client: httpx.Client, accounts: Accounts) -> httpx.Response:
        value = body(accounts) if callable(body) else body
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        shown: Account = getattr(accounts, who)
        return client.post(path, content=content, headers={**shown.headers, **headers})

    return ask


def with_key(key: str) -> Callable[[httpx.Client, Accounts], httpx.Response]:
    """A good request with another Authorization field, or none."""
    headers = {"Authorization": key} if key else {}
    return lambda client, _: client.post(SEND, json=GOOD, headers=headers)


def get(path: str, who: str = "usual") -> Callable[[httpx.Client, Accounts], httpx.Response]:
    """A request without a body."""
    return lambda client, accounts: client.get(path, headers=getattr(accounts, who).headers)


def batch(*messages: Any, **fields: Any) -> dict[str, Any]:
    """The body of a batch."""
    return {"messages": list(messages), **fields}


PROVIDER = "No default SMTP provider is configured. Add one and make it the default, or give from_email."
LIMIT = "The sending limit of the SMTP provider is used up. Try again later."
KEY, PERMISSION = "The API key is missing or invalid.", "The API key does not have the permission for this."
UNSENT = "Sending failed: not enough credits; add credits and send again."

# (what, request, status, code, message); documented first, then ours
ERRORS: list[tuple[str, Callable[[httpx.Client, Accounts], httpx.Response], int, str, str]] = [
    ("no to", post(SEND, {}), 400, "VALIDATION_ERROR", "The to field is required."),
    ("no subject", post(SEND, {"to": "a@b.c"}), 400, "VALIDATION_ERROR", "The subject field is required."),
    (
        "no content",
        post(SEND, {"to": "a@b.c", "subject": "s"}),
        400,
        "VALIDATION_ERROR",
        "The html field is required when text is not present.",
    ),
    (
        "bad address",
        post(SEND, {**GOOD, "to": "nobody"}),
        400,
        "VALIDATION_ERROR",
        "The to field must be a valid email address.",
    ),
    ("a list", post(SEND, {**GOOD, "to": ["a@b.c"]}), 400, "VALIDATION_ERROR", "The to field must be a string."),
    ("no batch", post(BATCH, {}), 400, "VALIDATION_ERROR", "The messages field is required."),
    ("no array", post(BATCH, {"messages": {}}), 400, "VALIDATION_ERROR", "The messages field must be an array."),
    ("empty batch", post(BATCH, batch()), 400, "VALIDATION_ERROR", "The messages field must have 1 to 100 items."),
    (
        "long batch",
        post(BATCH, batch(*[GOOD] * 101)),
        400,
        "VALIDATION_ERROR",
        "The messages field must have 1 to 100 items.",
    ),
    (
        "bad default",
        post(BATCH, batch(GOOD, from_email="x")),
        400,
        "VALIDATION_ERROR",
        "The from_email field must be a valid email address.",
    ),
    (
        "another's address",
        post(SEND, {**GOOD, "from_email": "a@example.org"}),
        400,
        "VALIDATION_ERROR",
        "The from_email field is invalid: the sender domain example.org is not verified for this account; add and "
        "verify it first.",
    ),
    ("no provider", post(SEND, GOOD, "bare"), 422, "NO_SMTP_PROVIDER", PROVIDER),
    ("no provider, batch", post(BATCH, batch(GOOD, GOOD), "bare"), 422, "NO_SMTP_PROVIDER", PROVIDER),
    ("limit", post(SEND, GOOD, "limited"), 429, "SEND_LIMIT_EXCEEDED", LIMIT),
    ("limit, batch", post(BATCH, batch(GOOD, {"to": "x"}), "limited"), 429, "SEND_LIMIT_EXCEEDED", LIMIT),
    (
        "suppressed",
        post(SEND, lambda accounts: {**GOOD, "to": accounts.gone}),
        422,
        "SEND_FAILED",
        "Sending failed: GONE is on the suppression list (scope: account, reason: manual).",
    ),
    ("no credits", post(SEND, GOOD, "poor"), 500, "SEND_FAILED", UNSENT),
    ("no credits, batch", post(BATCH, batch(GOOD), "poor"), 500, "SEND_FAILED", UNSENT),
    ("no key", with_key(""), 401, "UNAUTHORIZED", KEY),
    ("no Bearer", with_key("Basic YTpi"), 401, "UNAUTHORIZED", KEY),
    ("malformed key", with_key("Bearer mp_live_YOUR_KEY"), 401, "UNAUTHORIZED", KEY),
    ("unknown key", with_key(f"Bearer {UNKNOWN_KEY}"), 401, "UNAUTHORIZED", KEY),
    (
        "unknown key, wrong body",
        lambda client, _: client.post(SEND, json={}, headers={"Authorization": f"Bearer {UNKNOWN_KEY}"}),
        401,
        "UNAUTHORIZED",
        KEY,
    ),
    ("no permission", post(SEND, GOOD, "unfit"), 403, "FORBIDDEN", PERMISSION),
    ("no permission, wrong body", post(SEND, {}, "unfit"), 403, "FORBIDDEN", PERMISSION),
    ("no permission, batch of nothing good", post(BATCH, batch({}), "unfit"), 403, "FORBIDDEN", PERMISSION),
    ("no permission, status", get(f"{STATUS}/1", "unfit"), 403, "FORBIDDEN", PERMISSION),
    ("no permission, bounces", get(BOUNCES), 403, "FORBIDDEN", PERMISSION),
    ("no permission, webhooks", get(WEBHOOKS), 403, "FORBIDDEN", PERMISSION),
    (
        "unknown message",
        get(f"{STATUS}/<abc123.1706600000@mailpass.im>"),
        404,
        "NOT_FOUND",
        "The message was not found.",
    ),
    ("no token", get(f"{STATUS}/<abc123@mailpass.im>"), 404, "NOT_FOUND", "The message was not found."),
    ("unknown queue id", get(f"{STATUS}/101"), 404, "NOT_FOUND", "The message was not found."),
    ("unknown webhook", get(f"{WEBHOOKS}/999999", "full"), 404, "NOT_FOUND", "The webhook was not found."),
    ("no number", get(f"{WEBHOOKS}/x", "full"), 404, "NOT_FOUND", "The webhook was not found."),
    (
        "method",
        get(SEND),
        405,
        "METHOD_NOT_ALLOWED",
        "Method GET is not allowed here; use POST.",
    ),
    (
        "too large",
        post(SEND, {**GOOD, "text": "x" * MESSAGE_BYTES}),
        413,
        "PAYLOAD_TOO_LARGE",
        f"The message is larger than {MESSAGE_BYTES} bytes.",
    ),
    (
        "compressed",
        post(SEND, GOOD, **{"Content-Encoding": "gzip"}),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "The request body must not be compressed: send it without Content-Encoding.",
    ),
    (
        "odd key",
        post(SEND, GOOD, **{"Idempotency-Key": "x" * 201}),
        400,
        "VALIDATION_ERROR",
        "Idempotency-Key must be given once and have 1 to 200 printable characters.",
    ),
    (
        "bounce without type",
        post(BOUNCES, {"email": "a@b.c"}, "full"),
        400,
        "VALIDATION_ERROR",
        "The bounce_type field is required.",
    ),
    (
        "bounce of no type",
        post(BOUNCES, {"email": "a@b.c", "bounce_type": "x"}, "full"),
        400,
        "VALIDATION_ERROR",
        "The bounce_type field must be one of: hard, soft, complaint.",
    ),
    (
        "page",
        get(f"{BOUNCES}?limit=0", "full"),
        400,
        "VALIDATION_ERROR",
        "The limit parameter must be a number of at least 1.",
    ),
]


@pytest.mark.parametrize(("what", "ask", "status", "code", "message"), ERRORS, ids=[row[0] for row in ERRORS])
def test_errors(
    what: str,
    ask: Callable[[httpx.Client, Accounts], httpx.Response],
    status: int,
    code: str,
    message: str,
    client: httpx.Client,
    accounts: Accounts,
) -> None:
    answer = ask(client, accounts)
    expected = {"success": False, "error": {"code": code, "message": message.replace("GONE", accounts.gone)}}
    assert (answer.status_code, answer.content) == (
        status,
        json.dumps(expected, separators=(",", ":"), ensure_ascii=False).encode(),
    )
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert ("www-authenticate" in answer.headers) == (status == 401)


STRANGER = Account("nobody", UNKNOWN_KEY, "nobody.test")


class Strangers:
    """Accounts whose key nobody has."""

    gone = "gone@example.net"
    usual = bare = limited = poor = suspended = unfit = full = STRANGER


@pytest.mark.parametrize("ask", [pytest.param(row[1], id=row[0]) for row in ERRORS if row[2] not in (405, 415)])
def test_strangers_are_told_of_nothing_else(
    ask: Callable[[httpx.Client, Any], httpx.Response], client: httpx.Client
) -> None:
    """Whatever is wrong with a request on a path that there is, if its body arrives."""
    answer = ask(client, Strangers())
    expected = b'{"success":false,"error":{"code":"UNAUTHORIZED","message":"The API key is missing or invalid."}}'
    assert (answer.status_code, answer.content) == (401, expected)


LINES = ("\r\n", "\n", "\r", "\0", "\x0b", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\ud800")
TEXT_FIELDS = ("to", "subject", "from_email", "from_name", "reply_to")


@pytest.mark.parametrize("name", [*TEXT_FIELDS, "cc", "bcc"])
def test_no_field_can_add_a_header_or_a_recipient(
    name: str, client: httpx.Client, accounts: Accounts, shared_sink: RecordingSink
) -> None:
    address = accounts.usual.sender if name in ("to", "from_email", "reply_to", "cc", "bcc") else "Text"
    good = {**GOOD, "to": f"nobody-{uuid.uuid4().hex[:8]}@example.net"}
    for end in LINES:
        for value in (f"{address}{end}Bcc: evil@example.net", f"{address}{end}", f"{end}{address}"):
            given: Any = [value] if name in ("cc", "bcc") else value
            body = json.dumps({**good, name: given})
            answer = client.post(SEND, content=body, headers=accounts.usual.headers)
            assert answer.status_code == 400, (name, value)
            assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
            row = {**good, name: given}
            rows = client.post(BATCH, content=json.dumps(batch(row)), headers=accounts.usual.headers)
            if rows.status_code == 200:  # half a surrogate spoils the whole body
                assert rows.json()["data"]["failed"] == 1, (name, value)
            else:
                assert rows.json()["error"]["code"] == "VALIDATION_ERROR"
    assert not {good["to"], "evil@example.net"} & set(shared_sink.recipients)


HARMLESS = [
    *("%0d%0aBcc: evil@example.net", "=?utf-8?q?a=0d=0aBcc:_evil@example.net?=", "{{ ''.__class__ }} {{unsubscribe}}"),
    *(
        "=?utf-8?b?DQpCY2M6IGV2aWxAZXhhbXBsZS5uZXQ=?=",
        '"quoted" <evil@example.net>, b',
        "<script>",
        "=cmd()",
        "a" * 998,
    ),
]


@pytest.mark.parametrize("value", HARMLESS)
def test_text_that_looks_like_more_stays_text(
    value: str, client: httpx.Client, accounts: Accounts, shared_sink: RecordingSink
) -> None:
    to = f"harmless-{uuid.uuid4().hex[:8]}@example.net"
    evil = {"a": "\r\nBcc: evil@example.net", "\r\nX-Evil": "1"}
    fields = {
        "subject": value,
        "from_name": value,
        "from_email": accounts.usual.sender,
        "text": value,
        "metadata": evil,
    }
    answer = client.post(SEND, json={"to": to, **fields, "tags": [value[:128]]}, headers=accounts.usual.headers)
    assert answer.status_code == 200, answer.text
    wait_until(lambda: to in shared_sink.recipients, "it is there")
    [received] = [one for one in shared_sink.received if to in one.recipients]
    message = received.message
    assert str(message["Subject"]) == value
    # Python's parser keeps the folding between encoded words in display names, which RFC 2047 §6.2 drops.
    assert message["From"].addresses[0].display_name.replace(" ", "") == value.replace(" ", "")
    assert message["From"].addresses[0].addr_spec == accounts.usual.sender
    assert len(message.get_all("To", [])) == len(message.get_all("From", [])) == 1
    assert not {"bcc", "x-evil", "tags", "metadata"} & {name.lower() for name in message.keys()}  # noqa: SIM118
    assert message.get_content().rstrip("\r\n") == value
    assert received.recipients == (to,)


ODD: list[Any] = [
    True,
    False,
    0,
    1.5,
    -1,
    10**30,
    [],
    {},
    [[]],
    [{}],
    {"a": 1},
    ["x", 1],
    [None],
    "",
    " ",
    "x" * 70_000,
]
ADDRESSES = [
    *("a@", "@b", "a@@b.c", "a b@c.d", "a@b c", "a@b.c, d@e.f", "a@b.c;d@e.f", "<a@b.c>", "A <a@b.c>", "a@b..c"),
    *("ä@b.c", "a@" + "b" * 320 + ".c", "a" * 320 + "@b.c", "a@[127.0.0.1]", "a@-b.c", "a\\@b", '"a@b.c', "a@b.c\t"),
]


@pytest.mark.parametrize(
    "name", [*GOOD, "text", "from_email", "from_name", "reply_to", "cc", "bcc", "tags", "metadata"]
)
def test_wrong_types_are_told(name: str, client: httpx.Client, accounts: Accounts) -> None:
    for value in ODD:
        answer = client.post(SEND, content=json.dumps({**GOOD, name: value}), headers=accounts.usual.headers)
        fit = (
            value in ("", {}, []) and name not in ("to", "subject") and isinstance(value, (str, list, dict))
        ) or answer.status_code == 200
        document = answer.json()
        assert isinstance(document, dict)
        if answer.status_code != 200:
            assert (answer.status_code, document["success"]) == (400, False), (name, value, document)
            assert f"The {name}" in document["error"]["message"], (name, value, document)
        else:
            assert fit
            allowed: dict[str, Any] = {
                "tags": ([],), "metadata": ({}, [], {"a": 1}), "cc": ([],), "bcc": ([],),
                "html": (" ", "x" * 70_000), "text": ("", " ", "x" * 70_000), "from_email": ("", " "),
                "from_name": ("", " "), "reply_to": ("", " "),
            }  # fmt: skip
            assert value in allowed.get(name, ()) and not isinstance(value, bool), (name, value)


@pytest.mark.parametrize("name", ["to", "from_email", "reply_to", "cc", "bcc"])
def test_what_is_no_address_is_told(name: str, client: httpx.Client, accounts: Accounts) -> None:
    for value in ADDRESSES:
        given: Any = [value] if name in ("cc", "bcc") else value
        answer = client.post(SEND, json={**GOOD, name: given}, headers=accounts.usual.headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR"), (name, value)


BODIES = [
    *(b"", b" ", b"null", b"[]", b'"x"', b"1", b"true", b"{", b'{"to"', b"to=a%40b.c&subject=s", b"\xff\xfe", b"{}{}"),
    b'{"to":"a@b.c","to":"d@e.f","subject":"s","text":"t"}',
    b'{"to":"a@b.c","subject":"s","text":"t","metadata":{"a":NaN}}',
    b'{"to":"a@b.c","subject":"s","text":"t","metadata":{"a":1e999}}',
    b'{"to":"a@b.c","subject":"s","text":"t","metadata":{"a":"\\u0000"}}',
    b'{"to":"a@b.c","subject":"s","text":"t","metadata":{"\\u0000":1}}',
    b'{"to":"a@b.c","subject":"s","text":"t","tags":["a\\nb"]}',
    b'{"to":"a@b.c","subject":"s","text":"t","metadata":' + b'{"a":' * 100 + b"1" + b"}" * 101,
    b'{"to":"a@b.c","subject":"s","text":"t","metadata":{"a":"' + b"x" * 33_000 + b'"}}',
    b'{"to":"a@b.c","subject":"s","text":"t","tags":[' + b",".join(b'"%d"' % one for one in range(21)) + b"]}",
    b"[" * 60_000,
    base64.b64encode(b"x" * 1000),
    b'a:1:{s:2:"to";s:5:"a@b.c";}',
]


@pytest.mark.parametrize("path", [SEND, BATCH, WEBHOOKS, BOUNCES])
def test_bodies_that_are_none(path: str, client: httpx.Client, accounts: Accounts) -> None:
    for body in BODIES:
        for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-16", ""):
            headers = {**accounts.full.headers, "Content-Type": kind}
            answer = client.post(path, content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR"), (body[:80], kind)
            assert answer.json()["success"] is False


def test_a_hundred_megabytes_are_not_read(client: httpx.Client, accounts: Accounts) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1600):
            yield b" " * 65_536

    try:
        answer = client.post(SEND, content=endless(), headers=accounts.usual.headers)
    except (httpx.WriteError, httpx.ReadError):  # it had answered, and closed
        return
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_slashes_and_types_are_taken_as_they_come(client: httpx.Client, accounts: Accounts) -> None:
    body, base = json.dumps(GOOD), str(client.base_url).rstrip("/")
    for path in (SEND, SEND + "/", "/" + SEND, SEND + "?"):
        for kind in (
            "application/json",
            "application/json; charset=UTF-8",
            "text/plain",
            "application/x-www-form-urlencoded",
        ):
            headers = {**accounts.usual.headers, "Content-Type": kind, "Accept": "text/html"}
            answer = client.post(f"{base}{path}", content=body, headers=headers)
            assert (answer.status_code, answer.json()["success"]) == (200, True), (path, kind)
