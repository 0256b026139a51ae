"""SendPost: every error of the account's resources, provoked and compared byte for byte; and bad input of all kinds."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest

from barua.control.v1 import egress_pb2, egress_service_pb2
from barua.control.v1.egress_service_pb2_grpc import EgressServiceStub

from api_bridge.dialects.sendpost import (
    alerts,
    domains,
    ips,
    pools,
    senders,
    subaccounts,
    templates,
    validation,
    webhooks,
)
from api_bridge.dialects.sendpost.contract import Contract
from api_bridge.dialects.sendpost.operation import Key, Operation
from tests.integration.bridge.sendpost_errors import KINDS, ROWS, filled
from tests.support.operator import Operator
from tests.support.sendpost import Account, api_key, make_account
from tests.support.stack import Stack

Json = Any
MODULES = (alerts, domains, ips, pools, senders, subaccounts, templates, validation, webhooks)
OPERATIONS = [operation for module in MODULES for operation in module.operations()]
CONTRACTS: tuple[dict[str, str], ...] = ({}, {"X-SendPost-Public-Contract": "legacy"})
UNAUTHORIZED = {
    "code": "authentication_failed",
    "message": "The API key is missing or not valid for this path.",
    "type": "authentication_error",
}


def _source(operator: Operator, address: str, tenant: str) -> None:
    name = f"errors-{address.replace('.', '-')}"
    source = egress_pb2.Source(address=address, ehlo_name=f"{name}.example.net", tenant=f"tenants/{tenant}")
    request = egress_service_pb2.CreateSourceRequest(source_id=name, source=source)
    operator.call(EgressServiceStub(operator.control).CreateSource, request)


class Asker:
    """Requests with the keys of an account."""

    def __init__(self, client: httpx.Client, account: Account) -> None:
        self._client = client
        self._account = account

    def __call__(self, method: str, path: str, body: Json = None, **extra: Any) -> httpx.Response:
        headers = self._account.account_headers if path.startswith("/account") else self._account.sub_headers
        headers = headers | extra.pop("headers", {})
        content = {} if body is None else {"json": body}
        return self._client.request(method, f"/api/v1{path}", headers=headers, **content, **extra)


@pytest.fixture(scope="module")
def opened(shared_stack: Stack) -> Iterator[httpx.Client]:
    """An HTTP client for all tests here."""
    with httpx.Client(base_url=shared_stack.bridge_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def accounts(shared_stack: Stack) -> tuple[Account, Account]:
    """The account that asks, and another one."""
    return make_account(shared_stack.operator), make_account(shared_stack.operator)


@pytest.fixture(scope="module")
def ask(opened: httpx.Client, accounts: tuple[Account, Account]) -> Asker:
    """Requests of the account."""
    return Asker(opened, accounts[0])


@pytest.fixture(scope="module")
def things(
    shared_stack: Stack, opened: httpx.Client, ask: Asker, accounts: tuple[Account, Account]
) -> Mapping[str, Any]:
    """Something of everything, of the account and of the other one, by name."""
    own, other = accounts
    theirs = Asker(opened, other)
    for address, tenant in (("127.0.9.1", own.name), ("127.0.9.2", other.name), ("127.0.9.3", "operator")):
        _source(shared_stack.operator, address, tenant)
    hook = {"url": "https://example.org/taken"}
    found = {one["publicIp"]: one["id"] for one in ask("GET", "/account/ip").json()}
    made = {
        "pool": ask("POST", "/account/ippool", {"name": "Pool", "ips": [{"publicIP": "127.0.9.1"}]}),
        "foreign_pool": theirs("POST", "/account/ippool", {"name": "Pool"}),
        "webhook": ask("POST", "/account/webhook", hook),
        "second_webhook": ask("POST", "/account/webhook", {"url": "https://example.org/taken2"}),
        "foreign_webhook": theirs("POST", "/account/webhook", hook),
        "template": ask("POST", "/account/template", {"name": "Template", "html": "x"}),
        "foreign_template": theirs("POST", "/account/template", {"name": "Template", "html": "x"}),
        "alert": ask("POST", "/account/alert", {"name": "x", "parameter": "balance", "threshold": 1}),
        "sender": ask("POST", "/subaccount/sender", {"fromEmail": f"x@{own.sub_domain}"}),
    }
    assert all(answer.status_code in (200, 201) for answer in made.values())
    return {name: answer.json()["id"] for name, answer in made.items()} | {
        "name": own.name,
        "number": own.number,
        "sub_domain": own.sub_domain,
        "default": ask("GET", "/account/subaccount/").json()[0]["id"],
        "domain": ask("GET", "/subaccount/domain").json()[0]["id"],
        "foreign_domain": theirs("GET", "/subaccount/domain").json()[0]["id"],
        "foreign_domain_name": other.sub_domain,
        "foreign_number": other.number,
        "foreign_address": "127.0.9.2",
        "foreign_ip": theirs("GET", "/account/ip", params={"search": "127.0.9.2"}).json()[0]["id"],
        "ip": found["127.0.9.1"],
        "shared_ip": found["127.0.9.3"],
    }


def test_the_table_of_errors(ask: Asker, things: Mapping[str, Any]) -> None:
    wrong: list[str] = []
    for index, row in enumerate(ROWS):
        path = filled(row.path, things)
        if index % 2 and "?" not in path:
            path += "/"
        answer = ask(row.method, path, filled(row.body, things), headers=CONTRACTS[index % 3 == 0])
        if (answer.status_code, answer.content) != (row.status, row.expected(things)):
            wrong.append(f"{row.method} {path} {row.body}: {answer.status_code} {answer.text}")
    assert wrong == []


def test_a_request_that_differs_under_the_same_key(ask: Asker) -> None:
    headers = {"Idempotency-Key": "the same"}
    body: dict[str, Any] = {"name": "Once", "html": "x"}
    first = ask("POST", "/account/template", body, headers=headers)
    assert ask("POST", "/account/template/", body, headers=headers).content == first.content
    again = ask("POST", "/account/template", body | {"html": "y"}, headers=headers)
    assert (again.status_code, again.json()["error"]["code"]) == (409, KINDS[409][0])


def _path(operation: Operation, things: Mapping[str, Any]) -> str:
    """The path of an operation, with the id of something that is there."""
    last = operation.path.split("/")[2]
    names = {"subaccount": "number", "ippool": "pool"}
    path = operation.path
    for part in path.split("/"):
        if part.startswith("{"):
            path = path.replace(part, str(things[names.get(last, last)]))
    return path


def test_every_path_wants_the_right_key(
    opened: httpx.Client, shared_stack: Stack, accounts: tuple[Account, Account], things: Mapping[str, Any]
) -> None:
    """401 with the body of the API: no key, a wrong one, one in the wrong field, two, and one without the scope."""
    own, _ = accounts
    mail_only = api_key(shared_stack.operator, own.name, ("mail",))
    keys = {Key.ACCOUNT: own.key, Key.SUB_ACCOUNT: own.sub_key}
    for operation in OPERATIONS:
        (other,) = keys.keys() - {operation.key}
        field, good = operation.key.value, keys[operation.key]
        tried: list[list[tuple[str, str]]] = [
            [],
            [(field, "")],
            [(field, "nonsense")],
            [(field, f"bk_{'a' * 12}_{'a' * 32}")],
            [(other.value, good)],
            [(field, good), (field, good)],
            [(field, mail_only)],
        ]
        for headers in tried:
            body = None if operation.body is None else filled(GOOD[operation.name], things)
            query = {"jobId": "1"} if "validation" in operation.path else {}
            path = f"/api/v1{_path(operation, things)}"
            answer = opened.request(operation.method, path, headers=headers, json=body, params=query)
            assert answer.status_code == 401, (operation.name, headers, answer.text)
            assert answer.json()["error"] | {"message": ""} == UNAUTHORIZED | {"message": ""}, operation.name
            if headers != tried[-1]:
                assert answer.json()["error"] == UNAUTHORIZED, operation.name


def test_every_reading_path_in_both_contracts_and_both_forms(ask: Asker, things: Mapping[str, Any]) -> None:
    query = {"validation": {"tag": "none"}}
    for operation in OPERATIONS:
        if operation.method != "GET":
            continue
        bodies = set()
        for slash in ("", "/"):
            for headers in CONTRACTS:
                path = _path(operation, things) + slash
                answer = ask("GET", path, headers=headers, params=query.get(path.split("/")[2], {}))
                needs_job = "validation" in path and answer.status_code == 404
                assert needs_job or answer.status_code == 200, (path, answer.text)
                wanted = "legacy" if headers else "v1"
                assert answer.headers["x-sendpost-public-contract"] == wanted
                assert ("deprecation" in answer.headers) == bool(headers)
                bodies.add((wanted, answer.content))
        assert len({contract for contract, _ in bodies}) == len(bodies), operation.name


BAD: tuple[Json, ...] = (
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    " ",
    "x\r\nBcc: victim@example.net",
    "a\x00b",
    "\u2028\u202e",
    "\U0001f600" * 60,
    "x" * 5000,
    [],
    [None],
    [["x"]],
    ["x\r\ny"],
    {},
    {"a": {"b": []}},
)
"""What no field takes for good, each in the place of a good value."""
GOOD: dict[str, dict[str, Json]] = {
    "create_domain": {"name": "hostile.example"},
    "create_subaccount": {"name": "Hostile"},
    "update_subaccount": {"name": "Hostile 2"},
    "allocate_ip": {"ips": ["127.0.9.1"]},
    "allocate_new_ip": {"ips": ["127.0.9.1"]},
    "update_ip": {"autoWarmupEnabled": False},
    "create_ippool": {"name": "Hostile"},
    "update_ippool": {"name": "Pool"},
    "create_webhook": {"url": "https://example.org/hostile"},
    "update_webhook": {"url": "https://example.org/taken"},
    "create_template": {"name": "Hostile", "html": "x"},
    "update_template": {"subject": "x"},
    "create_sender": {"fromEmail": "hostile@{sub_domain}"},
    "update_sender": {"name": "x"},
    "verify_sender": {"code": "12345678"},
    "create_validation": {"emailIds": ["a@example.net"]},
    "upload_validation": {"fileinput": "a@example.net"},
    "create_alert": {"name": "Hostile", "parameter": "balance", "threshold": 1},
    "update_alert": {"active": True},
}
RAW = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b'{"name": "a", "name": "b"}',
    b'{"name": NaN}',
    b'{"name": "\\ud800"}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"name":' * 70 + b"1" + b"}" * 70,
    b'{"name": "' + b"x" * 5_000_000 + b'"}',
    b"a=b&name=x",
)
"""Bodies that are no JSON object of this API."""


def test_every_writing_path_in_both_contracts_and_both_forms(ask: Asker, things: Mapping[str, Any]) -> None:
    number = 0
    for operation in OPERATIONS:
        if operation.body is None or operation.name in ("verify_sender", "upload_validation"):
            continue  # the one wants a code that was mailed, the other a file: see test_sendpost_account
        for slash in ("", "/"):
            for headers, contract in zip(CONTRACTS, Contract, strict=True):
                number += 1
                body = filled(GOOD[operation.name], things)
                for field, form in {"name": "n{}{}", "url": "{1}/{0}", "fromEmail": "n{}{}"}.items():
                    if field in body and operation.name != "update_webhook":
                        body[field] = form.format(number, body[field])
                answer = ask(operation.method, _path(operation, things) + slash, body, headers=headers)
                assert answer.status_code == operation.success(contract), (operation.name, contract, answer.text)
                assert answer.headers["x-sendpost-public-contract"] == contract


def _assert_sound(what: object, answer: httpx.Response) -> None:
    """A success, or an error body of this API; never a fault, and nothing of the inside."""
    assert answer.status_code < 500, (what, answer.status_code, answer.text[:500])
    body = answer.json()
    if answer.status_code >= 400:
        error = body["error"]
        assert set(error) <= {"code", "message", "type", "param", "details"}, (what, body)
        assert isinstance(error["message"], str)
        assert "Traceback" not in answer.text, what
        assert "tenants/" not in answer.text, (what, answer.text)


def _bodies(operation: Operation, things: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    good = filled(GOOD[operation.name], things)
    for field in msgspec.structs.fields(operation.body):
        for value in BAD:
            yield f"{operation.name} {field.encode_name} {str(value)[:40]!r}", good | {field.encode_name: value}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_every_field_with_bad_values(ask: Asker, things: Mapping[str, Any], every: int) -> None:
    """Each value in each field in the long suite, a part of them otherwise."""
    places = [
        (operation, what, body)
        for operation in OPERATIONS
        if operation.body is not None
        for what, body in _bodies(operation, things)
    ]
    assert len(places) > 1000
    for operation, what, body in places[::every]:
        _assert_sound(what, ask(operation.method, _path(operation, things), body))


def test_bodies_that_are_none(ask: Asker, things: Mapping[str, Any]) -> None:
    for operation in OPERATIONS:
        if operation.body is None:
            continue
        for content in RAW:
            answer = ask(operation.method, _path(operation, things), content=content)
            _assert_sound((operation.name, content[:30]), answer)
            assert answer.status_code in (400, 413, 422), (operation.name, content[:30], answer.text)


def test_queries_and_ids_that_are_none(ask: Asker) -> None:
    texts = ("0", "-1", "1.5", "x", "9" * 30, "", "\u0661", "1 ", "%00", "a\r\nb", "x" * 400)
    for operation in OPERATIONS:
        for parameter in operation.query:
            for text in texts:
                answer = ask(
                    "GET" if operation.method == "GET" else operation.method,
                    operation.path,
                    params={parameter.name: text},
                )
                _assert_sound((operation.name, parameter.name, text), answer)
        if "{" in operation.path:
            head = operation.path.split("{")[0]
            for text in ("0", "-1", "x", "9" * 30, "%00", "1%0d%0ab", "2147483648", "..%2f"):
                body: Json = None if operation.body is None else {}
                answer = ask(operation.method, f"{head}{text}{operation.path.partition('}')[2]}", body)
                assert answer.status_code in (400, 404, 405, 406, 422), (operation.name, text, answer.text)
                _assert_sound((operation.name, text), answer)
