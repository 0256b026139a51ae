"""The rules of control: names, fields, addresses, API keys, leases, pages, DNS records."""

import base64
import hashlib

import pytest

from control.model import addresses, apikeys, dnsrecords, fields, names, paging
from control.model.caller import Access, Caller, Role
from control.model.credits import lease_amount
from mta.message.address import AddressError, parse_path
from mta.runtime.refusals import Reason, Refusal


def test_names_of_tenants() -> None:
    assert names.tenant("tenants/acme", "mine", "parent") == "acme"
    assert names.tenant("tenants/me", "mine", "parent") == "mine"
    assert names.tenant_or_login("logins/a/b", "mine", "tenant") == names.LoginAlias("a/b")


@pytest.mark.parametrize(
    "name", ["", "acme", "tenants/", "tenants/-a", "tenants/A", "tenants/a/b", "logins/a", "tenants/a\n"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        names.tenant(name, "mine", "parent")
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "parent")


def test_names_of_children_may_hold_slashes() -> None:
    name = "tenants/me/suppressions/a/b@x.test"
    assert names.child(name, "suppressions", "mine") == names.ChildName("mine", "a/b@x.test")
    for name in ("tenants/a/domains/", "tenants/a/logins/x", "tenants/a/domains", "tenants/a/domains/x\0"):
        with pytest.raises(Refusal):
            names.child(name, "domains", "mine")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (fields.tenant_id, ["a", "0", "a-b", "a" * 63], ["", "-a", "A", "a_b", "a" * 64, "me", "a\n"]),
        (fields.username, ["a", "a@b.c", "x" * 128, "ü"], ["", "a b", "a:b", "x" * 129, "a\t", "\u200b", "\u00a0"]),
        (
            fields.password,
            ["12345678", "x" * 256, "pass word"],
            ["1234567", "x" * 257, "1234567\0", "12345678\n"],
        ),
        (lambda value: fields.text(value, "note"), ["", "x" * 200], ["x" * 201, "a\nb", "\x7f"]),
        (lambda value: fields.phone(value, "phone"), ["", "+254700", "112"], ["+", "12 34", "x", "+" + "1" * 33]),
    ],
    ids=["tenant_id", "username", "password", "text", "phone"],
)
def test_fields(check: object, good: list[str], bad: list[str]) -> None:
    assert callable(check)
    assert [check(value) for value in good] == good
    for value in bad:
        with pytest.raises(Refusal):
            check(value)


def test_amounts_pages_and_scopes() -> None:
    assert [fields.amount(value) for value in (1, 10**15)] == [1, 10**15]
    for value in (0, -1, 10**15 + 1):
        with pytest.raises(Refusal):
            fields.amount(value)
    assert [fields.page_size(value) for value in (0, 7, 5000)] == [50, 7, 1000]
    with pytest.raises(Refusal):
        fields.page_size(-1)
    assert fields.scopes([], "scopes", {"credits"}) == ["mail"]
    with pytest.raises(Refusal):
        fields.scopes(["mail", "root"], "scopes", {"credits"})


ADDRESSES = [
    "Ann.Lee@Ex.COM", '"a b"@x.com', '"ab"@x.com', '"a..b"@x.com', "é@x.com", "É@bücher.de", "a@[1.2.3.4]",
    "a@[IPv6:::1]", "a@[IPv6:::1%eth0]", "a@[300.1.1.1]", "a@localhost", "a @x.com", " a@x.com", "a@x.com ", "a@b@c",
    "a@1.2.3.4", "a@x..y", "a" * 64 + "@x.com", "a" * 65 + "@x.com", '"a\\"b"@x.com', '"\\a"@x.com', "=?x?q?y?=@x.com",
    "ß@x.com", "a@ｅx.com", "a@x.com.", "a.@x.com", ".a@x.com", "", "@", "@x.com", "a@", "a\u200b@x.com", "a\n@x.com",
    "a@\u212aelvin.com", "a@straße.de", '"a@b"@x.com', "a/b@x.com", '""@x.com', '"a@x.com', "a@x_y.com", "<a@x.com>",
    "a@" + "b" * 64 + ".com", "a@" + ".".join(["b" * 60] * 4), "a+tag@x.com", "e\u0301@x.com", "\ud800@x.com",
]  # fmt: skip


@pytest.mark.parametrize("text", ADDRESSES)
def test_control_and_workers_agree_about_addresses(text: str) -> None:
    try:
        expected = parse_path(text, allow_literal=True, allow_single_label=True).canonical
    except AddressError:
        with pytest.raises(Refusal):
            addresses.canonical_address(text, "address")
    else:
        assert addresses.canonical_address(text, "address") == expected


def test_domains() -> None:
    assert addresses.domain_name("Bücher.Example", "domain") == "xn--bcher-kva.example"
    for bad in ("", "com", "a..b", "1.2.3.4", "a.1", "a_b.test", "x.test.", "-a.test", "a.test/b", "a" * 254):
        with pytest.raises(Refusal):
            addresses.domain_name(bad, "domain")


def test_api_keys() -> None:
    key = apikeys.generate()
    prefix, key_id, secret = key.text.split("_")
    assert (prefix, len(key_id), len(secret)) == ("bk", 12, 32)
    assert set(key_id + secret) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert key.secret_sha256 == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(key)
    assert apikeys.generate().text != key.text


@pytest.mark.parametrize(
    ("wanted", "available", "amount"),
    [(10, 1000, 10), (1000, 1000, 500), (1000, 150, 100), (1000, 60, 60), (5, 0, 0), (1, 1, 1)],
)
def test_a_lease_leaves_something_for_others(wanted: int, available: int, amount: int) -> None:
    assert lease_amount(wanted, available) == amount


def test_page_tokens_are_bound_to_their_list() -> None:
    token = paging.encode("ann", ("List", "tenant"))
    assert paging.decode(token, ("List", "tenant"), "") == "ann"
    assert paging.decode("", ("List", "tenant"), "") == ""
    forged = paging.encode("a\0b", ("List", "tenant")), paging.encode(2**63, ("List", "tenant"))
    for bad in ("x", "é", "!", token[:-1], paging.encode(5, ("List", "tenant")), *forged):
        with pytest.raises(Refusal):
            paging.decode(bad, ("List", "tenant"), "")
    with pytest.raises(Refusal):
        paging.decode(token, ("List", "other"), "")
    with pytest.raises(Refusal):
        paging.decode(forged[1], ("List", "tenant"), 0)


def test_dns_records() -> None:
    record = dnsrecords.dkim("x.test", "s1", "ed25519", bytes(32))
    assert record.owner == "s1._domainkey.x.test"
    assert record.data == f"v=DKIM1; k=ed25519; p={base64.b64encode(bytes(32)).decode()}"
    assert dnsrecords.challenge("x.test", "abc").data == "barua-verify=abc"


def test_roles() -> None:
    may = {role: [access for access in Access if Caller(role, "x").may(access, "credits")] for role in Role}
    assert may == {
        Role.OPERATOR: list(Access),
        Role.RESELLER: [Access.READ, Access.WRITE, Access.RESELL],
        Role.TENANT: [Access.READ, Access.WRITE],
        Role.READ_ONLY: [Access.READ],
        Role.SENDER: [],
        Role.NODE: [Access.NODE],
    }


def test_scopes_narrow_a_role() -> None:
    caller = Caller(Role.TENANT, "x", frozenset({"domains", "credits:read"}))
    assert caller.may(Access.WRITE, "domains")
    assert caller.may(Access.READ, "credits")
    assert not caller.may(Access.WRITE, "credits")
    assert not caller.may(Access.READ, "messages")
    assert not caller.may(Access.RESELL, "domains")
