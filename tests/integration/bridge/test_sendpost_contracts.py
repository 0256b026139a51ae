"""SendPost: where the two response contracts differ, and what both have, as data; on a running installation."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.sendpost import Account, make_account, wait_for_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

TODAY = datetime.now(UTC).date()
RANGE = {"from": (TODAY - timedelta(days=2)).isoformat(), "to": (TODAY + timedelta(days=1)).isoformat()}
DEPRECATED = ("deprecation", "sunset", "link")


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """An account for the tests of this module."""
    made = make_account(shared_stack.operator)
    wait_for_key(shared_stack.bridge_url, made.sub_key)
    return made


@pytest.fixture(params=["v1", "legacy"])
def contract(request: pytest.FixtureRequest) -> str:
    """A contract."""
    name: str = request.param
    return name


class Api:
    """Calls with the right key, in one contract."""

    def __init__(self, client: httpx.Client, account: Account, contract: str) -> None:
        self._client = client
        self._account = account
        self._contract = contract

    def __call__(self, method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
        """The answer, which names the contract that was asked for."""
        keys = self._account.account_headers if path.startswith("/account") else self._account.sub_headers
        headers = {**keys, "X-SendPost-Public-Contract": self._contract}
        answer = self._client.request(method, f"/api/v1{path}", json=body, headers=headers, params=query or None)
        assert answer.headers["x-sendpost-public-contract"] == self._contract
        assert [name for name in DEPRECATED if name in answer.headers] == (
            list(DEPRECATED) if self._contract == "legacy" else []
        )
        assert answer.is_success, answer.text
        return answer


@pytest.fixture
def api(client: httpx.Client, account: Account, contract: str) -> Api:
    """The account's."""
    return Api(client, account, contract)


COUNTERS = {
    *("processed", "sent", "dropped", "smtpDropped", "delivered", "softBounced", "hardBounced"),
    *("opened", "clicked", "unsubscribed", "spam", "opens", "clicks", "spams"),
}


def test_statuses_of_making(api: Api, contract: str) -> None:
    name = uuid.uuid4().hex[:8]
    statuses = [
        api("POST", "/subaccount/domain", {"name": f"d{name}.example"}).status_code,
        api("POST", "/account/webhook/", {"url": f"https://hooks.example.net/{name}"}).status_code,
        api("POST", "/account/subaccount", {"name": name}).status_code,
        api("POST", "/account/ippool/", {"name": name}).status_code,
    ]
    assert statuses == ([201, 201, 201, 200] if contract == "v1" else [200, 200, 201, 200])


def test_suppressions(api: Api, contract: str) -> None:
    email = f"{uuid.uuid4().hex[:8]}@example.net"
    (made,) = api("POST", "/subaccount/suppression/", {"spamComplaint": [{"email": email}]}).json()
    assert {"smtpError", "smtp_error", "reasonText", "messageUUID", "reason"} < set(made)
    gone = api("DELETE", "/subaccount/suppression", {"suppressions": [{"email": email}]}).json()
    one = {"id": made["id"], "message": "Suppression deleted successfully."}
    assert gone == ({"message": "Suppressions deleted successfully."} if contract == "v1" else [one])


def test_statistics(api: Api, account: Account) -> None:
    one = f"/account/subaccount/stat/{account.number}"
    for path in ("/account/stat", one, "/account/stat/group", "/subaccount/stat"):
        days = api("GET", path, group="x", **RANGE).json()
        assert [day["date"] for day in days] == sorted(day["date"] for day in days)
        assert {"date", "stat", "stats", *COUNTERS} == set(days[0])
        assert set(days[0]["stat"]) == set(days[0]["stats"]) == COUNTERS
    own = "/subaccount/stat"
    paths = ["/account/stat/aggregate", f"{one}/aggregate", f"{one}/group", "/account/stat/aggregate/group"]
    for path in (*paths, f"{own}/aggregate", f"{own}/group", f"{own}/aggregate/group"):
        assert set(api("GET", path, group="x", **RANGE).json()) == COUNTERS
    assert set(api("GET", "/account/stat/cycleusage").json()) == {"processed"}
    for part in ("domain", "group", "ip", "provider"):
        assert isinstance(api("GET", f"{one}/aggregate/{part}").json(), list)
    for part in ("domain", "ip", "subaccount", "tpsp"):
        query = {"orderBy": "sent", "sortOrder": "asc", "limit": 5, "search": "x"}
        assert isinstance(api("GET", f"/account/stat/aggregate/{part}", **query).json(), list)
        assert set(api("GET", f"/account/stat/aggregate/{part}/count").json()) == {"count"}
    assert api("GET", "/account/stat/aggregate/validation").json()["initiated"] == 0


def test_messages(api: Api, account: Account, contract: str) -> None:
    body = {
        "from": {"email": f"news@{account.sub_domain}"},
        "to": [
            {
                "email": "both@example.net",
                "cc": [{"email": "cc@example.net", "name": "C"}],
                "bcc": ["bcc@example.net"],
                "customFields": {"n": 1, "deep": {"a": [1]}, "text": "x"},
            }
        ],
        "subject": "x",
        "textBody": "x",
        "attachments": [{"filename": "a.txt", "content": "aGVsbG8="}],
    }
    (told,) = api("POST", "/subaccount/email", body).json()
    assert set(told) == {"to", "submittedAt", "messageId", "errorCode", "message"}
    assert len(str(told["submittedAt"])) == 19

    def known() -> bool:
        return told["messageId"] in [one["messageId"] for one in api("GET", "/account/message", **RANGE).json()]

    wait_until(known, "control knows the message")
    message = api("GET", f"/account/message/{told['messageId']}").json()
    for names in (("messageId", "messageID"), ("subAccountId", "subAccountID"), ("publicIp", "publicIP")):
        assert message[names[0]] == message[names[1]]
    legacy = contract == "legacy"
    assert message["to"]["cc"] == (["cc@example.net"] if legacy else [{"email": "cc@example.net", "name": "C"}])
    assert message["to"]["bcc"] == (["bcc@example.net"] if legacy else [{"email": "bcc@example.net", "name": ""}])
    assert message["attachments"] == (["a.txt"] if legacy else [{"filename": "a.txt", "content": ""}])
    fields = {"n": "1", "deep": '{"a":[1]}', "text": "x"} if legacy else {"n": 1, "deep": {"a": [1]}, "text": "x"}
    assert message["to"]["customFields"] == message["customFields"] == fields
    assert {"accountIPPoolID", "attempt", "webhookEndpoint", "mxRecords", "localIP", "ipID"} < set(message)


def test_statistics_count_what_was_sent(api: Api, account: Account, shared_stack: Stack, contract: str) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"
    body = {
        "from": {"email": f"news@{account.sub_domain}"},
        "to": [{"email": "deliver@play.test"}, {"email": "hardbounce@play.test"}],
        "subject": "x",
        "textBody": "x",
        "groups": [group],
    }
    told = api("POST", "/subaccount/email", body).json()
    assert [one["errorCode"] for one in told] == [0, 0]

    def counted() -> Any:
        path = f"/account/subaccount/stat/{account.number}/group"
        counts = api("GET", path, group=group, **RANGE).json()
        return counts["processed"] == 2 and counts["delivered"] == counts["hardBounced"] == 1

    wait_until(counted, "both are counted")
    day = next(one for one in api("GET", "/account/stat/group", group=group, **RANGE).json() if one["processed"])
    assert (day["stat"]["processed"], day["stats"]["sent"], day["spam"]) == (2, 2, 0)
    groups = api("GET", f"/account/subaccount/stat/{account.number}/aggregate/group").json()
    assert group in [one["group"] for one in groups]
    subs = api("GET", "/account/stat/aggregate/subaccount").json()
    assert account.number in [one["subAccountId"] for one in subs if one["processed"]]
