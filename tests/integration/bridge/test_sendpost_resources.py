"""SendPost: suppressions, statistics and messages, on a running installation."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.sendpost import Account, make_account
from tests.support.stack import Stack

SUPPRESSIONS = "/api/v1/subaccount/suppression"
LEGACY = {"X-SendPost-Public-Contract": "legacy"}


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """An account for the tests of this module."""
    return make_account(shared_stack.operator)


def _range(days: int) -> dict[str, str]:
    """Parameters from so many days before tomorrow, which comes if the day changes during the test."""
    last = datetime.now(UTC).date() + timedelta(days=1)
    return {"from": (last - timedelta(days=days)).isoformat(), "to": last.isoformat()}


def test_suppressions_are_made_listed_counted_and_taken_back(client: httpx.Client, account: Account) -> None:
    headers = account.sub_headers
    body = {
        "hardBounce": [{"email": "H1@example.net"}],
        "manual": [{"email": "m1@example.net"}, {"email": "m2@example.net"}],
        "unsubscribe": [{"email": "u1@example.net"}],
        "spamComplaint": [{"email": "s1@example.net"}],
    }
    made = client.post(SUPPRESSIONS, json=body, headers=headers)
    assert made.status_code == 200, made.text
    by_email = {one["email"]: one for one in made.json()}
    assert {email: (one["reason"], one["reasonText"]) for email, one in by_email.items()} == {
        "h1@example.net": (2, "hardBounce"),
        "m1@example.net": (0, "manual"),
        "m2@example.net": (0, "manual"),
        "u1@example.net": (1, "unsubscribe"),
        "s1@example.net": (3, "spamComplaint"),
    }
    one = by_email["m1@example.net"]
    assert 0 < one["id"] < 2**31
    assert len(str(one["created"])) == 19
    assert (one["smtpError"], one["smtp_error"], one["messageUUID"]) == ("", "", "")
    for path in (SUPPRESSIONS, SUPPRESSIONS + "/"):
        listed = client.get(path, params={**_range(60), "limit": 2, "offset": 1}, headers=headers)
        assert listed.status_code == 200, listed.text
        assert len(listed.json()) == 2
    found = client.get(SUPPRESSIONS, params={"search": "M1@EX"}, headers=headers).json()
    assert [one["email"] for one in found] == ["m1@example.net"]
    found = client.get(SUPPRESSIONS, params={"type": "spamComplaint", **_range(0)}, headers=headers).json()
    assert found == []
    assert client.get(f"{SUPPRESSIONS}/count", headers=headers).json() == {"count": 5}
    exported = client.get(f"{SUPPRESSIONS}/export/", headers=headers)
    assert exported.headers["content-type"].startswith("text/csv")
    assert len(exported.text.splitlines()) == 6
    gone = client.request(
        "DELETE",
        SUPPRESSIONS,
        json={"suppressions": [{"email": "M1@example.net"}, {"email": "none@x.net"}]},
        headers=headers,
    )
    assert (gone.status_code, gone.json()) == (200, {"message": "Suppressions deleted successfully."})
    gone = client.request(
        "DELETE", SUPPRESSIONS, json={"suppressions": [{"email": "m2@example.net"}]}, headers={**headers, **LEGACY}
    )
    assert gone.json() == [{"id": by_email["m2@example.net"]["id"], "message": "Suppression deleted successfully."}]
    assert gone.headers["deprecation"] == "true"
    assert client.get(f"{SUPPRESSIONS}/count", headers=headers).json() == {"count": 3}


def test_a_file_of_suppressions_is_taken_in(client: httpx.Client, account: Account) -> None:
    text = "type,email\nunsubscribe,f1@example.org\n,f2@example.org\n,nothing\n"
    taken = client.post(
        f"{SUPPRESSIONS}/bulk", files={"fileinput": ("list.csv", text.encode())}, headers=account.sub_headers
    )
    assert taken.status_code == 200, taken.text
    assert taken.json() == {"count": 2, "message": "2 addresses are suppressed.", "rejected": [3]}
    found = client.get(SUPPRESSIONS, params={"search": "@example.org"}, headers=account.sub_headers).json()
    assert {one["email"]: one["reasonText"] for one in found} == {
        "f1@example.org": "unsubscribe",
        "f2@example.org": "manual",
    }


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/account/stat", 31),
        ("/account/stat/aggregate", 366),
        ("/account/stat/group", 31),
        ("/account/stat/aggregate/group", 366),
        ("/account/subaccount/stat/{}", 31),
        ("/account/subaccount/stat/{}/aggregate", 366),
        ("/account/subaccount/stat/{}/group", 366),
    ],
)
def test_statistics_have_their_ranges(client: httpx.Client, account: Account, path: str, most: int) -> None:
    url = "/api/v1" + path.format(account.number)
    query: dict[str, Any] = {"group": "a"} if path.endswith("group") else {}
    good = client.get(url, params={**query, **_range(most)}, headers=account.account_headers)
    assert good.status_code == 200, good.text
    if isinstance(good.json(), list):
        assert len(good.json()) == most + 1
        assert good.json()[0]["stat"]["processed"] == good.json()[0]["stats"]["spams"] == good.json()[0]["sent"] == 0
    else:
        assert good.json()["processed"] == 0
    bad = client.get(url, params={**query, **_range(most + 1)}, headers=account.account_headers)
    assert bad.status_code == 400
    assert bad.json()["error"]["param"] == "to"
    missing = client.get(url, params={**query, "to": "2024-01-01"}, headers=account.account_headers)
    assert missing.json()["error"] == {
        "code": "invalid_request",
        "message": "from is required.",
        "type": "invalid_request_error",
        "param": "from",
    }
