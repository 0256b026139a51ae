"""The tests' own DNS server answers as dnspython's resolver, a peer of it, expects."""

from collections.abc import Iterator

import dns.exception
import dns.resolver
import pytest

from tests.support.dns import DnsServer, Failure


@pytest.fixture
def server() -> Iterator[DnsServer]:
    records = {
        ("example.net", "MX"): ["10 mx.example.net."],
        ("mx.example.net", "A"): ["127.0.0.1"],
        ("www.example.net", "CNAME"): ["mx.example.net."],
        ("*.wild.example.net", "A"): ["127.0.0.2"],
    }
    with DnsServer(records) as running:
        yield running


@pytest.fixture
def resolver(server: DnsServer) -> dns.resolver.Resolver:
    found = dns.resolver.Resolver(configure=False)
    found.nameservers, found.port = ["127.0.0.1"], server.port
    found.timeout, found.lifetime = 0.3, 0.5
    return found


def test_records_wildcards_and_aliases(server: DnsServer, resolver: dns.resolver.Resolver) -> None:
    assert [str(record) for record in resolver.resolve("example.net", "MX")] == ["10 mx.example.net."]
    assert [str(record) for record in resolver.resolve("www.example.net", "A")] == ["127.0.0.1"]
    assert [str(record) for record in resolver.resolve("a.wild.example.net", "A")] == ["127.0.0.2"]
    assert server.count("example.net", "MX") == 1


def test_a_name_without_records_is_not_there_and_one_above_others_is_empty(resolver: dns.resolver.Resolver) -> None:
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve("nothing.example.net", "A")
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve("wild.example.net", "A")
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve("mx.example.net", "AAAA")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Failure.SERVFAIL, dns.resolver.NoNameservers),
        (Failure.REFUSED, dns.resolver.NoNameservers),
        (Failure.NXDOMAIN, dns.resolver.NXDOMAIN),
        (Failure.DROP, dns.resolver.LifetimeTimeout),
    ],
)
def test_failures_come_and_go(
    server: DnsServer, resolver: dns.resolver.Resolver, failure: Failure, error: type[dns.exception.DNSException]
) -> None:
    server.fail("mx.example.net", failure)
    with pytest.raises(error):
        resolver.resolve("mx.example.net", "A")
    server.fail("mx.example.net", None)
    assert len(resolver.resolve("mx.example.net", "A")) == 1


def test_truncated_and_large_answers_come_over_tcp(server: DnsServer, resolver: dns.resolver.Resolver) -> None:
    server.fail("mx.example.net", Failure.TRUNCATE)
    assert len(resolver.resolve("mx.example.net", "A")) == 1
    server.set_text("long.example.net", "x" * 5000)
    (answer,) = resolver.resolve("long.example.net", "TXT")
    assert b"".join(answer.strings) == b"x" * 5000
