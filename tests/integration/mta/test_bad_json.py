"""Bad input over the JSON API: the right status, a text that names the field, and nothing half-done."""

import email
import json
from concurrent.futures import ThreadPoolExecutor
from email.header import decode_header, make_header
from typing import Any

import httpx
import pytest

from tests.integration.mta.accounts import Account, Accounts, wait_for_policy
from tests.integration.mta.arrivals import one
from tests.integration.mta.test_bad_input import nothing_happens
from tests.support.sink import RecordingSink
from tests.support.stack import PASSWORD, Stack
from tests.support.waiting import wait_until

HEADERS = {"Content-Type": "application/json"}


def post(stack: Stack, call: str, body: Any, login: tuple[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """POST ``body`` (bytes as they are); status and answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{stack.bridge_url}/email/api/{call}"
    answer = httpx.post(url, content=content, headers=HEADERS, auth=login, timeout=60)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


def good(account: Account, **changes: Any) -> dict[str, Any]:
    """A body of send that is fine but for ``changes``."""
    body = {"apiKey": account.api_key, "to": "r@example.net", "subject": "Hello", "body": "Text", "fromName": "Me"}
    return {key: value for key, value in (body | changes).items() if value is not ...}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b"{'apiKey': 1}", b'{"to": "\xff"}', b"\x00", b"[" * 20_000]
)
def test_malformed_json_is_400(account: Account, stack: Stack, body: bytes) -> None:
    with nothing_happens(account):
        for call, login in (("send", None), ("reseller/createSubUser", ("reseller", PASSWORD))):
            status, answer = post(stack, call, body, login)
            assert (status, answer["status"]) == (400, "error"), answer
            assert len(answer["message"]) > 10


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"to": 5}, "to"),
        ({"to": None}, "to"),
        ({"to": {"email": "r@example.net"}}, "to"),
        ({"to": [1]}, "to"),
        ({"to": ""}, "to"),
        ({"to": []}, "to"),
        ({"to": ...}, "to"),
        ({"to": "no-at-sign"}, "to"),
        ({"to": "r@example.net\r\nBcc: x@example.net"}, "to"),
        ({"to": "r@example.net>\r\nRCPT TO:<x@example.net"}, "to"),
        ({"subject": 5}, "subject"),
        ({"subject": ["a"]}, "subject"),
        ({"subject": ...}, "subject"),
        ({"subject": "a\r\nBcc: x@example.net"}, "subject"),
        ({"subject": "a\nBcc: x@example.net"}, "subject"),
        ({"subject": "a\rBcc: x@example.net"}, "subject"),
        ({"subject": "a\x00b"}, "subject"),
        ({"body": 5}, "body"),
        ({"body": ...}, "body"),
        ({"fromName": 5}, "fromName"),
        ({"fromName": 'a" <ceo@bank.example>\r\nX: "'}, "fromName"),
        ({"fromName": "a\nFrom: ceo@bank.example"}, "fromName"),
        ({"attachments": "file"}, "attachments"),
        ({"attachments": [{"filename": "a", "content": "!!!"}]}, "attachments"),
        ({"attachments": [{"filename": "a\r\nX: y", "content": "YQ=="}]}, "attachments"),
    ],
    ids=str,
)
def test_a_wrong_field_is_400_and_named(account: Account, stack: Stack, changes: dict[str, Any], names: str) -> None:
    with nothing_happens(account):
        status, answer = post(stack, "send", good(account, **changes))
    assert (status, answer["status"]) == (400, "error"), answer
    assert names in answer["message"], answer


def test_a_wrong_api_key_is_401(account: Account, stack: Stack) -> None:
    prefix, _, _ = account.api_key.rpartition("_")
    for key in ("wrong", f"{prefix}_{'a' * 32}", account.api_key + "a", account.api_key[:-1], f" {account.api_key}x"):
        with nothing_happens(account):
            status, answer = post(stack, "send", good(account, apiKey=key))
        assert (status, answer) == (401, {"status": "error", "message": "Authentication passed failed."})


def test_a_wrong_password_of_a_reseller_is_401(account: Account, stack: Stack) -> None:
    body = {"username": "new-user", "password": "long enough", "credits": 1}
    for login in (("reseller", "wrong"), ("nobody", "wrong"), None):
        with nothing_happens(account):
            status, answer = post(stack, "reseller/createSubUser", body, login)
        assert (status, answer) == (401, {"status": "error", "message": "Authentication passed failed."})


def test_no_credits_is_402(accounts: Accounts, stack: Stack) -> None:
    account = accounts.make(credits_=0)
    with nothing_happens(account):
        status, answer = post(stack, "send", good(account))
    assert (status, answer) == (402, {"status": "error", "message": "Insufficient credits"})


def test_a_suppressed_recipient_is_refused_with_the_scope(account: Account, stack: Stack) -> None:
    recipient = f"suppressed-{account.tenant}@example.net"
    stack.operator.suppress(account.tenant, recipient)

    def refused() -> bool:
        status, answer = post(stack, "send", good(account, to=recipient))
        return status == 422 and "scope: account" in answer["message"]

    wait_until(refused, "the suppression is in force")


def test_one_bad_recipient_of_several_is_named_and_not_charged(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    suppressed, fine = f"suppressed-{account.tenant}@example.net", f"fine-{account.tenant}@example.net"
    stack.operator.suppress(account.tenant, suppressed)
    wait_for_policy(stack)
    assert post(stack, "send", good(account, to=suppressed))[0] == 422
    before = account.balance.consumed
    status, answer = post(stack, "send", good(account, to=[suppressed, fine]))
    assert (status, answer["status"]) == (200, "success")
    assert [failed["to"] for failed in answer["failed"]] == [suppressed]
    assert one(sink, fine).recipients == (fine,)
    wait_until(lambda: account.balance.consumed == before + 1, "one is charged")


def test_a_sender_name_is_only_ever_a_name(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient = f"name-{account.tenant}@example.net"
    name = 'ceo@bank.example" <ceo@bank.example>, "Ünïcode\\'
    assert post(stack, "send", good(account, to=recipient, fromName=name))[0] == 200
    received = one(sink, recipient)
    assert [found.addr_spec for found in received.message["From"].addresses] == [f"noreply@{account.domain}"]
    # The modern parser of Python 3.11 puts a space between encoded words, against RFC 2047 §6.2.
    (raw,) = [value for key, value in email.message_from_bytes(received.content).items() if key == "From"]
    assert str(make_header(decode_header(raw))) == f"{name} <noreply@{account.domain}>"


def test_a_transfer_beyond_the_balance_moves_nothing(accounts: Accounts, stack: Stack) -> None:
    reseller = accounts.make(credits_=10)
    child = accounts.make(parent=reseller.tenant, credits_=5)
    login = (reseller.tenant, PASSWORD)
    body = {"sub_username": child.tenant, "action": "ADD", "amount": 11}
    status, answer = post(stack, "reseller/manageCredits", body, login)
    assert (status, answer) == (402, {"status": "error", "message": "Insufficient reseller credits"})
    status, answer = post(stack, "reseller/manageCredits", body | {"action": "DEDUCT", "amount": 6}, login)
    assert (status, answer) == (402, {"status": "error", "message": "Insufficient sub-user credits"})
    for amount in (0, -1, 1.5, "ten", None, True):
        assert post(stack, "reseller/manageCredits", body | {"amount": amount}, login)[0] == 400, amount
    status, answer = post(stack, "reseller/manageCredits", body | {"sub_username": "reseller"}, login)
    assert (status, answer["message"]) == (404, "The target sub-username was not found.")
    assert (reseller.balance.balance, child.balance.balance) == (10, 5)
    status, answer = post(stack, "reseller/manageCredits", body | {"amount": 10}, login)
    assert (status, answer["reseller_balance"], answer["subuser_balance"]) == (200, 0, 15)


def test_two_transfers_at_once_never_overdraw(accounts: Accounts, stack: Stack) -> None:
    reseller = accounts.make(credits_=100)
    children = [accounts.make(parent=reseller.tenant, credits_=0) for _ in range(2)]
    login = (reseller.tenant, PASSWORD)

    def ask(number: int) -> int:
        body = {"sub_username": children[number % 2].tenant, "action": "ADD", "amount": 7}
        return post(stack, "reseller/manageCredits", body, login)[0]

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, range(24)))
    assert sorted(statuses) == [200] * 14 + [402] * 10
    assert reseller.balance.balance == 2
    assert sum(child.balance.balance for child in children) == 98


def test_leased_credits_come_back_when_the_reseller_wants_them(
    accounts: Accounts, stack: Stack, sink: RecordingSink
) -> None:
    reseller = accounts.make(credits_=0)
    child = accounts.make(parent=reseller.tenant, credits_=1000)
    body = {"sub_username": child.tenant, "action": "DEDUCT", "amount": 990}
    recipients = [f"lease-{number}-{child.tenant}@example.net" for number in range(20)]
    for recipient in recipients[:5]:
        assert post(stack, "send", good(child, to=recipient))[0] == 200
    assert child.balance.reserved > 0
    assert post(stack, "reseller/manageCredits", body, (reseller.tenant, PASSWORD)) == (
        200,
        {"status": "success", "message": "Credits updated", "reseller_balance": 990, "subuser_balance": 5},
    )
    statuses = [post(stack, "send", good(child, to=recipient))[0] for recipient in recipients[5:]]
    assert statuses == [200] * 5 + [402] * 10
    wait_until(lambda: child.balance.consumed == 10, "all is told")
    assert (child.balance.balance, reseller.balance.balance) == (0, 990)
    for recipient in recipients[:10]:
        one(sink, recipient)
