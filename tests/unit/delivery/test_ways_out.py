"""Ways out that change, fail or fill up under the mail that takes them: none is lost, and each is told as it went."""

import sqlite3
import time
from pathlib import Path

import pytest

from mta.delivery import agent as agent_module
from mta.delivery import site as site_module
from mta.delivery.dial import Dialer, DialRules, NotConnected, SourceUnfit
from mta.policy.egress import EgressRule, Pool, PoolAssignment, ProviderTls
from mta.replica.writer import Record
from mta.routing.ports import MxRecord
from mta.routing.router import Credentials, Host, Route, SourceAddress, TlsPolicy
from tests.support.ports import free_port
from tests.support.smarthost import SmartHost
from tests.support.waiting import wait_until_async
from tests.unit.delivery.test_egress import bench, provider, source


class Addresses:
    """A resolver that knows addresses of hosts only."""

    def __init__(self, **hosts: tuple[str, ...]) -> None:
        self.hosts = hosts

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Those it was made with."""
        return self.hosts[host]

    async def mx(self, domain: str) -> tuple[MxRecord, ...]:
        """None."""
        return ()


def dialer(resolver: Addresses) -> Dialer:
    """Makes connections to loopback."""
    return Dialer(DialRules("mta.test", 2.0, 2.0, 2.0, True), resolver)


async def test_mail_of_the_built_in_provider_goes_on_when_its_limits_are_deleted(tmp_path: Path) -> None:
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port) as worker:
            await worker.send("x@example.net", provider="acme/builtin")
            await worker.settled(1)
            assert worker.events()[0][1] == 2
        assert len(sink.relayed) == 1


async def test_a_limit_of_the_built_in_provider_does_not_turn_a_rule_off(tmp_path: Path) -> None:
    with SmartHost() as sink, SmartHost() as host:
        built_in = provider(0, ProviderTls.NONE, "builtin", "", username="", limited=True, waits=True)
        smart = provider(host.port, ProviderTls.NONE, username="")
        rule = EgressRule("r", 1, provider=("acme", "smart"))
        async with bench(tmp_path, sink.port, built_in, smart, rule) as worker:
            await worker.send("x@example.net", provider="acme/builtin")
            await worker.settled(1)
            assert worker.events()[0][3] == "acme/smart"
        assert (len(host.relayed), len(sink.relayed)) == (1, 0)


async def test_mail_that_is_filed_anew_is_told_as_it_went(tmp_path: Path) -> None:
    with SmartHost() as sink, SmartHost() as host:
        smart = provider(host.port, ProviderTls.NONE, username="", limited=True)
        rule = EgressRule("r", 1, provider=("acme", "smart"), messages_per_minute=1)
        async with bench(tmp_path, sink.port, smart, rule) as worker:
            worker.control.left["tenants/acme/smtpProviders/smart"] = 2
            for name in "ab":
                await worker.send(f"{name}@example.net")
            await worker.settled(1)
            worker.change(rule, deleted=True)
            await worker.settled(2)
            assert [event[3] for event in worker.events()] == ["acme/smart", None]
            # What the second had counted is free again.
            worker.change(EgressRule("again", 1, provider=("acme", "smart")))
            await worker.send("c@example.net")
            await worker.settled(3)
        assert (len(host.relayed), len(sink.relayed)) == (2, 1)


@pytest.mark.parametrize("by_source", [True, False])
async def test_a_limit_with_room_for_some_recipients_of_a_message_is_used(tmp_path: Path, by_source: bool) -> None:
    with SmartHost() as sink:
        ways: list[Record] = [provider(0, ProviderTls.NONE, "builtin", "", username="", limited=True, waits=True)]
        subject = "tenants/acme/smtpProviders/builtin"
        if by_source:
            one = source("one", "127.0.0.2", limited=True)
            ways, subject = [one, Pool("main", (("one", 1),)), PoolAssignment("acme", "main")], "sources/one"
        async with bench(tmp_path, sink.port, *ways) as worker:
            worker.control.left[subject] = 3
            await worker.send(
                *(f"{name}@example.net" for name in "abcde"), provider="" if by_source else "acme/builtin"
            )
            await worker.settled(5)
            assert [event[1] for event in worker.events()] == [2, 2, 2]
            assert len(worker.reasons()) == 2
            assert (worker.agent.active_recipients, worker.agent.active_bytes) == (0, 0)
            assert worker.control.left[subject] == 0
        (taken,) = sink.relayed
        assert len(taken.recipients) == 3


async def test_a_slow_way_out_does_not_fill_the_memory_of_all_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "WAITING_JOBS", 2)
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, EgressRule("slow", 1, messages_per_minute=1)) as worker:
            for number in range(6):
                await worker.send(f"x@d{number}.example.net")
            await worker.settled(4)
            await wait_until_async(lambda: len(worker.reasons()) == 3, "three wait in the spool")
            assert set(worker.reasons().values()) == {"much mail waits for the same way out"}
            assert worker.agent.active_recipients == 2
        assert len(sink.relayed) == 1


async def test_a_way_that_cannot_be_found_is_looked_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path, 9, EgressRule("r", 1, messages_per_minute=1)) as worker:

        def broken(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(worker.ways, "way", broken)
        await worker.send("x@example.net")
        await worker.settled(1)
        assert worker.reasons() == {1: "its way out could not be found"}
        assert worker.agent.active_recipients == 0


async def test_what_a_pool_may_not_send_goes_out_from_its_overflow(tmp_path: Path) -> None:
    main = Pool("p1", (("one", 1),), "acme", "main", "p2")
    spare = Pool("p2", (("two", 1),), "acme", "spare")
    sources = [source("one", "127.0.0.2", limited=True), source("two", "127.0.0.3")]
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, *sources, main, spare) as worker:
            worker.control.left["sources/one"] = 1
            for number in range(3):
                await worker.send(f"r{number}@example.net", pool="p1")
                await wait_until_async(lambda: len(worker.released) + len(worker.reasons()) > 0, "it is on its way")
            await wait_until_async(lambda: {event[4] for event in worker.events()} == {"one", "two"}, "both")
            assert {taken.peer for taken in sink.relayed} == {"127.0.0.2", "127.0.0.3"}


async def test_a_message_names_a_pool_as_long_as_that_is_there(tmp_path: Path) -> None:
    own, usual = Pool("p1", (("one", 1),), "acme", "own"), Pool("usual", (("two", 1),))
    sources = [source("one", "127.0.0.2"), source("two", "127.0.0.3")]
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, *sources, own, usual, PoolAssignment("acme", "usual")) as worker:
            await worker.send("a@example.net", pool="p1")
            await worker.settled(1)
            worker.change(own, deleted=True)
            await worker.send("b@example.net", pool="p1")
            await worker.settled(2)
            worker.change(EgressRule("stop", 1, suspended=True))
            await worker.send("c@example.net", pool="p1")
            await worker.settled(3)
            assert [event[4] for event in worker.events()] == ["one", "two"]
        assert [taken.peer for taken in sink.relayed] == ["127.0.0.2", "127.0.0.3"]


async def test_senders_hear_nothing_of_pools_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path, 9, Pool("secret-pool", ()), PoolAssignment("acme", "secret-pool")) as worker:
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + 7_200_000_000_000)
        await worker.send("x@example.net")
        await worker.settled(1)
        (event,) = worker.events()
        assert event[2] == "there was no capacity to send the message"


async def test_a_refused_login_is_not_repeated_at_the_hosts_other_addresses() -> None:
    with SmartHost({"acme": "secret"}) as host:
        route = Route(
            "provider:x", (Host("smart", host.port, True),), TlsPolicy.NEVER, credentials=Credentials("acme", "wrong")
        )
        with pytest.raises(NotConnected) as caught:
            await dialer(Addresses(smart=("127.0.0.1", "127.0.0.1", "127.0.0.1"))).dial(route)
        assert caught.value.pause
        assert host.logins == ["acme"]


async def test_many_messages_try_a_wrong_password_once(tmp_path: Path) -> None:
    with SmartHost({"acme": "secret"}) as host:
        smart = provider(host.port, ProviderTls.NONE)
        async with bench(tmp_path, 9, smart, password="wrong") as worker:
            for number in range(12):
                await worker.send(f"x@d{number}.example.net", provider="acme/smart")
            await worker.settled(1)
        assert host.logins == ["acme"]


async def test_after_the_first_login_mail_uses_all_connections(tmp_path: Path) -> None:
    with SmartHost({"acme": "secret"}) as host:
        async with bench(tmp_path, 9, provider(host.port, ProviderTls.NONE), connections=3) as worker:
            for number in range(60):
                await worker.send(f"x@d{number}.example.net", provider="acme/smart")
            await worker.settled(60)
        assert len(host.relayed) == 60
        assert 1 <= len(host.logins) <= 3


async def test_a_source_is_not_unfit_for_a_site_whose_server_was_tried() -> None:
    hosts = (Host("four", free_port(), True), Host("six", 25, True))
    route = Route("one.x|site", hosts, TlsPolicy.NEVER, source=SourceAddress("one", "127.0.0.1", "one.test"))
    with pytest.raises(NotConnected) as caught:
        await dialer(Addresses(four=("127.0.0.1",), six=("::1",))).dial(route)
    assert not isinstance(caught.value, SourceUnfit)
    assert "refused" in caught.value.outcome.text


async def test_a_site_is_remembered_until_its_interval_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SITE_SECONDS", 0.0)
    monkeypatch.setattr(agent_module, "SWEEP_SECONDS", 0.02)
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, EgressRule("slow", 1, messages_per_minute=60)) as worker:
            await worker.send("a@example.net")
            await worker.settled(1)
            (site,) = worker.agent._sites.values()
            assert isinstance(site, site_module.Site)
            site.close_idle()
            await wait_until_async(lambda: not site.connections, "its connection is closed")
            assert not site.unused
            await wait_until_async(lambda: not worker.agent._sites, "it is forgotten")


async def test_the_pool_that_a_message_names_goes_before_the_way_of_a_rule(tmp_path: Path) -> None:
    """But not before a suspension."""
    named = Pool("p1", (("one", 1),), "acme", "mine")
    with SmartHost() as sink, SmartHost() as host:
        rule = EgressRule("r", 1, provider=("acme", "smart"))
        smart = provider(host.port, ProviderTls.NONE, username="")
        async with bench(tmp_path, sink.port, source("one", "127.0.0.2"), named, smart, rule) as worker:
            await worker.send("x@example.net", pool="p1")
            await worker.send("y@example.net")
            await worker.settled(2)
            assert sorted(event[3] or "" for event in worker.events()) == ["", "acme/smart"]
            worker.change(EgressRule("stop", 0, suspended=True))
            await worker.send("z@example.net", pool="p1")
            await worker.settled(3)
            assert list(worker.reasons().values()) == ["mail of this kind is suspended (rule stop)"]
        assert (len(sink.relayed), len(host.relayed)) == (1, 1)
