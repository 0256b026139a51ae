"""Sites and the agent: who gets which connection, when others are opened, and what becomes of what cannot be sent."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mta.delivery import site as module
from mta.delivery.site import Site
from mta.message.outcome import OutcomeKind, SaidBy, Stage
from mta.spool.records import Change
from tests.support.dns import DnsServer, Failure
from tests.support.ports import free_port
from tests.unit.delivery.peers import DIAL, RULES, Action, Delivery, Do, delivering, listening, peer
from tests.unit.spool.rows import event, full_disk, message, settled


def the_site(delivery: Delivery) -> Site:
    """The only site."""
    (site,) = delivery.agent._sites.values()
    return site


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something to become true."""
    try:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 (conditions of any kind have no event)
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not in time: {what}") from None


async def test_tenants_take_turns_at_a_busy_site(tmp_path: Path) -> None:
    rules = replace(RULES, connections=1)
    async with peer() as server, delivering(tmp_path, server.port, rules=rules) as delivery:
        for number in range(1, 31):
            delivery.send(number, tenant="flood")
        delivery.send(99, tenant="single")
        await delivery.outcomes(31)
        assert delivery.recorder.order.index(99) <= 2
        flood = [id_ for id_ in delivery.recorder.order if id_ != 99]
        assert flood == sorted(flood)


async def test_a_server_that_takes_two_connections_gets_everything_on_two(tmp_path: Path) -> None:
    """The refusals come before the greetings; what waits must not be put off because of them."""

    def choose(stage: str, line: str, connection: int) -> Action | None:
        return b"421 4.7.0 too many connections\r\n" if stage == "banner" and server.open_now > 2 else None

    rules = replace(RULES, connections=20)
    async with peer({}, choose) as server, delivering(tmp_path, server.port, rules=rules) as delivery:
        for number in range(1, 41):
            delivery.send(number)
        outcomes = await delivery.outcomes(40)
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DELIVERED}
        assert {taken.connection for taken in server.taken} <= set(range(1, 50))
        assert len({taken.connection for taken in server.taken}) <= 4


async def test_a_refusing_server_is_not_flooded(tmp_path: Path) -> None:
    async with peer({"banner": b"421 4.7.0 go away\r\n"}) as server, delivering(tmp_path, server.port) as delivery:
        started = time.monotonic()
        for number in range(1, 101):
            delivery.send(number)
            await asyncio.sleep(0.001)
        await delivery.outcomes(100)
        # Some at once before the first has failed, then one in each pause.
        assert server.connections < 40 + (time.monotonic() - started) / module.DIAL_PAUSE_SECONDS


async def test_a_connection_that_dies_as_it_opens_is_not_kept(tmp_path: Path) -> None:
    """The server greets, answers EHLO and closes at once: the place must not stay taken, nor the job wait for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        await reader.readline()
        writer.write(b"250 x\r\n")
        writer.close()

    async with listening(serve) as port, delivering(tmp_path, port) as delivery:
        for number in range(1, 12):
            delivery.send(number)
            await delivery.outcomes(number)
        assert delivery.recorder.count(OutcomeKind.DEFERRED) == 11
        await until(lambda: the_site(delivery).slots_used == 0, "no place is taken")
        assert delivery.agent._connections == 0


async def test_a_421_with_a_message_costs_the_next_one_nothing(tmp_path: Path) -> None:
    def choose(stage: str, line: str, connection: int) -> Action | None:
        return b"421 4.3.2 restarting\r\n" if stage == "dot" and connection == 1 else None

    rules = replace(RULES, connections=1)
    async with peer({}, choose) as server, delivering(tmp_path, server.port, rules=rules) as delivery:
        for number in range(1, 6):
            delivery.send(number)
        outcomes = await delivery.outcomes(5)
        assert [outcome.kind for outcome in outcomes] == [OutcomeKind.DEFERRED] + [OutcomeKind.DELIVERED] * 4
        assert server.connections == 2


async def test_a_server_that_says_goodbye_to_an_idle_connection_is_believed(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        await delivery.outcomes(1)
        for writer in list(server._writers):
            writer.write(b"421 4.4.2 idle too long\r\n")
        await until(lambda: the_site(delivery).connections == 0, "the connection is closed")
        delivery.send(2)
        await delivery.outcomes(2)
        assert server.connections == 2
        assert delivery.recorder.count(OutcomeKind.DELIVERED) == 2


async def test_an_unexpected_reply_on_an_idle_connection_ends_it(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        await delivery.outcomes(1)
        for writer in list(server._writers):
            writer.write(b"250 2.0.0 taken\r\n")
        await until(lambda: the_site(delivery).connections == 0, "the connection is closed")


async def test_jobs_that_wait_get_the_idle_connections_when_a_late_one_is_closed(tmp_path: Path) -> None:
    """A look for idle connections must not close one that it has just put to work."""
    rules = replace(RULES, connections=3, idle_seconds=1000.0)
    async with peer({}, lambda *_: None) as server, delivering(tmp_path, server.port, rules=rules) as delivery:
        for number in range(1, 4):
            delivery.send(number)
        await delivery.outcomes(3)
        site = the_site(delivery)
        await until(lambda: len(site._idle) == server.connections, "all are idle")
        delivery.agent._stopping = True  # paused: jobs wait beside idle connections
        for number in range(4, 7):
            delivery.send(number)
        await asyncio.sleep(0.05)
        delivery.agent._stopping = False
        connection, _ = site._idle[0]
        site._idle[0] = (connection, -10_000.0)
        before = server.connections
        await delivery.outcomes(6)
        assert delivery.recorder.count(OutcomeKind.DELIVERED) == 6
        assert server.connections <= before + 1


async def test_nothing_is_sent_while_the_spool_is_sick(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        await settled(delivery.store)
        with full_disk():
            change = Change()
            change.outbox.append(event(delivery.store.next_sequence())._replace(text="x" * 100_000))
            delivery.store.write(change)
            await until(lambda: not delivery.store.healthy, "the spool is sick")
            for number in range(1, 4):
                delivery.send(number)
            await asyncio.sleep(0.1)
            assert server.connections == 0
        await delivery.outcomes(3)
        assert len(server.taken) == 3


async def test_content_is_read_from_the_spool_when_it_is_not_at_hand(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        change = Change()
        change.messages += [message(number, content=b"Subject: %d\r\n\r\nx\r\n" % number) for number in (1, 2)]
        await settled(delivery.store, change)
        for number in (1, 2, 3):
            delivery.send(number, content=None)
        outcomes = await delivery.outcomes(3)
        assert [outcome.kind for outcome in outcomes[:2]] == [OutcomeKind.DELIVERED] * 2
        assert (outcomes[2].kind, outcomes[2].enhanced, outcomes[2].stage) == (
            OutcomeKind.DEFERRED,
            "4.3.0",
            Stage.QUEUE,
        )
        assert sorted(taken.content for taken in server.taken) == [
            b"Subject: 1\r\n\r\nx\r\n",
            b"Subject: 2\r\n\r\nx\r\n",
        ]


async def test_a_reset_while_content_is_read_is_no_attempt(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        change = Change()
        change.messages.append(message(2))
        await settled(delivery.store, change)
        delivery.send(1)
        await delivery.outcomes(1)
        site = the_site(delivery)
        delivery.send(2, content=None)
        assert site._loading == 1
        server.reset_all()
        await delivery.outcomes(2)
        assert delivery.recorder.count(OutcomeKind.DELIVERED) == 2


async def test_the_worker_has_a_limit_over_all_sites(tmp_path: Path) -> None:
    def choose(stage: str, line: str, connection: int) -> Action | None:
        return None

    async with peer({}, choose) as server, delivering(tmp_path, server.port, total=2) as delivery:
        for number in range(1, 31):
            delivery.send(number)
        await delivery.outcomes(30)
        assert server.open_most <= 2


async def test_a_site_that_nobody_uses_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mta.delivery.agent.SITE_SECONDS", 0.05)
    rules = replace(RULES, idle_seconds=0.05)
    async with peer() as server, delivering(tmp_path, server.port, rules=rules) as delivery:
        delivery.send(1)
        await delivery.outcomes(1)
        await until(lambda: not delivery.agent._sites, "the site is forgotten")
        await until(lambda: server.commands[-1] == "QUIT", "the server is told")
        assert delivery.agent._connections == 0


async def test_a_stop_finishes_what_is_under_way_and_starts_nothing(tmp_path: Path) -> None:
    rules = replace(RULES, connections=1)
    async with peer({"dot": Do.WAIT}) as server, delivering(tmp_path, server.port, rules=rules) as delivery:
        for number in (1, 2):
            delivery.send(number)
        await until(lambda: server.commands[-1:] == ["DATA"], "the first is under way")
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(delivery.agent.stop(60.0))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        server.gate.set()
        await stopping
        assert delivery.recorder.order == [1]
        assert delivery.recorder.outcomes[1][0].kind is OutcomeKind.DELIVERED


async def test_a_stop_does_not_wait_for_connections_that_are_not_there_yet(tmp_path: Path) -> None:
    async with peer({"banner": Do.HANG}) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        await until(lambda: server.connections == 1, "the server is dialled")
        await asyncio.wait_for(delivery.agent.stop(600.0), 30.0)
        assert delivery.recorder.settled == 0


async def test_a_stop_has_an_end(tmp_path: Path) -> None:
    async with peer({"dot": Do.HANG}) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        await until(lambda: "DATA" in server.commands, "the message is under way")
        await asyncio.sleep(0.05)
        await asyncio.wait_for(delivery.agent.stop(0.1), 30.0)
        assert (await delivery.outcome()).kind is OutcomeKind.DEFERRED


# -- the way there -----------------------------------------------------------------------------------------------------


async def test_a_domain_without_a_way_is_settled_at_once(tmp_path: Path, dns_server: DnsServer) -> None:
    dns_server.set("null.test", "MX", "0 .")
    dns_server.fail("broken.test", Failure.SERVFAIL)
    async with delivering(tmp_path, dns_port=dns_server.port) as delivery:
        for number, domain in enumerate(("nowhere.test", "null.test", "broken.test"), 1):
            delivery.send(number, domain=domain)
        missing, null, broken = await delivery.outcomes(3)
        assert (missing.kind, missing.enhanced) == (OutcomeKind.BOUNCED, "5.1.2")
        assert (null.kind, null.code) == (OutcomeKind.BOUNCED, 556)
        assert (broken.kind, broken.enhanced) == (OutcomeKind.DEFERRED, "4.4.3")
        assert {outcome.stage for outcome in (missing, null, broken)} == {Stage.ROUTE}


async def test_one_look_up_serves_all_that_wait_for_it(tmp_path: Path, dns_server: DnsServer) -> None:
    async with delivering(tmp_path, dns_port=dns_server.port) as delivery:
        for number in range(1, 21):
            delivery.send(number, domain="nowhere.test")
        await delivery.outcomes(20)
        assert dns_server.count("nowhere.test", "MX") == 1


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "fe80::1", "fd00::1"],
)
async def test_a_private_address_from_the_dns_is_not_dialled(
    tmp_path: Path, dns_server: DnsServer, address: str
) -> None:
    dns_server.set("mx.example.net", "A")
    dns_server.set("mx.example.net", "AAAA" if ":" in address else "A", address)
    async with peer() as server, delivering(tmp_path, dns_port=dns_server.port, mx_port=server.port) as delivery:
        delivery.send(1)
        outcome = await delivery.outcome()
        assert (outcome.kind, outcome.remote_host) == (OutcomeKind.DEFERRED, "mx.example.net")
        assert server.connections == 0
        assert address not in outcome.text


async def test_a_mapped_loopback_address_is_not_dialled(tmp_path: Path, dns_server: DnsServer) -> None:
    dns_server.set("mx.example.net", "A")
    dns_server.set("mx.example.net", "AAAA", "::ffff:127.0.0.1")
    async with peer() as server, delivering(tmp_path, dns_port=dns_server.port, mx_port=server.port) as delivery:
        delivery.send(1)
        assert (await delivery.outcome()).kind is OutcomeKind.DEFERRED
        assert server.connections == 0


async def test_private_addresses_are_dialled_when_allowed(tmp_path: Path, dns_server: DnsServer) -> None:
    dial = replace(DIAL, allow_private=True)
    async with (
        peer() as server,
        delivering(tmp_path, dns_port=dns_server.port, mx_port=server.port, dial=dial) as delivery,
    ):
        delivery.send(1)
        outcome = await delivery.outcome()
        assert (outcome.kind, outcome.remote_host) == (OutcomeKind.DELIVERED, "mx.example.net")


async def test_the_next_host_is_tried_when_the_first_does_not_answer(tmp_path: Path, dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "5 gone.example.net.", "10 dead.example.net.", "20 mx.example.net.")
    dns_server.set("dead.example.net", "A", "127.0.0.2")
    dial = replace(DIAL, allow_private=True)
    async with (
        peer() as server,
        delivering(tmp_path, dns_port=dns_server.port, mx_port=server.port, dial=dial) as delivery,
    ):
        delivery.send(1)
        outcome = await delivery.outcome()
        assert (outcome.kind, outcome.remote_host) == (OutcomeKind.DELIVERED, "mx.example.net")


async def test_nobody_there_is_for_later(tmp_path: Path) -> None:
    async with delivering(tmp_path, free_port()) as delivery:
        for number in range(1, 11):
            delivery.send(number)
        outcomes = await delivery.outcomes(10)
        assert {(outcome.kind, outcome.enhanced, outcome.said_by) for outcome in outcomes} == {
            (OutcomeKind.DEFERRED, "4.4.1", SaidBy.LOCAL)
        }
        assert "refused" in outcomes[0].text


async def test_a_name_of_ours_that_servers_cannot_be_told_is_no_silent_end(tmp_path: Path) -> None:
    """A mistake in the options must show in every outcome, not leave mail waiting."""
    dial = replace(DIAL, hostname="not a name")
    async with peer() as server, delivering(tmp_path, server.port, dial=dial) as delivery:
        delivery.send(1)
        assert (await delivery.outcome()).kind is OutcomeKind.DEFERRED
