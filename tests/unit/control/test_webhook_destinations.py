"""Where webhooks may be posted to: texts of URLs, and addresses."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.webhooks.destinations import Rules
from mta.runtime.networks import is_public
from mta.runtime.refusals import Reason, Refusal

RULES = Rules(allow_http=False, allowed_networks=[], demo=False)
OPEN = Rules(allow_http=True, allowed_networks=["10.0.0.0/8", "fd00::/8"], demo=False)
DEMO = Rules(allow_http=False, allowed_networks=[], demo=True)


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com:443/a?b=c", "https://example.com/a?b=c"),
        ("HTTPS://EXAMPLE.com:8443/A", "https://example.com:8443/A"),
        ("https://example.com./x", "https://example.com/x"),
        ("https://1.1.1.1/x", "https://1.1.1.1/x"),
        ("https://[2606:4700:4700::1111]:8443/x", "https://[2606:4700:4700::1111]:8443/x"),
        ("https://example.com/a%20b?q=%23", "https://example.com/a%20b?q=%23"),
    ],
)
def test_a_good_url_is_kept_in_one_form(given_url: str, kept: str) -> None:
    assert RULES.parse(given_url, "url").url == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://@example.com/",
        "https://good.example@127.0.0.1/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/#fragment",
        "https://example.com#",
        "https://example.com:0/",
        "https://example.com:22/",
        "https://example.com:25/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: x",
        "https://b\u00fccher.example/",
        "https://example.com/" + "a" * 2000,
        # This machine and its neighbours, spelled in every way that some resolver takes.
        "https://127.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://0/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.01/",
        "https://017700000001/",
        "https://1.2.3.4.5/",
        "https://256.1.1.1/",
        "https://127.0.0.1./",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00:ec2::254]/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[v1.fe80]/",
        "https://[::1",
    ],
)
def test_a_bad_url_is_refused_with_its_field(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        RULES.parse(url, "webhook.url")
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "webhook.url")


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
        "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
        "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
        "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::10.0.0.1",
        "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:a00:1::",
        "2002:7f00:1::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "3fff::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "2606:4700:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ],
)
def test_a_public_address_is_permitted(text: str) -> None:
    assert is_public(ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_disguise(address: object) -> None:
    number = int(address)  # type: ignore[call-overload]
    plain = is_public(ip_address(number))
    for disguise in (f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}", f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}"):
        assert is_public(ip_address(disguise)) == plain
    if not plain:
        assert not is_public(ip_address(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1"))


@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"https?://[a-z0-9.:@\[\]%x-]{0,30}(/[!-~]{0,10})?", fullmatch=True),
        st.ip_addresses().map(lambda address: f"https://{f'[{address}]' if address.version == 6 else address}/"),
    )
)
def test_whatever_is_taken_is_its_own_kept_form_and_public(url: str) -> None:
    try:
        target = RULES.parse(url, "url")
    except Refusal:
        return
    assert RULES.parse(target.url, "url") == target
    literal = target.literal()
    assert literal is None or is_public(literal)
    assert target.scheme == "https"


def test_the_operator_can_allow_networks_and_http() -> None:
    assert OPEN.parse("http://10.1.2.3:8080/x", "url").url == "http://10.1.2.3:8080/x"
    assert OPEN.permitted(ip_address("fd00::1"))
    assert not OPEN.permitted(ip_address("127.0.0.1"))
    with pytest.raises(Refusal):
        OPEN.parse("http://127.0.0.1/", "url")


def test_demo_allows_this_machine_and_nothing_else() -> None:
    for url in ("http://127.0.0.1:9000/", "http://localhost:9000/", "https://localhost/", "http://[::1]:9000/"):
        DEMO.parse(url, "url")
    for url in ("http://example.com/", "http://10.0.0.1/", "https://192.168.1.1/"):
        with pytest.raises(Refusal):
            DEMO.parse(url, "url")
