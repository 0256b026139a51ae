"""The original's errors as data: each row is provoked against real programs and compared octet by octet."""

import asyncio
import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from barua.control.v1 import suppression_service_pb2, template_pb2, template_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.control.v1.template_service_pb2_grpc import TemplateServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from api_bridge.app import application, parts
from api_bridge.backend import Backend
from mta.runtime.lifecycle import Drain
from tests.integration.bridge.conftest import MESSAGE_BYTES
from tests.integration.bridge.sendpulse.conftest import Account, address
from tests.support.stack import Stack
from tests.support.waiting import wait_until

INCOMPRESSIBLE = base64.b64encode(bytes(range(256)) * (MESSAGE_BYTES // 256)).decode()
TEXT = base64.b64encode(b"<p>x</p>").decode()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table; ``request`` is the JSON body, or the query of a GET."""

    method: str
    path: str
    request: Any
    status: int
    code: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """What the answer is, to the last octet."""
        return f'{{"message":"{self.message}","error_code":{self.code}}}'.encode()


def send(status: int, code: int, message: str, **fields: Any) -> Row:
    """A message with these fields; ``...`` leaves one out. Without "from" it is from the account's domain."""
    email = {
        "html": TEXT,
        "text": "t",
        "subject": "s",
        "from": {"name": "n", "email": "a@SENDER"},
        "to": [{"email": "r@example.net"}],
    }
    email = {name: value for name, value in {**email, **fields}.items() if value is not ...}
    return Row("POST", "/smtp/emails", {"email": email}, status, code, message)


SENDING = [
    Row("POST", "/smtp/emails", {}, 422, 422, "Argument email missing"),
    Row("POST", "/smtp/emails", None, 422, 422, "Argument email missing"),
    Row("POST", "/smtp/emails", {"email": ""}, 422, 422, "Argument email missing"),
    Row("POST", "/smtp/emails", {"email": None}, 422, 422, "Argument email missing"),
    Row("POST", "/smtp/emails", {"email": "{broken"}, 422, 999, "Badly formed incoming data"),
    Row("POST", "/smtp/emails", {"email": "a:1:{s:4:\\"}, 422, 999, "Badly formed incoming data"),
    Row("POST", "/smtp/emails", {"email": 'O:8:"stdClass":0:{}'}, 422, 999, "Badly formed incoming data"),
    Row("POST", "/smtp/emails", {"email": "words"}, 422, 999, "Badly formed incoming data"),
    Row("POST", "/smtp/emails", {"email": [1]}, 422, 999, "Badly formed incoming data"),
    send(422, 422, "Argument from is invalid", **{"from": "a@b.test"}),
    send(422, 10, "Argument from.email missing", **{"from": ...}),
    send(422, 10, "Argument from.email missing", **{"from": {"name": "n"}}),
    send(422, 10, "Argument from.email missing", **{"from": {"email": ""}}),
    send(422, 10, "Argument from.email is invalid", **{"from": {"email": "nobody"}}),
    send(422, 10, "Argument from.email is invalid", **{"from": {"email": ["a@b.test"]}}),
    send(422, 11, "Argument email.to is invalid", to=...),
    send(422, 11, "Argument email.to is invalid", to=[]),
    send(422, 11, "Argument email.to is invalid", to=["r@example.net"]),
    send(422, 11, "Argument email.to is invalid", to="r@example.net"),
    send(422, 12, "Argument subject missing", subject=...),
    send(422, 12, "Argument subject missing", subject=""),
    send(422, 13, "Missed email body", html=..., text=...),
    send(422, 13, "Missed email body", html="", text=None, template=None),
    send(422, 999, "Badly formed incoming data", html="no tags, no Base64!"),
    send(422, 10, "Argument template.id missing", html=..., template={"variables": {}}),
    send(422, 10, "Argument template.id missing", html=..., template=[]),
    send(422, 422, "Argument template is invalid", html=..., template="welcome"),
    send(422, 422, "Argument template is invalid", html=..., template={"id": [1]}),
    send(422, 731, "Variables list passed in wrong format", template={"id": 1, "variables": "a"}),
    send(422, 731, "Variables list passed in wrong format", template={"id": 1, "variables": {"a": [1]}}),
    send(422, 31, "Template not found", template={"id": 2_000_000_000}),
    send(422, 31, "Template not found", template={"id": "nothing/here"}),
    send(422, 32, "Template body is empty", template={"id": "EMPTY"}),
    send(422, 422, "Argument attachments_binary is invalid", attachments_binary={"a.txt": "***"}),
    send(422, 422, "Argument attachments_binary is invalid", attachments_binary=["bXk="]),
    send(422, 422, "Recipient email is invalid", to=[{"email": "nobody"}]),
    send(422, 422, "Recipient email is invalid", to=[{"name": "Nobody"}]),
    send(422, 422, "Recipient email is invalid", cc=[{"email": "a b@example.net"}]),
    send(422, 550, "5.5.3 Too many recipients", bcc=[{"email": f"r{n}@example.net"} for n in range(1000)]),
    send(422, 422, "Message size limit exceeded", attachments_binary={"a.bin": INCOMPRESSIBLE}),
    send(422, 422, "Sender is not valid", **{"from": {"email": "a@elsewhere.test"}}),
]  # fmt: skip
"""In the order in which they are checked; what the account makes a difference for is below."""

EVERYTHING_ELSE = [
    Row("GET", "/smtp/emails/pzkic9-0afezp-fc", None, 400, 14, "No such email"),
    Row("GET", "/smtp/emails/123", None, 400, 14, "No such email"),
    Row("GET", "/smtp/emails/nothing", None, 400, 14, "No such email"),
    Row("POST", "/smtp/emails/info", {}, 400, 832, "Emails param empty or incorrect"),
    Row("POST", "/smtp/emails/info", {"emails": []}, 400, 832, "Emails param empty or incorrect"),
    Row("POST", "/smtp/emails/info", {"emails": "x"}, 400, 832, "Emails param empty or incorrect"),
    Row("POST", "/smtp/emails/info", {"emails": [{}]}, 400, 832, "Emails param empty or incorrect"),
    Row("POST", "/smtp/emails/info", {"emails": ["1"] * 501}, 400, 832, "Emails param empty or incorrect"),
    Row("POST", "/smtp/emails/info", {"emails": ["qj7rpf-0q8ru6-ou"]}, 400, 14, "No such emails"),
    Row("POST", "/smtp/unsubscribe", {}, 400, 14, "Empty emails"),
    Row("POST", "/smtp/unsubscribe", {"emails": []}, 400, 14, "Empty emails"),
    Row("POST", "/smtp/unsubscribe", [], 400, 14, "Empty emails"),
    Row("POST", "/smtp/unsubscribe", {"emails": [{"comment": "c"}]}, 400, 14, "Empty emails"),
    Row("DELETE", "/smtp/unsubscribe", {}, 400, 14, "Empty emails"),
    Row("DELETE", "/smtp/unsubscribe", {"emails": "[]"}, 400, 14, "Empty emails"),
    Row("GET", "/smtp/unsubscribe/search", None, 422, 422, "Empty email parameter"),
    Row("GET", "/smtp/unsubscribe/search", {"email": "nobody"}, 422, 422, "Wrong email parameter"),
    Row("POST", "/smtp/resubscribe", {"sender": "a@b.test"}, 422, 422, "Argument email missing"),
    Row("POST", "/smtp/resubscribe", {"email": "x", "sender": "a@b.test"}, 422, 422, "Argument email is invalid"),
    Row("POST", "/smtp/resubscribe", {"email": "a@b.test"}, 422, 422, "Argument sender missing"),
    Row("POST", "/smtp/resubscribe", {"email": "a@b.test", "sender": "a@b.test", "lang": ["en"]},
        422, 422, "Argument lang must be string"),
    Row("POST", "/smtp/resubscribe", {"email": "a@b.test", "sender": "a@b.test"}, 422, 422, "Blocked email not found"),
    Row("POST", "/senders", {"name": "n"}, 422, 422, "Argument email missing"),
    Row("POST", "/senders", {"email": "x", "name": "n"}, 422, 422, "Argument email is invalid"),
    Row("POST", "/senders", {"email": "a@example.net"}, 422, 422, "Argument name missing"),
    Row("POST", "/senders", {"email": "a@example.net", "name": ["n"]}, 422, 422, "Argument name is invalid"),
    Row("POST", "/senders", {"email": "a@example.net", "name": "a\r\nb"}, 422, 422, "Argument name is invalid"),
    Row("POST", "/senders", {"email": "a@strict.test", "name": "n"},
        422, 422, "DMARC policy error. Please, use another sender domain."),
    Row("POST", "/senders", {"email": "a@free.test", "name": "n"}, 422, 904, "This email in blacklist"),
    Row("POST", "/template", {"name": "n"}, 422, 422, "Argument body missing"),
    Row("POST", "/template", {"name": "n", "body": "***"}, 422, 422, "Argument body is invalid string"),
    Row("POST", "/template", {"name": "n", "body": [1]}, 422, 422, "Argument body is invalid string"),
    Row("POST", "/template/edit/nothing", {"body": TEXT}, 404, 31, "Template not found"),
    Row("GET", "/template/2000000000", None, 404, 290, "Template not found"),
    Row("GET", "/smtp/nothing/here", None, 404, 404, "Not Found"),
    *(
        Row(method, path, None, 401, 401, "Unauthorized!", {"Authorization": bearer})
        for bearer in ("", "Bearer", "Bearer x", "Basic YTpi", "Bearer bk_aaaaaaaaaaaa_" + "a" * 32, "Bearer bt_none")
        for method, path in (("POST", "/smtp/emails"), ("GET", "/smtp/emails"), ("GET", "/senders"))
        if (method, bearer) != ("POST", "Bearer bt_none")
    ),
]  # fmt: skip


def ask(client: httpx.Client, row: Row) -> httpx.Response:
    """The request of a row, with what it needs to reach its error."""
    if row.method == "GET":
        return client.get(row.path, params=row.request, headers=row.headers)
    content = b"" if row.request is None else json.dumps(row.request).encode()
    headers = {"Content-Type": "application/json", **row.headers}
    if row.path == "/smtp/emails" and row.status == 401:
        content = (
            b'{"email": {"text": "t", "subject": "s", "from": {"email": "a@b.test"}, "to": [{"email": "r@c.test"}]}}'
        )
    return client.request(row.method, row.path, content=content, headers=headers)


def check(answer: httpx.Response, row: Row) -> None:
    assert (answer.status_code, answer.content) == (row.status, row.body), row
    assert answer.headers["content-type"] == "application/json"


@pytest.fixture(scope="module")
def empty_template(stack: Stack, account: Account) -> str:
    """A template whose body is empty if its variable is."""
    operator = stack.operator
    request = template_service_pb2.CreateTemplateRequest(
        parent=f"tenants/{account.tenant}", template=template_pb2.Template(display_name="empty", html="{{body}}")
    )
    made = operator.call(TemplateServiceStub(operator.control).CreateTemplate, request)
    return str(made.name.rpartition("/")[2])


def test_sending_in_the_order_of_checks(client: httpx.Client, account: Account, empty_template: str) -> None:
    for row in SENDING:
        text = json.dumps(row.request).replace("SENDER", account.domain).replace("EMPTY", empty_template)
        check(ask(client, Row(row.method, row.path, json.loads(text), row.status, row.code, row.message)), row)


def test_the_first_fault_is_told(client: httpx.Client) -> None:
    """A message with every fault is told of one after the other, as they are mended."""
    email: dict[str, Any] = {"from": 1, "to": [], "template": "x", "attachments_binary": 1}
    mending: list[tuple[str, dict[str, Any]]] = [
        ("Argument from is invalid", {"from": {}}),
        ("Argument from.email missing", {"from": {"email": "x"}}),
        ("Argument from.email is invalid", {"from": {"email": "a@elsewhere.test"}}),
        ("Argument email.to is invalid", {"to": [{"email": f"{n}"} for n in range(1001)]}),
        ("Argument subject missing", {"subject": "s"}),
        ("Argument template is invalid", {"template": None}),
        ("Missed email body", {"text": "x" * MESSAGE_BYTES}),
        ("Argument attachments_binary is invalid", {"attachments_binary": None}),
        ("Recipient email is invalid", {"to": [{"email": f"r{n}@example.net"} for n in range(1001)]}),
        ("5.5.3 Too many recipients", {"to": [{"email": "r@example.net"}]}),
    ]
    for message, mended in mending:
        assert client.post("/smtp/emails", json={"email": email}).json()["message"] == message
        email |= mended
    # Size and sender are the MTA's to judge, which looks at the sender first.
    assert client.post("/smtp/emails", json={"email": email}).json()["message"] == "Sender is not valid"


def test_everything_else(client: httpx.Client) -> None:
    for row in EVERYTHING_ELSE:
        check(ask(client, row), row)


@pytest.mark.parametrize("bearer", ["bk_wrong", f"bk_{'a' * 12}_{'a' * 32}", "bt_none"])
def test_strangers_are_told_of_nothing_else(client: httpx.Client, bearer: str) -> None:
    """Whatever is wrong with a request on a path that there is."""
    stranger = {"Authorization": f"Bearer {bearer}"}
    wrong = [
        *SENDING,
        *(row for row in EVERYTHING_ELSE if row.message != "Not Found" and row.status != 401),
        Row("POST", "/smtp/emails", {}, 422, 422, ""),
        Row("POST", "/smtp/emails", "{", 422, 999, ""),
        Row("GET", "/smtp/emails", {"limit": "x"}, 422, 422, ""),
        Row("POST", "/v2/email-service/smtp/sender_domains/x", None, 422, 422, ""),
    ]
    unauthorized = b'{"message":"Unauthorized!","error_code":401}'
    for row in wrong[:: 1 if bearer == "bk_wrong" else 5]:
        answer = ask(client, Row(row.method, row.path, row.request, row.status, row.code, row.message, stranger))
        assert (answer.status_code, answer.content) == (401, unauthorized), row


def test_names_and_addresses_that_are_taken(client: httpx.Client) -> None:
    sender = address()
    assert client.post("/senders", json={"email": sender, "name": "n"}).json() == {"result": True}
    row = Row("POST", "/senders", {"email": sender, "name": "n"}, 422, 902, "Email already in use")
    check(ask(client, row), row)
    name = f"name {address()}"
    assert client.post("/template", json={"name": name, "body": TEXT}).status_code == 200
    row = Row("POST", "/template", {"name": name, "body": TEXT}, 422, 573, "Template with such name already exist")
    check(ask(client, row), row)


def test_accounts_that_may_not(stack: Stack, make_account: Callable[..., Account], account: Account) -> None:
    """What depends on the account: suspended, without credits, at its limit, without a sender, with few scopes."""
    operator = stack.operator
    suspended, poor, unset = make_account(), make_account(credits=0), make_account(domain=False)
    limited = make_account(limits=tenant_pb2.TenantLimits(hourly_recipients=0))
    reader, mailer = make_account(scopes=("messages", "suppressions")), make_account(scopes=("mail",))
    operator.call(
        TenantServiceStub(operator.control).SuspendTenant,
        tenant_service_pb2.SuspendTenantRequest(name=f"tenants/{suspended.tenant}", reason="not paid"),
    )
    blocked = address()
    operator.call(
        SuppressionServiceStub(operator.control).CreateSuppression,
        suppression_service_pb2.CreateSuppressionRequest(parent=f"tenants/{unset.tenant}", address=blocked),
    )
    no_user = "No such SMTP user, you need to create SMTP account first"
    tariff = "Your tariff does not allow the operation"
    unset_sender = send(422, 400, no_user, **{"from": {"email": "a@nowhere.test"}})
    table = [
        (suspended, send(403, 403, "Account expired")),
        (suspended, Row("POST", "/smtp/unsubscribe", {"emails": [blocked]}, 403, 403, "Account expired")),
        (poor, send(422, 422, "Sending quota or bandwidth exceeded")),
        (limited, send(422, 422, "Sending from your account is currently limited. Please try later.")),
        (unset, unset_sender),
        (unset, Row("GET", "/smtp/emails/total", None, 422, 400, no_user)),
        (unset, Row("POST", "/smtp/resubscribe", {"email": blocked, "sender": "a@nowhere.test"},
                    422, 503, "Smtp user not found")),
        (reader, send(403, 800, "Unauthorized action.")),
        (reader, Row("GET", "/senders", None, 403, 800, "Unauthorized action.")),
        (mailer, Row("GET", "/smtp/emails", None, 422, 422, tariff)),
        (mailer, Row("GET", "/smtp/unsubscribe", None, 422, 422, tariff)),
        (mailer, Row("GET", "/smtp/emails/total", None, 422, 422, tariff)),
    ]  # fmt: skip
    with httpx.Client(base_url=stack.bridge_url, timeout=60) as client:
        for who, row in table:
            text = json.dumps(row.request).replace("SENDER", who.domain)
            asked = Row(row.method, row.path, json.loads(text), row.status, row.code, row.message, who.headers)
            wait_until(lambda: ask(client, asked).status_code == row.status, f"{row} is in force")  # noqa: B023
            check(ask(client, asked), row)


def test_half_a_send_is_not_silent(stack: Stack, make_account: Callable[..., Account]) -> None:
    """With credits for one of two recipients, one is sent to and the other is named."""
    account = make_account(credits=1)
    recipients = [address(), address()]
    body = {"email": account.email(to=[{"email": one} for one in recipients])}
    with httpx.Client(base_url=stack.bridge_url, timeout=60, headers=account.headers) as client:

        def send() -> dict[str, Any]:
            answer = client.post("/smtp/emails", json=body)
            return answer.json() if answer.status_code == 200 else {}

        answer = wait_until(send, "it can send")
    failure = {"email": recipients[1], "message": "Sending quota or bandwidth exceeded", "error_code": 422}
    assert answer["result"] is True and answer["failed"] == [failure]


def test_five_a_day(client: httpx.Client, account: Account) -> None:
    """Five, however many are asked for at once; a repetition with its key is the same one."""
    blocked = [address() for _ in range(9)]
    client.post("/smtp/unsubscribe", json={"emails": blocked})

    def resubscribe(one: str) -> httpx.Response:
        body = {"email": one, "sender": account.sender, "lang": "en"}
        return client.post("/smtp/resubscribe", json=body, headers={"Idempotency-Key": one})

    with ThreadPoolExecutor(9) as pool:
        answers = dict(zip(blocked, pool.map(resubscribe, blocked), strict=True))
    asked = [one for one in blocked if answers[one].status_code == 200]
    assert len(asked) == 5
    assert all(resubscribe(one).json() == answers[one].json() for one in asked)
    message = "No more than 5 are allowed per day"
    for one in blocked:
        if one not in asked:
            check(answers[one], Row("POST", "/smtp/resubscribe", None, 422, 422, message))


def test_too_fast(stack: Stack, account: Account) -> None:
    """Off by default: another bridge in front of the same programs has a limit, so low that the test may be slow."""
    dialects = stack.options.bridge.dialects
    fast = replace(dialects, sendpulse=replace(dialects.sendpulse, requests_per_second=0.01, burst=10))
    options = replace(stack.options, bridge=replace(stack.options.bridge, dialects=fast))
    row = Row("GET", "/smtp/senders", None, 429, 2020202020, "More than 10 requests per second")

    async def run() -> None:
        backend = Backend(options)
        try:
            transport = httpx.ASGITransport(application(parts(options, backend), Drain()))
            async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as client:
                answers = await asyncio.gather(*(client.get(row.path, headers=account.headers) for _ in range(11)))
            assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429]
            refused = next(answer for answer in answers if answer.status_code == 429)
            check(refused, row)
            assert 90 <= int(refused.headers["retry-after"]) <= 100
        finally:
            await backend.close()

    asyncio.run(run())


def test_tokens(client: httpx.Client, account: Account) -> None:
    """Wrong credentials are 401 with the word that ends the clients' attempts; a wrong grant is 400."""
    text = "Client authentication failed."
    wrong = {"error": "invalid_client", "error_description": text, "message": text, "error_code": 1}
    good = {"grant_type": "client_credentials", "client_id": account.client_id, "client_secret": account.client_secret}
    for fields in ({"client_secret": "wrong"}, {"client_id": "nobody"}, {"client_id": ""}, {"client_secret": None}):
        for form in (False, True):
            given = {**good, **fields}
            data, document = (given, None) if form else (None, given)
            answer = client.post("/oauth/access_token", data=data, json=document)
            assert answer.content == json.dumps(wrong, separators=(",", ":")).encode(), fields
            assert answer.status_code == 401
    for grant in ("password", "", None):
        answer = client.post("/oauth/access_token", json={**good, "grant_type": grant})
        assert answer.status_code == 400 and answer.json()["error"] == "unsupported_grant_type"
        assert {"message", "error_code", "is_error"} <= answer.json().keys()
    # Without is_error one client takes the answer for a token, and its process ends.
    broken = client.post("/oauth/access_token", content="{").json()
    assert broken == {"message": "Badly formed incoming data", "error_code": 999, "is_error": 1}
    assert client.post("/oauth/access_token", json=good).headers["cache-control"] == "no-store"
