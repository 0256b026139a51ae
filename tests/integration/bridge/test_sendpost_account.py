"""SendPost: domains, sub-accounts, IPs, pools, webhooks, templates, senders, validation, alerts; on an installation."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from barua.control.v1 import egress_pb2, egress_service_pb2, webhook_pb2, webhook_service_pb2
from barua.control.v1.egress_service_pb2_grpc import EgressServiceStub
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub

from tests.support.dns import DnsServer
from tests.support.operator import Operator
from tests.support.sendpost import Account, api_key, make_account, wait_for_key
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

Json = Any
Ask = Callable[..., httpx.Response]
LEGACY = {"X-SendPost-Public-Contract": "legacy"}


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """An account for the tests of this module."""
    return make_account(shared_stack.operator)


@pytest.fixture
def ask(client: httpx.Client, account: Account) -> Ask:
    """A request with the key that its path takes."""

    def send(method: str, path: str, body: Json = None, **extra: Any) -> httpx.Response:
        headers = account.account_headers if path.startswith("/account") else account.sub_headers
        headers = headers | extra.pop("headers", {})
        return client.request(method, f"/api/v1{path}", json=body, headers=headers, **extra)

    return send


def _ok(answer: httpx.Response, status: int = 200) -> Json:
    assert answer.status_code == status, answer.text
    return answer.json()


def _source(operator: Operator, address: str, tenant: str) -> str:
    """A source of the operator's that is allotted to a tenant; its EHLO name."""
    ehlo_name = f"{uuid.uuid4().hex[:12]}.example.net"
    source = egress_pb2.Source(address=address, ehlo_name=ehlo_name, tenant=f"tenants/{tenant}")
    request = egress_service_pb2.CreateSourceRequest(source_id=f"s{uuid.uuid4().hex[:12]}", source=source)
    operator.call(EgressServiceStub(operator.control).CreateSource, request)
    return ehlo_name


# -- domains -----------------------------------------------------------------------------------------------------------


def test_a_domain_from_its_claim_to_its_end(ask: Ask, shared_dns: DnsServer) -> None:
    name = f"{uuid.uuid4().hex[:8]}.example"
    made = _ok(ask("POST", "/subaccount/domain", {"name": name.upper()}), 201)
    assert (made["name"], made["verified"], made["dkimVerified"], made["dkimFailureReason"]) == (name, False, False, "")
    assert (made["returnPath"]["host"], made["returnPath"]["type"]) == (f"sp-bounces.{name}", "CNAME")
    assert (made["track"]["host"], made["track"]["type"]) == (f"track.{name}", "CNAME")
    assert (made["dmarc"]["host"], made["dmarc"]["type"]) == (f"_dmarc.{name}", "TXT")
    assert made["dkim"]["host"].endswith(f"._domainkey.{name}")
    assert made["dkim"]["textValue"].startswith("v=DKIM1; k=rsa; p=")
    assert made["domainRegisteredDate"] is None
    assert 0 < made["id"] < 2**31
    assert len(str(made["created"])) == 19

    path = f"/subaccount/domain/{made['id']}"
    seen = _ok(ask("GET", path))
    assert (seen["verified"], seen["dkimVerified"]) == (False, False)
    assert "publish it" in seen["dkimFailureReason"]
    shared_dns.set_text(made["dkim"]["host"], made["dkim"]["textValue"])
    for kind in ("returnPath", "track"):
        shared_dns.set(made[kind]["host"], "CNAME", f"{made[kind]['textValue']}.")
    verified = _ok(ask("POST", f"{path}/verify/"))
    assert (verified["verified"], verified["dkimVerified"], verified["dkimFailureReason"]) == (True, True, "")
    assert (verified["returnPathVerified"], verified["trackVerified"], verified["dmarcVerified"]) == (True, True, False)
    assert verified["dmarcFailureReason"]
    assert _ok(ask("GET", f"{path}/")) == verified
    assert [one["id"] for one in _ok(ask("GET", "/subaccount/domain", params={"search": name[:8].upper()}))] == [
        made["id"]
    ]
    assert _ok(ask("GET", "/subaccount/domain/count"))["count"] >= 1
    assert _ok(ask("DELETE", path)) == {"id": made["id"], "message": "Domain deleted."}
    assert ask("DELETE", path).status_code == ask("GET", path).status_code == 406


def test_reading_a_domain_has_it_looked_at(ask: Ask, shared_dns: DnsServer) -> None:
    """The original's clients have no call for that."""
    made = _ok(ask("POST", "/subaccount/domain/", {"name": f"{uuid.uuid4().hex[:8]}.example"}, headers=LEGACY))
    shared_dns.set_text(made["dkim"]["host"], made["dkim"]["textValue"])
    assert _ok(ask("GET", f"/subaccount/domain/{made['id']}"))["verified"]


# -- sub-accounts ------------------------------------------------------------------------------------------------------


def test_a_sub_account_has_a_key_that_works_until_it_is_deleted(
    ask: Ask, client: httpx.Client, account: Account
) -> None:
    name = f"Team {uuid.uuid4().hex[:8]}"
    made = _ok(ask("POST", "/account/subaccount/", {"name": name}), 201)
    assert (made["name"], made["type"], made["blocked"], made["labels"]) == (name, 1, False, [])
    assert made["smtpAuths"] == []
    headers = {"X-SubAccount-ApiKey": made["apiKey"]}
    assert client.get("/api/v1/subaccount/domain", headers=headers).json() == []
    domain = client.post("/api/v1/subaccount/domain", json={"name": "team.example"}, headers=headers)
    assert domain.status_code == 201
    message = {"from": {"email": "a@team.example"}, "to": [{"email": "none"}], "subject": "x", "textBody": "x"}
    for _ in range(4):
        sent = client.post("/api/v1/subaccount/email/", json=message, headers=headers)
        assert (sent.status_code, len(sent.json())) == (200, 1), sent.text
    assert ask("POST", "/account/subaccount/", {"name": name}).status_code == 403

    listed = _ok(ask("GET", "/account/subaccount/"))
    assert [one["type"] for one in listed][:1] == [0]
    assert {one["accountId"] for one in listed} == {listed[0]["id"]}
    assert [one["apiKey"] for one in listed if one["id"] == made["id"]] == [made["apiKey"]]
    assert _ok(ask("GET", "/account/subaccount", params={"search": name.upper()})) == [made]
    assert _ok(ask("GET", "/account/subaccount", params={"limit": 1, "offset": 1}))[0]["id"] == account.number
    path = f"/account/subaccount/{made['id']}"
    assert _ok(ask("GET", path)) == made
    renamed = _ok(ask("PUT", path, {"name": f"{name} 2"}))
    assert renamed == made | {"name": f"{name} 2"}
    assert _ok(ask("PUT", path, {})) == renamed
    assert ask("PUT", path, {"name": "Custom"}).status_code == 403
    assert _ok(ask("DELETE", path)) == {"id": made["id"], "message": "Sub-account deleted."}
    assert client.get("/api/v1/subaccount/domain", headers=headers).status_code == 401
    assert (ask("GET", path).status_code, ask("DELETE", path).status_code) == (404, 406)
    refused = ask("DELETE", f"/account/subaccount/{listed[0]['id']}")
    assert refused.status_code == 406


def test_a_sub_account_is_made_once_with_one_key(ask: Ask) -> None:
    body, headers = {"name": f"Once {uuid.uuid4().hex[:8]}"}, {"Idempotency-Key": uuid.uuid4().hex}
    first = _ok(ask("POST", "/account/subaccount", body, headers=headers), 201)
    assert _ok(ask("POST", "/account/subaccount", body, headers=headers), 201) == first
    assert ask("POST", "/account/subaccount", {"name": "Another"}, headers=headers).status_code == 409


def test_a_key_that_only_looks_sees_no_keys(client: httpx.Client, shared_stack: Stack, account: Account) -> None:
    looking = api_key(shared_stack.operator, account.name, ("tenants:read",))
    headers = {"X-Account-ApiKey": looking}
    listed = _ok(client.get("/api/v1/account/subaccount/", headers=headers))
    assert len(listed) > 1
    assert {one["apiKey"] for one in listed} == {""}
    assert client.post("/api/v1/account/subaccount/", json={"name": "x"}, headers=headers).status_code == 401


def test_from_a_new_sub_account_to_its_first_mail(
    ask: Ask, client: httpx.Client, shared_dns: DnsServer, shared_sink: RecordingSink
) -> None:
    made = _ok(ask("POST", "/account/subaccount/", {"name": f"First {uuid.uuid4().hex[:8]}"}), 201)
    headers, name = {"X-SubAccount-ApiKey": made["apiKey"]}, f"{uuid.uuid4().hex[:8]}.example"
    domain = client.post("/api/v1/subaccount/domain", json={"name": name}, headers=headers).json()
    shared_dns.set_text(domain["dkim"]["host"], domain["dkim"]["textValue"])
    assert client.get(f"/api/v1/subaccount/domain/{domain['id']}", headers=headers).json()["verified"]
    to = f"first-{name}@example.net"
    message = {"from": {"email": f"a@{name}"}, "to": [{"email": to}], "subject": "x", "textBody": "x"}

    def taken() -> bool:
        answer = client.post("/api/v1/subaccount/email/", json=message, headers=headers)
        return answer.status_code == 200 and bool(answer.json()[0]["errorCode"] == 0)

    wait_until(taken, "the workers know the domain")
    wait_until(lambda: to in shared_sink.recipients, "it is there")


@pytest.mark.long
def test_a_long_list_of_sub_accounts_has_their_keys(ask: Ask) -> None:
    mark = uuid.uuid4().hex[:8]
    made = [_ok(ask("POST", "/account/subaccount/", {"name": f"{mark} {number}"}), 201) for number in range(55)]
    assert _ok(ask("GET", "/account/subaccount/", params={"limit": 1000, "search": mark})) == made


# -- IPs and pools -----------------------------------------------------------------------------------------------------


def test_ips_in_both_contracts(ask: Ask, shared_stack: Stack, account: Account) -> None:
    address = f"127.0.7.{uuid.uuid4().int % 250 + 1}"
    ehlo_name = _source(shared_stack.operator, address, account.name)
    (listed,) = _ok(ask("GET", "/account/ip/", params={"search": address}))
    assert listed["publicIp"] == listed["publicIP"] == address
    assert (listed["reverseDnsHostname"], listed["type"], listed["state"]) == (ehlo_name, 1, 1)
    path = f"/account/ip/{listed['id']}"
    legacy = _ok(ask("GET", path, headers=LEGACY))
    assert legacy == {
        "id": listed["id"],
        "publicIP": address,
        "reverseDNSHostname": ehlo_name,
        "type": 1,
        "state": 1,
        "labels": [],
        "created": listed["created"],
    }
    warming = _ok(ask("PUT", f"{path}/", {"autoWarmupEnabled": True}))
    assert (warming["autoWarmupEnabled"], warming["state"]) == (True, 0)
    assert _ok(ask("PUT", path, {"autoWarmupEnabled": False}))["state"] == 1
    assert _ok(ask("DELETE", path)) == {"id": listed["id"], "message": "IP deleted."}
    assert ask("GET", path).status_code == ask("DELETE", path).status_code == 404
    taken = _ok(ask("PUT", "/account/ip/allocate", {"ips": [address]}))
    assert (taken["id"], taken["autoWarmupEnabled"]) == (listed["id"], True)
    again = _ok(ask("POST", "/account/ip/allocate/", {"ips": [address], "overflowPool": False}, headers=LEGACY))
    assert again["publicIP"] == address
    assert ask("PUT", "/account/ip/allocate", {"ips": ["127.0.7.255"]}).status_code == 404


def test_pools_and_a_message_that_names_one(
    ask: Ask, shared_stack: Stack, shared_sink: RecordingSink, account: Account
) -> None:
    wait_for_key(shared_stack.bridge_url, account.sub_key)
    addresses = [f"127.0.8.{number}" for number in (1, 2)]
    names = [_source(shared_stack.operator, address, account.name) for address in addresses]
    body = {
        "name": "Marketing",
        "ips": [{"publicIP": addresses[0]}],
        "tpsps": [],
        "routingStrategy": 0,
        "routingMetaData": "{}",
    }
    made = _ok(ask("POST", "/account/ippool", body))
    assert (made["name"], made["type"], made["routingStrategy"], made["routingMetaData"]) == ("Marketing", 1, 0, "{}")
    assert [one["publicIp"] for one in made["ips"]] == addresses[:1]
    legacy = _ok(ask("GET", f"/account/ippool/{made['id']}", headers=LEGACY))
    assert set(legacy["ips"][0]) == {"id", "publicIP", "reverseDNSHostname", "type", "state", "labels", "created"}
    ip_path = f"/account/ip/{made['ips'][0]['id']}"
    assert ask("DELETE", ip_path).status_code == 400

    def send(pool: str, to: str) -> Json:
        message = {
            "from": {"email": f"news@{account.sub_domain}"},
            "to": [{"email": to}],
            "subject": "Hello",
            "textBody": "Hello",
            "ippool": pool,
        }
        return ask("POST", "/subaccount/email/", message)

    def taken() -> bool:
        answer = send("marketing", "pool@example.net")
        return answer.status_code == 200 and bool(answer.json()[0]["errorCode"] == 0)

    wait_until(taken, "the workers know the pool")
    wait_until(lambda: "pool@example.net" in shared_sink.recipients, "it is there")
    assert {one.helo for one in shared_sink.received if "pool@example.net" in one.recipients} == {names[0]}

    spare = _ok(ask("POST", "/account/ippool/", {"name": "Spare", "ips": [{"publicIP": addresses[1]}]}))
    path = f"/account/ippool/{made['id']}"
    changed = _ok(ask("PUT", path, {"ips": [], "shouldOverflow": True, "overflowPoolName": "Spare"}))
    assert (changed["ips"], changed["shouldOverflow"], changed["overflowPoolName"]) == ([], True, "Spare")
    assert ask("DELETE", f"/account/ippool/{spare['id']}").status_code == 400
    _ok(ask("DELETE", ip_path))

    def overflows() -> bool:
        send("Marketing", "overflow@example.net")
        return any(one.helo == names[1] for one in shared_sink.received if "overflow@example.net" in one.recipients)

    wait_until(overflows, "a message goes out from the other pool")
    assert ask("POST", "/account/ippool", {"name": "SPARE"}).status_code == 403
    assert [one["name"] for one in _ok(ask("GET", "/account/ippool", params={"search": "spar"}))] == ["Spare"]
    assert _ok(ask("DELETE", f"{path}/")) == {"id": made["id"], "message": "IP pool deleted."}
    assert [ask(method, path).status_code for method in ("GET", "DELETE")] == [404, 404]
    assert ask("PUT", path, {"name": "x"}).status_code == 404


# -- webhooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "payload_format"),
    [
        ({}, 201, webhook_pb2.Webhook.PAYLOAD_FORMAT_SENDPOST),
        (LEGACY, 200, webhook_pb2.Webhook.PAYLOAD_FORMAT_SENDPOST_LEGACY),
    ],
)
def test_webhooks(
    ask: Ask, shared_stack: Stack, account: Account, headers: Any, status: int, payload_format: int
) -> None:
    url = f"https://hooks.example.org/{uuid.uuid4().hex}"
    body, once = {"url": url, "processed": True, "opened": False}, headers | {"Idempotency-Key": url}
    made = _ok(ask("POST", "/account/webhook", body, headers=once), status)
    assert _ok(ask("POST", "/account/webhook", body, headers=once), status) == made
    assert ask("POST", "/account/webhook/", body, headers={"Idempotency-Key": "another"}).status_code == 403
    wanted = {"processed", "delivered", "dropped", "softBounced", "hardBounced", "clicked", "unsubscribed", "spam"}
    assert {name for name, value in made.items() if value is True} == wanted | {"enabled"}
    assert (made["url"], made["status"], made["disabledAt"], made["disabledReason"]) == (url, "active", 0, "")
    operator = shared_stack.operator
    request = webhook_service_pb2.ListWebhooksRequest(parent=f"tenants/{account.name}", number=made["id"])
    (kept,) = operator.call(WebhookServiceStub(operator.control).ListWebhooks, request).webhooks
    assert (kept.payload_format, kept.include_subtree) == (payload_format, True)
    assert ask("POST", "/account/webhook/", {"url": url}).status_code == 403
    path = f"/account/webhook/{made['id']}"
    assert _ok(ask("GET", f"{path}/")) == made
    changed = _ok(ask("PUT", path, {"url": f"{url}/2", "enabled": False, "uniqueOpen": True, "spam": None}))
    assert changed == made | {"url": f"{url}/2", "enabled": False, "uniqueOpen": True, "status": "disabled"}
    assert _ok(ask("PUT", path, {"url": f"{url}/2", "enabled": True}))["status"] == "active"
    assert _ok(ask("GET", "/account/webhook", params={"search": url})) == [_ok(ask("GET", path))]
    assert _ok(ask("GET", "/account/webhook/count"))["count"] >= 1
    assert _ok(ask("DELETE", path)) == {"id": made["id"], "message": "Webhook deleted."}
    assert [ask(method, path).status_code for method in ("GET", "DELETE")] == [406, 406]
    assert ask("PUT", path, {"url": url}).status_code == 406


# -- templates, senders, validation, alerts ----------------------------------------------------------------------------


def test_templates(ask: Ask) -> None:
    name = f"Welcome {uuid.uuid4().hex[:8]}"
    body = {"name": name, "html": "<p>{{a}}</p>", "text": "{{.a}}", "subject": "Hi {{a}}", "memberId": 1}
    made = _ok(ask("POST", "/account/template/", body))
    assert {field: made[field] for field in ("name", "html", "text", "subject")} == {
        field: body[field] for field in ("name", "html", "text", "subject")
    }
    path = f"/account/template/{made['id']}"
    assert ask("POST", "/account/template", body).status_code == 403
    assert _ok(ask("GET", path)) == made
    assert _ok(ask("GET", "/account/template/", params={"search": name})) == [made]
    assert _ok(ask("GET", "/account/template/count/"))["count"] >= 1
    changed = _ok(ask("PUT", path, {"subject": "New"}))
    assert (changed["subject"], changed["html"]) == ("New", body["html"])
    assert _ok(ask("PUT", path, {})) == changed
    copies = [_ok(ask("POST", f"{path}/copy/"))["name"] for _ in range(2)]
    assert copies == [f"{name} (copy)", f"{name} (copy 2)"]
    edited = _ok(ask("POST", "/account/template/", {"name": f"{name} 3", "template": "<p>3</p>"}))
    assert edited["html"] == "<p>3</p>"
    assert _ok(ask("DELETE", path)) == {"id": made["id"], "message": "Template deleted."}
    assert [ask(method, path).status_code for method in ("GET", "DELETE")] == [404, 404]
    assert ask("POST", f"{path}/copy").status_code == ask("PUT", path, {"name": "x"}).status_code == 404


def test_senders(ask: Ask, account: Account) -> None:
    address = f"s{uuid.uuid4().hex[:8]}@{account.sub_domain}"
    body = {
        "name": "News",
        "fromEmail": address.upper(),
        "replyToEmail": "back@example.org",
        "domain": account.sub_domain,
    }
    made = _ok(ask("POST", "/subaccount/sender/", body))
    assert made | {"id": 0, "created": 0} == {
        "id": 0,
        "name": "News",
        "fromEmail": address,
        "replyToEmail": "back@example.org",
        "domain": account.sub_domain,
        "verified": True,
        "created": 0,
    }
    path = f"/subaccount/sender/{made['id']}"
    assert ask("POST", "/subaccount/sender", body).status_code == 403
    assert _ok(ask("GET", path)) == made
    assert _ok(ask("GET", "/subaccount/sender/", params={"search": address[:9]})) == [made]
    assert _ok(ask("GET", "/subaccount/sender/count"))["count"] >= 1
    assert _ok(ask("PUT", path, {"name": "N", "fromEmail": address}))["name"] == "N"
    assert _ok(ask("PUT", path, {"replyToEmail": ""}))["replyToEmail"] == ""
    assert ask("PUT", path, {"fromEmail": "other@example.org"}).status_code == 422
    assert _ok(ask("DELETE", path)) == {"id": made["id"], "message": "Sender deleted."}
    assert [ask(method, path).status_code for method in ("GET", "DELETE")] == [406, 406]


def test_validation(ask: Ask) -> None:
    tag = uuid.uuid4().hex
    body = {"emailIds": ["ann@example.net", "nonsense", "info@example.net"], "headers": ["email"], "tag": tag}
    job = _ok(ask("POST", "/account/validation/list/bulk", body))
    assert set(job) == {"jobId", "message"}
    query = {"jobId": job["jobId"]}
    wait_until(
        lambda: _ok(ask("GET", "/account/validation/results", params=query))["status"] == "done", "it is validated"
    )
    results = _ok(ask("GET", "/account/validation/results", params={"tag": tag}))
    assert (results["jobId"], results["total"], results["processed"]) == (job["jobId"], 3, 3)
    assert {one["email"]: (one["status"], one["role"]) for one in results["results"]} == {
        "ann@example.net": ("risky", False),
        "nonsense": ("undeliverable", False),
        "info@example.net": ("risky", True),
    }
    emails = _ok(ask("GET", "/account/validation/emails/", params=query | {"status": "undeliverable"}))
    assert [one["email"] for one in emails] == ["nonsense"]
    assert _ok(ask("GET", "/account/validation/emails", params=query | {"limit": 1, "offset": 1})) == [
        results["results"][1]
    ]
    assert _ok(ask("GET", "/account/validation/emails/count", params=query | {"status": "risky"})) == {"count": 2}
    (listed,) = _ok(ask("GET", "/account/validation/", params={"search": tag}))
    assert (listed["id"], listed["status"], listed["risky"]) == (job["jobId"], "done", 2)
    assert _ok(ask("GET", "/account/validation/count"))["count"] >= 1
    assert _ok(ask("DELETE", "/account/validation", params=query))["id"] == job["jobId"]
    assert ask("GET", "/account/validation/results", params=query).status_code == 404
    file = {"fileinput": ("list.csv", b"name,email\r\nAnn,ann@example.net\r\n")}
    job = _ok(ask("POST", "/account/validation/bulk", files=file, params={"tag": f"{tag}-file"}))
    assert _ok(ask("GET", "/account/validation/results", params=job))["total"] == 1
    assert ask("POST", "/account/validation/bulk/", files={"fileinput": ("x", b"")}).status_code == 422


def test_alerts(ask: Ask, account: Account) -> None:
    name = f"Bounces {uuid.uuid4().hex[:8]}"
    body = {
        "name": name,
        "parameter": "hardBounced",
        "threshold": 5.5,
        "processedCountThreshold": 50,
        "emails": f"ops@{account.domain}, ops2@{account.domain}",
        "notificationType": "email",
        "provider": None,
    }
    made = _ok(ask("POST", "/account/alert/", body))
    assert (made["name"], made["active"], made["parameter"], made["threshold"]) == (name, True, "hardBounced", 5.5)
    assert made["emails"] == [f"ops2@{account.domain}", f"ops@{account.domain}"]
    assert made["processedCountThreshold"] == 50
    balance = _ok(ask("POST", "/account/alert", {"name": f"{name} 2", "parameter": "balance", "threshold": 1000}))
    assert (balance["threshold"], balance["emails"]) == (1000, [])
    assert _ok(ask("GET", "/account/alert/", params={"search": name})) == [made, balance]
    assert _ok(ask("GET", "/account/alert/count/"))["count"] >= 2
    path = f"/account/alert/{made['id']}"
    assert not _ok(ask("PUT", path, {"active": False}))["active"]
    assert _ok(ask("DELETE", path)) == {"id": made["id"], "message": "Alert deleted."}
    assert ask("PUT", path, {"active": True}).status_code == ask("DELETE", path).status_code == 404
