"""Credentials that are nobody's are told of before anything that is wrong with the request, in every dialect.

Control and the worker are real gRPC servers that say of all credentials what the test wants.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from barua.control.v1 import history_service_pb2, history_service_pb2_grpc, tenant_pb2, tenant_service_pb2_grpc
from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc

from api_bridge import backend
from mta.runtime import rpc
from mta.runtime.options import DialectsOptions, MailPassOptions, MSpaceOptions, SendPostOptions, SendPulseOptions
from mta.runtime.refusals import Reason, Refusal

from .conftest import BODY_BYTES, Bridge, running

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "bk_" + "a" * 12 + "_" + "a" * 32
LOGIN = {"authorization": "Basic " + base64.b64encode(b"reseller:secret-password").decode()}
BEARER = {"authorization": f"Bearer {KEY}"}
ACCOUNT, SUB_ACCOUNT = {"x-account-apikey": KEY}, {"x-subaccount-apikey": KEY}
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Judge:
    """What is said of credentials, and who was asked how often."""

    reason: Reason | None = None
    silent: bool = False
    asked: list[str] = field(default_factory=list)

    async def judge(self, who: str) -> None:
        """Say it."""
        self.asked.append(who)
        if self.silent:
            await asyncio.sleep(60)
        if self.reason is not None:
            raise Refusal(self.reason, "said of the credentials")


class Control(tenant_service_pb2_grpc.TenantServiceServicer):
    """Knows tenants."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def GetTenant(self, request: Any, context: Context) -> tenant_pb2.Tenant:
        """The caller's own."""
        assert request.name == "tenants/me"
        await self._judge.judge("control")
        return tenant_pb2.Tenant(name="tenants/acme")


class History(history_service_pb2_grpc.HistoryServiceServicer):
    """Knows no messages."""

    async def GetMessageRecord(self, request: Any, context: Context) -> history_service_pb2.MessageRecord:
        """There is none."""
        raise Refusal(Reason.NOT_FOUND, "there is no such message")


class Worker(injection_service_pb2_grpc.InjectionServiceServicer):
    """Judges as the MTA does: the caller, then the recipients."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def SubmitMessages(self, request: pb.SubmitMessagesRequest, context: Context) -> pb.SubmitMessagesResponse:
        """Nothing is sent here."""
        await self._judge.judge("mta")
        assert [one.message.validate_only for one in request.submissions] == [True]
        refusal = Refusal(Reason.INVALID_ARGUMENT, "give 1 to 1000 recipients", field="recipients")
        return pb.SubmitMessagesResponse(results=[pb.SubmissionResult(status=rpc.status_of(refusal))])


@dataclass
class Installation:
    """A bridge, and what those behind it say."""

    bridge: Bridge
    judge: Judge


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder: Path = tmp_path_factory.mktemp("precedence")
    (folder / "run").mkdir()
    judge = Judge()
    control, worker = rpc.new_server(), rpc.new_server()
    tenant_service_pb2_grpc.add_TenantServiceServicer_to_server(Control(judge), control)  # type: ignore[abstract]
    history_service_pb2_grpc.add_HistoryServiceServicer_to_server(History(), control)  # type: ignore[abstract]
    injection_service_pb2_grpc.add_InjectionServiceServicer_to_server(Worker(judge), worker)  # type: ignore[abstract]
    port = control.add_insecure_port("127.0.0.1:0")
    worker.add_insecure_port(f"unix:{folder / 'run' / 'worker-0.sock'}")
    await asyncio.gather(control.start(), worker.start())
    try:
        async with running(folder, control_address=f"127.0.0.1:{port}") as bridge:
            yield Installation(bridge, judge)
    finally:
        await asyncio.gather(control.stop(None), worker.stop(None))


@pytest.fixture
def installation(shared: Installation) -> Installation:
    shared.judge.reason, shared.judge.silent = None, False
    shared.judge.asked.clear()
    return shared


@dataclass(frozen=True)
class Row:
    """A request that is wrong; ``asked`` judges its credentials, ``fault`` is what it is told otherwise."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    asked: str
    status: int
    fault: str

    async def send(self, bridge: Bridge) -> httpx.Response:
        return await bridge.client.request(self.method, self.path, headers=self.headers, content=self.content)

    @property
    def dialect(self) -> str:
        return self.name.partition(" ")[0]


UNKNOWN = {
    "sendpulse": b'{"message":"Unauthorized!","error_code":401}',
    "sendpost": b'{"error":{"code":"authentication_failed","message":"The API key is missing or not valid for this '
    b'path.","type":"authentication_error"}}',
    "mailpass": b'{"success":false,"error":{"code":"UNAUTHORIZED","message":"The API key is missing or invalid."}}',
    "mspace": b'{"status":"error","message":"Authentication passed failed."}',
}
"""What is told of credentials that are nobody's."""


def pulse(name: str, method: str, path: str, content: bytes, status: int, code: int, text: str, asked: str) -> Row:
    fault = f'{{"message":"{text}","error_code":{code}}}'
    return Row(f"sendpulse {name}", method, path, BEARER, content, asked, status, fault)


def post(name: str, method: str, path: str, content: bytes, status: int, text: str, param: str, asked: str) -> Row:
    code = {400: "invalid_request", 406: "resource_not_found", 422: "validation_error"}[status]
    kind = "not_found_error" if status == 406 else "invalid_request_error"
    error: dict[str, Any] = {"code": code, "message": text, "type": kind}
    if param:
        error["param"] = param
        if status == 422:
            error["details"] = [{"field": param, "message": text}]
    headers = ACCOUNT if path.startswith("/account") else SUB_ACCOUNT
    fault = json.dumps({"error": error}, separators=(",", ":"))
    return Row(f"sendpost {name}", method, "/api/v1" + path, headers, content, asked, status, fault)


def mail(name: str, method: str, path: str, content: bytes, status: int, text: str, asked: str) -> Row:
    code = "NOT_FOUND" if status == 404 else "VALIDATION_ERROR"
    fault = f'{{"success":false,"error":{{"code":"{code}","message":"{text}"}}}}'
    return Row(f"mailpass {name}", method, "/api/v1" + path, BEARER, content, asked, status, fault)


def space(name: str, path: str, content: bytes, text: str, asked: str) -> Row:
    headers = LOGIN if asked == "control" else {}
    fault = f'{{"status":"error","message":"{text}"}}'
    return Row(f"mspace {name}", "POST", f"/email/api{path}", headers, content, asked, 400, fault)


NOT_JSON = "The request body is not JSON: line 1 column 2 cannot be read."
ROWS = [
    pulse("no email", "POST", "/smtp/emails", b"{}", 422, 422, "Argument email missing", "mta"),
    pulse("no JSON", "POST", "/smtp/emails", b"{", 422, 999, "Badly formed incoming data", "mta"),
    pulse("large", "POST", "/smtp/emails", b"{}" + b" " * (BODY_BYTES - 2), 422, 422, "Argument email missing", "mta"),
    pulse("no PHP", "POST", "/smtp/emails", b'{"email":"a:1:{"}', 422, 999, "Badly formed incoming data", "mta"),
    pulse("sender", "POST", "/senders", b"{}", 422, 422, "Argument email missing", "control"),
    pulse("no addresses", "POST", "/smtp/unsubscribe", b"", 400, 14, "Empty emails", "control"),
    pulse("page", "GET", "/smtp/emails?limit=x", b"", 422, 422, "Argument limit is invalid", "control"),
    pulse("no parameters", "POST", "/senders", b"{", 422, 999, "Badly formed incoming data", "control"),
    post("no to", "POST", "/subaccount/email/", b'{"from":{"email":"a@b.test"}}', 422, "to is required.", "to", "mta"),
    post("no JSON", "POST", "/subaccount/email", b"{", 422, NOT_JSON, "", "mta"),
    post("template", "POST", "/subaccount/email/template", b"{", 422, NOT_JSON, "", "mta"),
    post("domain", "POST", "/subaccount/domain", b"{}", 422, "name is required.", "name", "control"),
    post("page", "GET", "/subaccount/domain?limit=0", b"", 400,
         "limit must be a whole number from 1 to 1000.", "limit", "control"),
    post("number", "GET", "/subaccount/domain/x", b"", 406, "Domain not found.", "", "control"),
    mail("no to", "POST", "/mail/send", b"{}", 400, "The to field is required.", "mta"),
    mail("no JSON", "POST", "/mail/send-batch", b"{", 400, NOT_JSON, "mta"),
    mail("no message", "GET", "/mail/status/x", b"", 404, "The message was not found.", "control"),
    mail("webhook", "POST", "/webhooks", b"{}", 400, "The url field is required.", "control"),
    mail("page", "GET", "/bounces?limit=0", b"", 400, "The limit parameter must be a number of at least 1.", "control"),
    space("no to", "/send", b'{"apiKey":"%s"}' % KEY.encode(), "to is required", "mta"),
    space("type", "/send", b'{"to":1,"apiKey":"%s"}' % KEY.encode(), "to must be a string or an array", "mta"),
    space("address", "/send", b'{"apiKey":"%s","to":" ","subject":"s","body":"b"}' % KEY.encode(),
          "to is required", "mta"),
    space("sub-user", "/reseller/createSubUser", b"{}", "username is required", "control"),
    space("password", "/reseller/createSubUser", b'{"username":"u","password":"short"}',
          "password must be at least 8 characters long", "control"),
    space("no JSON", "/reseller/manageCredits", b"{", NOT_JSON, "control"),
    space("action", "/reseller/manageCredits", b'{"sub_username":"u","action":"x","amount":1}',
          "action must be ADD or DEDUCT", "control"),
]  # fmt: skip
rows = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@rows
async def test_a_stranger_is_told_of_the_credentials(installation: Installation, row: Row) -> None:
    installation.judge.reason = Reason.UNAUTHENTICATED
    answer = await row.send(installation.bridge)
    assert (answer.status_code, answer.content) == (401, UNKNOWN[row.dialect])
    assert installation.judge.asked == [row.asked]
    if row.headers == LOGIN:
        assert answer.headers["www-authenticate"] == 'Basic realm="Reseller API", charset="UTF-8"'


@rows
async def test_everybody_else_is_told_of_the_fault(installation: Installation, row: Row) -> None:
    others = (None, Reason.TENANT_SUSPENDED, Reason.RATE_LIMITED, Reason.UNAVAILABLE, Reason.INTERNAL)
    for reason in others:
        installation.judge.reason = reason
        answer = await row.send(installation.bridge)
        assert (answer.status_code, answer.text) == (row.status, row.fault), reason
    assert set(installation.judge.asked) == {row.asked}


FORBIDDEN = (
    b'{"success":false,"error":{"code":"FORBIDDEN","message":"The API key does not have the permission for this."}}'
)
WRONG = b'{"error":{"code":"authentication_failed","message":"Said of the credentials.","type":"authentication_error"}}'


@rows
async def test_a_key_that_may_not_send_is_the_wrong_one_where_that_comes_first(
    installation: Installation, row: Row
) -> None:
    """Of SendPost's paths and MailPass's groups of paths; what else a key may do, control says of the call itself."""
    installation.judge.reason = Reason.PERMISSION_DENIED
    answer = await row.send(installation.bridge)
    found = (answer.status_code, answer.content)
    if row.asked == "mta" and row.dialect == "mailpass":
        assert found == (403, FORBIDDEN)
    elif row.asked == "mta" and row.dialect == "sendpost":
        assert found == (401, WRONG)
    else:
        assert found == (row.status, row.fault.encode())


@pytest.mark.parametrize("row", [ROWS[0], ROWS[4]], ids=["mta", "control"])
async def test_who_does_not_answer_is_not_waited_for(
    installation: Installation, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "JUDGE_SECONDS", 0.1)
    installation.judge.silent = True
    answer = await row.send(installation.bridge)
    assert (answer.status_code, answer.text) == (row.status, row.fault)
    assert installation.judge.asked == [row.asked]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/smtp/emails", BEARER),
        ("/senders", BEARER),
        ("/api/v1/subaccount/email", SUB_ACCOUNT),
        ("/api/v1/subaccount/domain", SUB_ACCOUNT),
        ("/api/v1/mail/send", BEARER),
        ("/api/v1/webhooks", BEARER),
        ("/email/api/send", {}),
        ("/email/api/reseller/manageCredits", LOGIN),
    ],
)
async def test_what_comes_before_credentials_asks_nobody(
    installation: Installation, path: str, headers: dict[str, str]
) -> None:
    installation.judge.reason = Reason.UNAUTHENTICATED
    client = installation.bridge.client
    assert (await client.patch(path, headers=headers)).status_code == 405
    assert (await client.post(path, headers={**headers, "content-encoding": "gzip"})).status_code == 415
    large = await client.post(path, headers=headers, content=b" " * (BODY_BYTES + 1))
    assert large.status_code == (422 if path == "/smtp/emails" else 413)
    assert (await client.post(path, headers=headers and dict.fromkeys(headers, "x"), json={})).status_code == (
        401 if headers else 400
    )
    assert (await client.post(path + "/none/there", headers=headers)).status_code == 404
    assert installation.judge.asked == []


async def test_the_key_in_the_body(installation: Installation) -> None:
    """MSpace's: no key, and a body that nobody can read a key in, are faults; what cannot be a key is a wrong one."""
    client = installation.bridge.client
    for body, status, text in (
        (b"", 400, "The request body is empty: send a JSON object."),
        (b"{", 400, NOT_JSON),
        (b"{}", 400, "apiKey is required"),
        (b'{"apiKey":""}', 400, "to is required"),
        (b'{"apiKey":"","to":"a@b.test","subject":"s","body":"b"}', 400, "apiKey is required"),
        (b'{"apiKey":5}', 400, "apiKey must be a string"),
        (b'{"apiKey":"nonsense"}', 401, "Authentication passed failed."),
        (b'{"apiKey":"nonsense","to":5}', 401, "Authentication passed failed."),
    ):
        answer = await client.post("/email/api/send", content=body)
        assert (answer.status_code, answer.json()["message"]) == (status, text), body
    assert installation.judge.asked == []


async def test_whoever_refused_has_judged_already(installation: Installation) -> None:
    """A client that asks again and again for what is not there costs one call each time."""
    client = installation.bridge.client
    answer = await client.get("/api/v1/mail/status/101", headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
    answer = await client.get("/smtp/emails/123", headers=BEARER)
    assert (answer.status_code, answer.json()) == (400, {"message": "No such email", "error_code": 14})
    assert installation.judge.asked == []


async def test_what_comes_too_early_is_told_first(tmp_path: Path) -> None:
    dialects = DialectsOptions(
        sendpulse=SendPulseOptions(requests_per_second=0.01, burst=1),
        sendpost=SendPostOptions(requests_per_second=0.01, burst=1),
        mailpass=MailPassOptions(requests_per_second=0.01, burst=1),
        mspace=MSpaceOptions(requests_per_second=0.01, burst=1),
    )
    async with running(tmp_path, dialects=dialects) as bridge:
        first = {row.dialect: row for row in reversed(ROWS) if row.asked == "control"}
        for row in first.values():
            assert (await row.send(bridge)).status_code == row.status  # nobody is there to judge
            assert (await row.send(bridge)).status_code == 429
