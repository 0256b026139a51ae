"""Ways out on real connections: smart hosts with TLS and a login, sources by their addresses, limits, rules."""

import time
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mta.custody.bounce import BounceMaker
from mta.custody.quotas import GrantedQuota, Quotas
from mta.custody.settlement import Settlement
from mta.delivery import dial
from mta.delivery.agent import DeliveryAgent
from mta.delivery.dial import Dialer, DialRules
from mta.delivery.site import SiteRules
from mta.delivery.ways import Ways
from mta.message.ids import IdMaker
from mta.policy.egress import (
    EgressRule,
    Pool,
    PoolAssignment,
    ProviderTls,
    SmtpProvider,
    Source,
    SourceState,
)
from mta.policy.records import Tenant
from mta.queues.jobs import jobs_of
from mta.queues.retry import RetrySchedule
from mta.replica.reader import ReplicaReader
from mta.replica.writer import Record, ReplicaWriter
from mta.resolver.dns import DnsResolver
from mta.routing.router import Router, StaticRoute, TlsPolicy
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import Change, MessageRow, QueuedRecipient, RecipientRow
from mta.spool.schema import open_file
from mta.spool.sqlite import SqliteStore
from tests.support.certs import Authority
from tests.support.smarthost import SmartHost
from tests.support.waiting import wait_until_async
from tests.unit.spool.rows import Waiter

CONTENT = b"From: a@acme.test\r\nSubject: x\r\n\r\nA line.\r\n"
SCHEDULE = RetrySchedule(60_000, 2.0, 600_000, 0.0, 3_600_000, 3)
TREE: list[Record] = [
    Tenant("operator", "", False, ""),
    Tenant("reseller", "operator", False, ""),
    Tenant("acme", "reseller", False, ""),
]


@dataclass
class Control:
    """Control, as far as quotas go: grants what is left of each subject, exactly what is asked for."""

    left: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    away: bool = False

    async def acquire(self, subject: str, count: int) -> GrantedQuota:
        """A part of what is left."""
        self.calls.append((subject, count))
        if self.away:
            raise Refusal(Reason.UNAVAILABLE, "away")
        if self.left.get(subject, 0) < count:
            left = {"left": str(self.left.get(subject, 0))}
            why = f"the daily limit of {subject} is used up"
            raise Refusal(Reason.RATE_LIMITED, why, retry_after=3600.0, metadata=left)
        self.left[subject] -= count
        return GrantedQuota(count, 60.0)


@dataclass
class Bench:
    """A worker's delivery on a real spool and a real replica."""

    store: SqliteStore
    writer: ReplicaWriter
    policy: ReplicaReader
    agent: DeliveryAgent
    ways: Ways
    control: Control
    released: list[int]
    numbers: Iterator[int]

    def change(self, *records: Record, deleted: bool = False) -> None:
        """Put records in force."""
        _, revision = self.writer.position()
        self.writer.apply([(record, deleted) for record in records], revision + 1)
        assert self.policy.refresh()
        self.agent.policy_changed()

    async def send(
        self, *addresses: str, provider: str = "", stream: str = "", sender: str = "a@acme.test", pool: str = ""
    ) -> int:
        """Store a message as intake does and hand it over; its id."""
        first = next(self.numbers)
        for _ in addresses[1:]:
            next(self.numbers)
        last = first + len(addresses) - 1
        waiter = Waiter()
        change = Change(waiter)
        now_ms = int(time.time() * 1000)
        change.messages.append(
            MessageRow(first, last, "acme", sender, now_ms, len(CONTENT), 0, CONTENT, stream, provider, pool=pool)
        )
        queued = []
        for number, address in enumerate(addresses, first):
            domain = address.rpartition("@")[2]
            change.recipients.append(RecipientRow(number, first, "acme", address, domain, 0, 0, 0, "received"))
            queued.append(
                QueuedRecipient(
                    number,
                    first,
                    last,
                    "acme",
                    sender,
                    address,
                    domain,
                    0,
                    0,
                    now_ms,
                    len(CONTENT),
                    0,
                    stream,
                    provider,
                    pool=pool,
                )
            )
        self.store.write(change)
        await waiter.receipt()
        for job in jobs_of(queued, CONTENT):
            self.agent.submit(job)
        return first

    async def settled(self, count: int) -> None:
        """Wait until so many recipients are released: delivered, deferred or postponed."""
        await wait_until_async(lambda: len(self.released) >= count, f"{count} are settled")

    def events(self) -> list[tuple[int, int, str | None, str | None, str | None]]:
        """(recipient id, kind, text, provider, source) of the outbox."""
        rows = self.store._writer.execute(
            "SELECT recipient_id, kind, text, provider, egress_source FROM outbox ORDER BY sequence"
        )
        return [tuple(row) for row in rows]

    def reasons(self) -> dict[int, str]:
        """Why recipients wait."""
        return dict(self.store._writer.execute("SELECT recipient_id, reason FROM recipient WHERE parked = 1"))


@asynccontextmanager
async def bench(
    folder: Path, port: int, *records: Record, password: str = "secret", connections: int = 4
) -> AsyncIterator[Bench]:
    """Delivery whose mail goes to a port on loopback, unless a way out says otherwise."""
    writer = ReplicaWriter(folder / "policy.db")
    writer.replace([*TREE, *records], "lineage", 1)
    policy = ReplicaReader(folder / "policy.db")
    store = SqliteStore(open_file(folder / "worker-0.db"))
    resolver = DnsResolver([("127.0.0.1", 9)], 0.5, 100, 60)
    router = Router([StaticRoute("*", "127.0.0.1", port, TlsPolicy.NEVER)], resolver, 25)
    dialer = Dialer(DialRules("mta.test", 5.0, 5.0, 5.0, False), resolver)
    control = Control()
    quotas = Quotas(control.acquire)
    rules = SiteRules(connections, 1000, 5.0)
    chooser = Ways(policy, policy.egress, quotas, lambda _: password, rules, 1, allow_private=True)
    agent = DeliveryAgent(rules, 50, router, dialer, store, chooser, quotas)
    released: list[int] = []
    settlement = Settlement(store, SCHEDULE, BounceMaker(store, IdMaker(0), "mta.test"), released.append)
    agent.start(settlement)
    try:
        yield Bench(store, writer, policy, agent, chooser, control, released, iter(range(1, 10_000)))
    finally:
        await agent.stop(1.0)
        await quotas.close()
        await settlement.close()
        await store.close()
        policy.close()
        writer.close()


def provider(
    port: int, tls: ProviderTls, provider_id: str = "smart", host: str = "127.0.0.1", **changes: Any
) -> SmtpProvider:
    """A provider of acme on this machine."""
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "provider_id": provider_id,
        "host": host,
        "port": port,
        "tls": tls,
        "username": "acme",
        "sealed_password": b"sealed",
        "limited": False,
        "waits": False,
        "shared": False,
        "is_default": False,
        "allow_private": True,
        "allow_invalid_certificate": False,
    }
    return SmtpProvider(**(values | changes))


def source(source_id: str, address: str, **changes: Any) -> Source:
    """A source."""
    values: dict[str, Any] = {
        "address": address,
        "ehlo_name": f"{source_id}.barua.test",
        "state": SourceState.ACTIVE,
        "limited": False,
    }
    return Source(source_id, **(values | changes))


def _files(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.iterdir())


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority, trusted as the system's are."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    return authority


# -- providers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "mechanisms"),
    [
        (ProviderTls.REQUIRED, ("PLAIN", "LOGIN")),
        (ProviderTls.REQUIRED, ("LOGIN",)),
        (ProviderTls.IMPLICIT, ("PLAIN",)),
        (ProviderTls.IF_OFFERED, ("PLAIN",)),
    ],
)
async def test_mail_goes_through_a_smart_host_over_verified_tls(
    tmp_path: Path, trusted: Authority, tls: ProviderTls, mechanisms: tuple[str, ...]
) -> None:
    context = trusted.issue("localhost", "127.0.0.1").server_context()
    implicit = tls is ProviderTls.IMPLICIT
    with SmartHost({"acme": "secret"}, tls=context, implicit=implicit, mechanisms=mechanisms) as host:
        async with bench(tmp_path, 9, provider(host.port, tls)) as worker:
            await worker.send("x@example.net", "y@example.net", provider="acme/smart")
            await worker.settled(2)
            assert worker.events()[-1][1:] == (2, "taken", "acme/smart", None)
        (taken,) = host.relayed
    assert (taken.username, taken.tls, taken.recipients) == ("acme", True, ("x@example.net", "y@example.net"))
    assert taken.helo == "mta.test"


async def test_a_provider_without_tls_and_one_without_a_login(tmp_path: Path) -> None:
    with SmartHost({"acme": "secret"}) as clear, SmartHost() as open_host:
        open_ = provider(open_host.port, ProviderTls.NONE, "open", username="", sealed_password=b"")
        async with bench(tmp_path, 9, provider(clear.port, ProviderTls.NONE), open_) as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.send("y@example.net", provider="acme/open")
            await worker.settled(2)
        assert [taken.username for taken in (*clear.relayed, *open_host.relayed)] == ["acme", ""]


async def test_a_wrong_password_defers_in_the_servers_words_and_is_not_repeated_at_once(
    tmp_path: Path, trusted: Authority, logs: list[MutableMapping[str, Any]]
) -> None:
    context = trusted.issue("localhost", "127.0.0.1").server_context()
    with SmartHost({"acme": "another"}, tls=context) as host:
        async with bench(tmp_path, 9, provider(host.port, ProviderTls.REQUIRED), password="wr0ng-s3cret") as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.settled(1)
            ((_, kind, text, via, _),) = worker.events()
            assert (kind, via) == (3, "acme/smart")
            assert text is not None
            assert "refused the username or password" in text
            assert "535" in worker.reasons()[1]
            await worker.send("y@example.net", provider="acme/smart")
            assert len(host.logins) == 1
            # Set right, it is another site: nobody has to wait.
            host.accounts["acme"] = "wr0ng-s3cret"
            worker.change(provider(host.port, ProviderTls.REQUIRED, sealed_password=b"other"))
            await worker.settled(2)
            assert [taken.recipients for taken in host.relayed] == [("y@example.net",)]
    assert "wr0ng-s3cret" not in repr(logs) + _files(tmp_path)


async def test_a_server_that_wants_a_login_after_all_has_not_judged_the_message(tmp_path: Path) -> None:
    with SmartHost({"acme": "secret"}) as host:
        one = provider(host.port, ProviderTls.NONE, username="", sealed_password=b"")
        async with bench(tmp_path, 9, one) as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.settled(1)
            ((_, kind, text, _, _),) = worker.events()
            assert (kind, text) == (3, "Authentication required")


async def test_a_certificate_that_is_not_valid_is_refused_unless_the_operator_allows_it(
    tmp_path: Path, authority: Authority
) -> None:
    context = authority.issue("localhost", "127.0.0.1").server_context()
    with SmartHost({"acme": "secret"}, tls=context) as host:
        async with bench(tmp_path, 9, provider(host.port, ProviderTls.REQUIRED)) as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.settled(1)
            assert "certificate is not accepted" in worker.reasons()[1]
            assert host.logins == []
            worker.change(provider(host.port, ProviderTls.REQUIRED, allow_invalid_certificate=True))
            await worker.send("y@example.net", provider="acme/smart")
            await worker.settled(2)
        assert len(host.relayed) == 1


async def test_the_certificate_must_be_for_the_host(tmp_path: Path, trusted: Authority) -> None:
    context = trusted.issue("other.test").server_context()
    with SmartHost({"acme": "secret"}, tls=context) as host:
        async with bench(tmp_path, 9, provider(host.port, ProviderTls.REQUIRED)) as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.settled(1)
            assert "certificate is not accepted" in worker.reasons()[1]
        assert host.logins == []


@pytest.mark.parametrize("tls", [ProviderTls.REQUIRED, ProviderTls.IF_OFFERED])
async def test_a_password_never_goes_out_in_clear_text_because_tls_is_not_offered(
    tmp_path: Path, tls: ProviderTls
) -> None:
    with SmartHost({"acme": "secret"}) as host:
        async with bench(tmp_path, 9, provider(host.port, tls)) as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.settled(1)
            assert "STARTTLS" in worker.reasons()[1]
        assert host.logins == []


async def test_mail_of_a_deleted_provider_waits_for_one_of_its_id(tmp_path: Path) -> None:
    with SmartHost() as host:
        async with bench(tmp_path, 9) as worker:
            await worker.send("x@example.net", provider="acme/smart")
            await worker.settled(1)
            assert "was deleted" in worker.reasons()[1]
            assert worker.events() == []
        assert host.relayed == []


async def test_what_is_over_the_limit_of_a_provider_that_waits_is_postponed(tmp_path: Path) -> None:
    with SmartHost() as host:
        one = provider(host.port, ProviderTls.NONE, username="", sealed_password=b"", limited=True, waits=True)
        async with bench(tmp_path, 9, one) as worker:
            worker.control.left["tenants/acme/smtpProviders/smart"] = 2
            for name in "abc":
                await worker.send(f"{name}@example.net", provider="acme/smart")
            await worker.settled(3)
            assert len(host.wait(2)) == 2
            (reason,) = worker.reasons().values()
            assert "limit" in reason
            (due,) = worker.store._writer.execute("SELECT due_ms FROM recipient").fetchone()
            assert due / 1000 - time.time() > 600


async def test_the_built_in_provider_may_have_a_limit_that_waits_too(tmp_path: Path) -> None:
    with SmartHost() as sink:
        one = provider(0, ProviderTls.NONE, "builtin", "", username="", sealed_password=b"", limited=True, waits=True)
        async with bench(tmp_path, sink.port, one) as worker:
            worker.control.left["tenants/acme/smtpProviders/builtin"] = 1
            for name in "ab":
                await worker.send(f"{name}@example.net", provider="acme/builtin")
            await worker.settled(2)
            assert len(sink.wait(1)) == 1
            assert len(worker.reasons()) == 1
            assert worker.events()[0][3] is None


async def test_what_was_counted_and_not_delivered_goes_back_to_the_limit(tmp_path: Path) -> None:
    with SmartHost() as host:
        one = provider(host.port, ProviderTls.REQUIRED, username="", sealed_password=b"", limited=True, waits=True)
        async with bench(tmp_path, 9, one) as worker:
            worker.control.left["tenants/acme/smtpProviders/smart"] = 1
            await worker.send("a@example.net", provider="acme/smart")
            await worker.settled(1)  # deferred: there is no TLS
            worker.change(provider(host.port, ProviderTls.NONE, username="", limited=True, waits=True))
            await worker.send("b@example.net", provider="acme/smart")
            await worker.settled(2)
            assert len(host.relayed) == 1


# -- sources, pools, rules ---------------------------------------------------------------------------------------------

POOL = Pool("main", (("one", 1), ("two", 1)))
SOURCES = (source("one", "127.0.0.2"), source("two", "127.0.0.3"))


async def test_connections_come_from_the_sources_of_the_pool_under_their_names(tmp_path: Path) -> None:
    with SmartHost(host="127.0.0.1") as sink:
        async with bench(tmp_path, sink.port, *SOURCES, POOL, PoolAssignment("reseller", "main")) as worker:
            for number in range(40):
                await worker.send(f"r{number}@example.net")
            await worker.settled(40)
            sources = {event[4] for event in worker.events()}
        seen = {(taken.peer, taken.helo) for taken in sink.relayed}
    assert seen == {("127.0.0.2", "one.barua.test"), ("127.0.0.3", "two.barua.test")}
    assert sources == {"one", "two"}


async def test_a_source_that_is_not_on_this_machine_is_left_out(
    tmp_path: Path, logs: list[MutableMapping[str, Any]]
) -> None:
    away = source("two", "192.0.2.77")
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, SOURCES[0], away, POOL, PoolAssignment("acme", "main")) as worker:
            for number in range(20):
                await worker.send(f"r{number}@example.net")
            await worker.settled(20)
            assert {taken.peer for taken in sink.relayed} == {"127.0.0.2"}
            assert len(sink.relayed) == 20
            assert [line["source"] for line in logs if line["event"] == "source_unusable"] == ["two"]
            # The last usable one goes too: then mail waits, rather than going out from an address nobody chose.
            worker.change(source("one", "127.0.0.2", state=SourceState.DISABLED))
            id_ = await worker.send("last@example.net")
            await worker.settled(21)
            assert "not on this machine" in worker.reasons()[id_]
            assert "disabled" in worker.reasons()[id_]
        assert len(sink.relayed) == 20


async def test_a_source_of_the_other_family_is_left_out_for_the_site(tmp_path: Path) -> None:
    six = source("two", "::1")
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, SOURCES[0], six, POOL, PoolAssignment("acme", "main")) as worker:
            for number in range(12):
                await worker.send(f"r{number}@example.net")
            await worker.settled(12)
            assert len(sink.relayed) == 12
            assert {taken.peer for taken in sink.relayed} == {"127.0.0.2"}


async def test_what_is_over_a_sources_daily_limit_goes_out_from_the_others(tmp_path: Path) -> None:
    warming = source("one", "127.0.0.2", limited=True)
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, warming, SOURCES[1], POOL, PoolAssignment("acme", "main")) as worker:
            worker.control.left["sources/one"] = 3
            for number in range(30):
                await worker.send(f"r{number}@example.net")
            await worker.settled(30)
        peers = [taken.peer for taken in sink.relayed]
    assert (len(peers), peers.count("127.0.0.2")) == (30, 3)


async def test_without_control_a_limited_source_is_not_used(tmp_path: Path) -> None:
    warming = source("one", "127.0.0.2", limited=True)
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, warming, SOURCES[1], POOL, PoolAssignment("acme", "main")) as worker:
            worker.control.away = True
            for number in range(10):
                await worker.send(f"r{number}@example.net")
            await worker.settled(10)
        assert {taken.peer for taken in sink.relayed} == {"127.0.0.3"}


async def test_rules_suspend_and_route_by_stream_and_domain(tmp_path: Path) -> None:
    with SmartHost() as sink, SmartHost() as other:
        via = provider(other.port, ProviderTls.NONE, "relay", username="", sealed_password=b"")
        rules = (
            EgressRule("stop", 1, stream="news", recipient_domain=".example.net", suspended=True),
            EgressRule("relay", 2, recipient_domain="far.test", provider=("acme", "relay")),
        )
        async with bench(tmp_path, sink.port, via, *rules) as worker:
            held = await worker.send("x@mx.example.net", stream="news")
            await worker.send("y@mx.example.net", stream="receipts")
            await worker.send("z@far.test", stream="news")
            await worker.settled(3)
            assert "suspended (rule stop)" in worker.reasons()[held]
            assert worker.events()[-1][3] in ("acme/relay", None)
        assert [taken.recipients for taken in sink.relayed] == [("y@mx.example.net",)]
        assert [taken.recipients for taken in other.relayed] == [("z@far.test",)]


async def test_a_rule_limits_connections_and_rate(tmp_path: Path) -> None:
    with SmartHost() as sink:
        rule = EgressRule("slow", 1, connections=1, messages_per_minute=600)
        async with bench(tmp_path, sink.port, rule) as worker:
            started = time.monotonic()
            for number in range(6):
                await worker.send(f"r{number}@example.net")
            await worker.settled(6)
            assert time.monotonic() - started >= 0.45
        assert len(sink.relayed) == 6


async def test_what_waits_in_memory_is_filed_anew_when_a_rule_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "AUTH_PAUSE_SECONDS", 30.0)
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, EgressRule("crawl", 1, messages_per_minute=1)) as worker:
            for number in range(5):
                await worker.send(f"r{number}@example.net")
            await wait_until_async(lambda: len(sink.relayed) == 1, "the first is out")
            worker.change(EgressRule("crawl", 1, messages_per_minute=1), deleted=True)
            await worker.settled(5)
        assert len(sink.relayed) == 5


async def test_a_draining_source_gets_nothing_new(tmp_path: Path) -> None:
    with SmartHost() as sink:
        draining = source("one", "127.0.0.2", state=SourceState.DRAINING)
        async with bench(tmp_path, sink.port, draining, SOURCES[1], POOL, PoolAssignment("acme", "main")) as worker:
            for number in range(8):
                await worker.send(f"r{number}@example.net")
            await worker.settled(8)
        assert {taken.peer for taken in sink.relayed} == {"127.0.0.3"}


async def test_mail_too_old_to_wait_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SmartHost() as sink:
        async with bench(tmp_path, sink.port, EgressRule("stop", 1, suspended=True)) as worker:
            monkeypatch.setattr(time, "time_ns", lambda: int((time.time() + 7200) * 1e9))
            await worker.send("x@example.net")
            await worker.settled(1)
            assert worker.events()[0][1] in (3, 5)
        assert sink.relayed == []
