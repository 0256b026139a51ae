"""PyPI's sendpost_python_sdk, unmodified, against a running installation: every method of every class that it has."""

import inspect
import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
import sendpost_python_sdk as sdk
from sendpost_python_sdk import api

from barua.control.v1 import egress_pb2, egress_service_pb2
from barua.control.v1.egress_service_pb2_grpc import EgressServiceStub

from tests.support.operator import Operator
from tests.support.sendpost import Account, make_account, wait_for_key
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

VARIANTS = ("", "_with_http_info", "_without_preload_content")
"""Each method of the SDK is there three times: for the value, for the whole answer, for the answer unread."""

Json = Any


def _methods() -> set[str]:
    """``Class.method`` for all there are. One module of the SDK is no valid Python; nothing of it imports that."""
    return {
        f"{name}.{method}"
        for name, class_ in inspect.getmembers(api, inspect.isclass)
        for method, _ in inspect.getmembers(class_, inspect.isfunction)
        if not method.startswith("_")
    }


class Client:
    """Calls the SDK, and remembers which of its methods were called."""

    def __init__(self, configuration: sdk.Configuration, variant: str) -> None:
        self._client = sdk.ApiClient(configuration)
        self.variant = variant
        self.called: set[str] = set()

    def __call__(self, class_: str, method: str, *arguments: Any, **named: Any) -> Json:
        """What the call answers, as it is after the SDK has read it; errors are those of the SDK."""
        self.called.add(f"{class_}.{method}{self.variant}")
        answer = getattr(getattr(api, class_)(self._client), method + self.variant)(*arguments, **named)
        if self.variant == "_with_http_info":
            assert answer.headers["x-sendpost-public-contract"] == "v1"
            answer = answer.data
        elif self.variant:
            assert answer.status in (200, 201), answer.data
            return json.loads(answer.data)
        assert answer is not None, f"{class_}.{method} made nothing of the answer"
        return [one.to_dict() for one in answer] if isinstance(answer, list) else answer.to_dict()


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """The account of this module."""
    made = make_account(shared_stack.operator)
    wait_for_key(shared_stack.bridge_url, made.sub_key)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_of_the_sdk_works(
    variant: str, shared_stack: Stack, account: Account, shared_sink: RecordingSink
) -> None:
    keys = {"accountAuth": account.key, "subAccountAuth": account.sub_key}
    call = Client(sdk.Configuration(host=f"{shared_stack.bridge_url}/api/v1", api_key=keys), variant)
    _mail(call, account, shared_sink, shared_stack)
    _domains_and_suppressions(call)
    _statistics(call, account)
    _sub_accounts_and_webhooks(call)
    _ips_and_pools(call, account, shared_stack)
    assert {name for name in _methods() if _variant(name) == variant} - call.called == set()


def _variant(name: str) -> str:
    return next((variant for variant in VARIANTS[1:] if name.endswith(variant)), "")


def _letter(account: Account, to: str) -> dict[str, Any]:
    return {
        "from": {"email": f"news@{account.sub_domain}", "name": "News"},
        "replyTo": {"email": f"back@{account.sub_domain}"},
        "to": [
            {
                "email": to,
                "name": "Ann",
                "cc": [{"email": f"cc-{to}", "name": "C"}],
                "bcc": [{"email": f"bcc-{to}"}],
                "customFields": {"name": "Ann", "age": 7},
            },
            {"email": f"other-{to}"},
        ],
        "subject": "Hello {{name}}",
        "preText": "Before",
        "htmlBody": "<p>{{name}}</p>",
        "textBody": "{{name}}",
        "ampBody": "<html amp4email></html>",
        "headers": {"X-Own": "1"},
        "trackOpens": True,
        "trackClicks": True,
        "groups": ["sdk"],
        "attachments": [{"content": "aGVsbG8=", "filename": "a.txt"}],
    }


def _mail(call: Client, account: Account, sink: RecordingSink, stack: Stack) -> None:
    to = f"sdk-{uuid.uuid4().hex[:8]}@example.net"
    answer = call("EmailApi", "send_email", sdk.EmailMessageObject.from_dict(_letter(account, to)))
    assert [(one["to"], one["errorCode"]) for one in answer] == [(to, 0), (f"other-{to}", 0)]
    name = f"welcome {uuid.uuid4().hex[:8]}"
    template = {"name": name, "subject": "Hi {{name}}", "html": "<p>{{name}} {{town}}</p>"}
    url = f"{stack.bridge_url}/api/v1/account/template/"
    assert httpx.post(url, json=template, headers=account.account_headers).status_code in (200, 201)
    letter = _letter(account, f"t-{to}") | {"template": name, "templateVariables": {"town": "Nairobi"}, "subject": None}
    stored = call("EmailApi", "send_email_with_template", sdk.EmailMessageWithTemplate.from_dict(letter))
    assert [one["errorCode"] for one in stored] == [0, 0]
    assert uuid.UUID(answer[0]["messageId"]).version == 7

    def known() -> bool:
        names = {"accountAuth": account.key}
        configuration = sdk.Configuration(host=f"{stack.bridge_url}/api/v1", api_key=names)
        try:
            api.MessageApi(sdk.ApiClient(configuration)).get_message_by_id(answer[0]["messageId"])
        except sdk.exceptions.NotFoundException:
            return False
        return True

    wait_until(known, "control knows the message")
    message = call("MessageApi", "get_message_by_id", answer[0]["messageId"])
    assert (message["messageId"], message["to"]["email"]) == (answer[0]["messageId"], to)
    now = datetime.now(UTC)
    found = call(
        "MessageApi", "get_all_messages", now - timedelta(days=1), now + timedelta(hours=1), limit=100, offset=0
    )
    assert answer[0]["messageId"] in [one["messageId"] for one in found]
    wait_until(lambda: f"bcc-{to}" in sink.recipients and f"t-{to}" in sink.recipients, "all are there")


def _domains_and_suppressions(call: Client) -> None:
    name = f"d{uuid.uuid4().hex[:8]}.example"
    made = call("DomainApi", "create_sub_account_domain", sdk.CreateDomainRequest(name=name))
    listed = call("DomainApi", "get_all_domains", limit=100, offset=0, search=name[:6].upper())
    assert [one["name"] for one in listed] == [name]
    assert call("DomainApi", "get_sub_account_domain", str(made["id"]))["name"] == name
    assert call("DomainApi", "delete_sub_account_domain", str(made["id"]))["id"] == made["id"]
    email = f"s-{uuid.uuid4().hex[:8]}@example.net"
    given = {"hardBounce": [{"email": email}], "manual": [{"email": f"m{email}"}]}
    suppressed = call("SuppressionApi", "create_suppression", sdk.CreateSuppressionRequest.from_dict(given))
    assert {one["email"] for one in suppressed} == {email, f"m{email}"}
    today = datetime.now(UTC).date()
    query = {"limit": 10, "offset": 0, "search": email, "type": "hardBounce"}
    found = call(
        "SuppressionApi", "get_suppression_list", today - timedelta(days=1), today + timedelta(days=1), **query
    )
    assert [one["reasonText"] for one in found] == ["hardBounce"]
    gone = sdk.DeleteSuppressionRequest.from_dict({"suppressions": [{"email": email}]})
    assert set(call("SuppressionApi", "delete_suppression", gone)) == {"message"}


def _statistics(call: Client, account: Account) -> None:
    last = datetime.now(UTC).date()
    first = last - timedelta(days=7)
    one = account.number
    for class_, method, arguments in _statistics_calls(first, last, one):
        answer = call(class_, method, *arguments)
        assert answer if isinstance(answer, dict) else len(answer) == 8


def _statistics_calls(first: date, last: date, number: int) -> list[tuple[str, str, tuple[Any, ...]]]:
    return [
        ("StatsAApi", "get_all_account_stats", (first, last)),
        ("StatsAApi", "get_account_aggregate_stats", (first, last)),
        ("StatsAApi", "get_account_stats_by_group", ("sdk", first, last)),
        ("StatsAApi", "get_account_aggregate_stats_by_group", ("sdk", first, last)),
        ("StatsApi", "account_subaccount_stat_subaccount_id_get", (first, last, number)),
        ("StatsApi", "account_subaccount_stat_subaccount_id_aggregate_get", (first, last, number)),
        ("StatsApi", "get_aggregate_stats_by_group", ("sdk", first, last, number)),
    ]


def _sub_accounts_and_webhooks(call: Client) -> None:
    name = f"Sub {uuid.uuid4().hex[:8]}"
    made = call("SubAccountApi", "create_sub_account", sdk.NewSubAccount(name=name))
    assert made["apiKey"].startswith("bk_")
    assert name in [one["name"] for one in call("SubAccountApi", "get_all_sub_accounts", limit=100, offset=0)]
    changed = call("SubAccountApi", "update_sub_account", made["id"], sdk.UpdateSubAccount(name=f"{name}!"))
    assert call("SubAccountApi", "get_sub_account", made["id"])["name"] == changed["name"] == f"{name}!"
    assert call("SubAccountApi", "delete_sub_account", made["id"])["id"] == made["id"]
    url = f"https://hooks.example.net/{uuid.uuid4().hex}"
    hook = call("WebhookApi", "create_webhook", sdk.NewWebhook(url=url))
    assert (hook["url"], hook["enabled"], hook["delivered"], hook["processed"]) == (url, True, True, False)
    assert url in [one["url"] for one in call("WebhookApi", "get_all_webhooks", limit=100, offset=0, search="hooks")]
    updated = call("WebhookApi", "update_webhook", hook["id"], sdk.UpdateWebhook(url=url, enabled=False))
    assert call("WebhookApi", "get_webhook", hook["id"])["enabled"] is updated["enabled"] is False
    assert call("WebhookApi", "delete_webhook", hook["id"])["id"] == hook["id"]


def _ips_and_pools(call: Client, account: Account, shared_stack: Stack) -> None:
    address = _source(shared_stack.operator, account.name)
    made = call("IPApi", "allocate_new_ip", sdk.IPAllocationRequest(ips=[address]))
    assert made["publicIp"] == address
    assert address in [one["publicIp"] for one in call("IPApi", "get_all_ips", limit=100, offset=0, search=address)]
    changed = call("IPApi", "update_ip", made["id"], sdk.IPUpdateRequest(autoWarmupEnabled=False))
    assert call("IPApi", "get_specific_ip", made["id"]) == changed
    name = f"pool {uuid.uuid4().hex[:8]}"
    wanted = sdk.IPPoolCreateRequest(name=name, ips=[sdk.EIP(publicIP=address)], routingStrategy=0)
    pool = call("IPPoolsApi", "create_ip_pool", wanted)
    assert [one["publicIp"] for one in pool["ips"]] == [address]
    assert name in [one["name"] for one in call("IPPoolsApi", "get_all_ip_pools", limit=100, offset=0)]
    assert call("IPPoolsApi", "get_ip_pool_by_id", pool["id"])["name"] == name
    update = sdk.IPPoolUpdateRequest(name=f"{name}!", ips=[])
    # The SDK sends no key with this call; as its callers do, ours adds it.
    _without_key(call, lambda: call("IPPoolsApi", "update_ip_pool", pool["id"], update))
    changed = call("IPPoolsApi", "update_ip_pool", pool["id"], update, _headers={"X-Account-ApiKey": account.key})
    assert (changed["name"], changed["ips"]) == (f"{name}!", [])
    assert call("IPPoolsApi", "delete_ip_pool", pool["id"])["id"] == pool["id"]
    assert call("IPApi", "delete_ip", made["id"])["id"] == made["id"]


def _without_key(call: Client, work: Callable[[], Json]) -> None:
    if call.variant == "_without_preload_content":
        with pytest.raises(AssertionError, match="authentication_failed"):
            work()
    else:
        with pytest.raises(sdk.exceptions.UnauthorizedException):
            work()


def _source(operator: Operator, tenant: str) -> str:
    """A source of the operator's that is allotted to a tenant; its address."""
    octets = uuid.uuid4().bytes
    address = f"127.{octets[0]}.{octets[1]}.{octets[2] % 250 + 2}"
    source = egress_pb2.Source(
        address=address, ehlo_name=f"{octets.hex()[:12]}.example.net", tenant=f"tenants/{tenant}"
    )
    request = egress_service_pb2.CreateSourceRequest(source_id=f"s{octets.hex()[:12]}", source=source)
    operator.call(EgressServiceStub(operator.control).CreateSource, request)
    return address
