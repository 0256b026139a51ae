"""Look-ups against a real DNS server: answers, absence, failures, and how often it is asked."""

import asyncio
import socket
import time

import pytest

from mta.resolver import dns as module
from mta.resolver.dns import MIN_TTL, DnsResolver
from mta.routing.ports import DnsFailure, MxRecord, NameMissing
from tests.support.dns import DnsServer, Failure


def resolver(
    server: DnsServer, *, timeout_seconds: float = 20.0, cache_size: int = 1000, max_ttl: int = 60
) -> DnsResolver:
    """A resolver that asks the test's server."""
    return DnsResolver([("127.0.0.1", server.port)], timeout_seconds, cache_size, max_ttl)


def remaining(made: DnsResolver, kind: str, name: str) -> float:
    """Seconds an answer is still kept."""
    return made._cache[kind, name][1] - time.monotonic()


async def test_mx_records(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "20 MX2.Example.net.", "10 mx1.example.net.")
    assert set(await resolver(dns_server).mx("example.net")) == {
        MxRecord(10, "mx1.example.net"),
        MxRecord(20, "mx2.example.net"),
    }


async def test_a_null_mx_has_an_empty_host(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "0 .")
    assert await resolver(dns_server).mx("example.net") == (MxRecord(0, ""),)


async def test_no_mx_is_not_no_name(dns_server: DnsServer) -> None:
    dns_server.set("plain.test", "A", "192.0.2.1")
    made = resolver(dns_server)
    assert await made.mx("plain.test") == ()
    with pytest.raises(NameMissing):
        await made.mx("nowhere.test")


async def test_addresses_are_ipv4_before_ipv6(dns_server: DnsServer) -> None:
    dns_server.set("both.test", "AAAA", "2001:db8::1")
    dns_server.set("both.test", "A", "192.0.2.1", "192.0.2.2")
    found = await resolver(dns_server).addresses("both.test")
    assert set(found[:2]) == {"192.0.2.1", "192.0.2.2"}
    assert found[2:] == ("2001:db8::1",)


async def test_a_literal_is_its_own_answer(dns_server: DnsServer) -> None:
    made = resolver(dns_server)
    assert await made.addresses("192.0.2.1") == ("192.0.2.1",)
    assert await made.addresses("2001:DB8::0001") == ("2001:db8::1",)
    assert not dns_server.queries


async def test_no_address_is_an_answer(dns_server: DnsServer) -> None:
    dns_server.set("text.test", "TXT", '"x"')
    made = resolver(dns_server)
    assert await made.addresses("text.test") == ()
    with pytest.raises(NameMissing):
        await made.addresses("nowhere.test")


@pytest.mark.parametrize("failure", [Failure.SERVFAIL, Failure.REFUSED])
async def test_failures_are_failures_and_not_kept(dns_server: DnsServer, failure: Failure) -> None:
    made = resolver(dns_server)
    dns_server.fail("example.net", failure)
    for look_up in (made.mx, made.addresses):
        with pytest.raises(DnsFailure):
            await look_up("example.net")
    dns_server.fail("example.net", None)
    assert await made.mx("example.net") == (MxRecord(10, "mx.example.net"),)


async def test_silence_ends_at_the_deadline(dns_server: DnsServer) -> None:
    dns_server.fail("example.net", Failure.DROP)
    started = time.monotonic()
    with pytest.raises(DnsFailure, match="LifetimeTimeout"):
        await resolver(dns_server, timeout_seconds=0.3).mx("example.net")
    assert time.monotonic() - started < 4


async def test_nobody_there_is_a_failure() -> None:
    with pytest.raises(DnsFailure):
        await DnsResolver([("127.0.0.1", 1)], 0.5, 100, 60).mx("example.net")


async def test_the_second_server_is_asked_when_the_first_is_dead(dns_server: DnsServer) -> None:
    made = DnsResolver([("127.0.0.1", 1), ("127.0.0.1", dns_server.port)], 20.0, 100, 60)
    assert await made.mx("example.net") == (MxRecord(10, "mx.example.net"),)


async def test_a_server_may_have_an_ipv6_address() -> None:
    def answer() -> None:
        data, peer = server.recvfrom(512)
        # The question back with one MX record: preference 10, host "mx.test".
        rdata = b"\x00\x0a\x02mx\x04test\x00"
        record = b"\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x3c" + len(rdata).to_bytes(2) + rdata
        server.sendto(data[:2] + b"\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00" + data[12:] + record, peer)

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        answering = asyncio.create_task(asyncio.to_thread(answer))
        made = DnsResolver([("::1", server.getsockname()[1])], 2.0, 100, 60)
        assert await made.mx("example.net") == (MxRecord(10, "mx.test"),)
        await answering


async def test_one_family_that_fails_does_not_hide_the_other(dns_server: DnsServer) -> None:
    dns_server.set("both.test", "A", "192.0.2.1")
    assert await resolver(dns_server).addresses("both.test") == ("192.0.2.1",)


async def test_large_answers_come_over_tcp(dns_server: DnsServer) -> None:
    dns_server.set(
        "example.net", "MX", *(f"{number} mx{number}.long-name-to-fill-it-up.test." for number in range(200))
    )
    assert len(await resolver(dns_server).mx("example.net")) == 200


async def test_a_look_up_under_way_is_shared(dns_server: DnsServer) -> None:
    made = resolver(dns_server)
    answers = await asyncio.gather(*(made.mx("example.net") for _ in range(50)))
    assert set(answers) == {(MxRecord(10, "mx.example.net"),)}
    assert dns_server.count("example.net", "MX") == 1


async def test_a_shared_failure_is_everybodys(dns_server: DnsServer) -> None:
    dns_server.fail("example.net", Failure.SERVFAIL)
    made = resolver(dns_server)
    answers = await asyncio.gather(*(made.mx("example.net") for _ in range(5)), return_exceptions=True)
    assert all(isinstance(answer, DnsFailure) for answer in answers)


async def test_who_stops_waiting_does_not_spoil_it_for_others(dns_server: DnsServer) -> None:
    made = resolver(dns_server)
    first = asyncio.create_task(made.mx("example.net"))
    await asyncio.sleep(0)
    second = asyncio.create_task(made.mx("example.net"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == (MxRecord(10, "mx.example.net"),)
    assert dns_server.count("example.net", "MX") == 1


async def test_answers_are_kept_for_their_time(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "10 mx.example.net.", ttl=30)
    made = resolver(dns_server)
    for _ in range(3):
        await made.mx("example.net")
    assert dns_server.count("example.net", "MX") == 1
    assert 25 < remaining(made, "MX", "example.net") <= 30


@pytest.mark.parametrize(("ttl", "kept"), [(0, MIN_TTL), (1, MIN_TTL), (2**31 - 1, 60), (20, 20)])
async def test_times_are_clamped_both_ways(dns_server: DnsServer, ttl: int, kept: int) -> None:
    dns_server.set("example.net", "MX", "10 mx.example.net.", ttl=ttl)
    dns_server.set("example.net", "A", "192.0.2.1", ttl=ttl)
    made = resolver(dns_server)
    await made.mx("example.net")
    await made.addresses("example.net")
    for kind in ("MX", "A"):
        assert kept - 4 < remaining(made, kind, "example.net") <= kept


async def test_what_has_run_out_is_asked_for_again(dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_TTL", 0.05)
    dns_server.set("example.net", "MX", "10 mx.example.net.", ttl=0)
    made = resolver(dns_server)
    await made.mx("example.net")
    await asyncio.sleep(0.06)  # it runs out
    dns_server.set("example.net", "MX", "10 other.example.net.", ttl=0)
    assert await made.mx("example.net") == (MxRecord(10, "other.example.net"),)


async def test_absence_is_kept_too(dns_server: DnsServer) -> None:
    dns_server.set("plain.test", "A", "192.0.2.1")
    made = resolver(dns_server)
    for _ in range(3):
        assert await made.mx("plain.test") == ()
        with pytest.raises(NameMissing):
            await made.mx("nowhere.test")
    assert dns_server.count("plain.test", "MX") == 1
    assert dns_server.count("nowhere.test", "MX") == 1


async def test_memory_is_bounded(dns_server: DnsServer) -> None:
    made = resolver(dns_server, cache_size=10)
    for number in range(30):
        dns_server.set(f"d{number}.test", "MX", "10 mx.test.")
        await made.mx(f"d{number}.test")
    assert len(made._cache) <= 10
    assert not made._under_way


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".test", ".".join(["a" * 60] * 6), "\\300.test"])
async def test_a_name_that_is_none_is_a_failure(dns_server: DnsServer, name: str) -> None:
    made = resolver(dns_server)
    for look_up in (made.mx, made.addresses):
        with pytest.raises((DnsFailure, NameMissing)):
            await look_up(name)


async def test_many_look_ups_at_once_are_bounded(dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONCURRENT", 3)
    made = resolver(dns_server)
    for number in range(20):
        dns_server.set(f"d{number}.test", "MX", f"10 mx{number}.test.")
    answers = await asyncio.gather(*(made.mx(f"d{number}.test") for number in range(20)))
    assert [answer[0].host for answer in answers] == [f"mx{number}.test" for number in range(20)]


async def test_a_garbled_answer_is_a_failure() -> None:
    def answer() -> None:
        for _ in range(2):
            data, peer = server.recvfrom(512)
            server.sendto(
                data[:2] + b"\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00" + data[12:] + b"\xc0\x0c\x00\x0f\x00\x01\xff",
                peer,
            )

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        made = DnsResolver([("127.0.0.1", server.getsockname()[1])], 0.5, 100, 60)
        answering = asyncio.create_task(asyncio.to_thread(answer))
        with pytest.raises(DnsFailure):
            await made.mx("example.net")
        await asyncio.gather(answering, return_exceptions=True)
