"""Following control's stream: snapshots, changes, recalls, silence and losses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.policy.v1 import policy_service_pb2 as pb

from mta.node import policy as module
from mta.node.policy import PolicyFollower
from mta.policy.records import ApiKey, KeyAlgorithm, Login, OAuthClient, SealedKey, SenderDomain, Suppression, Tenant
from mta.replica.reader import ReplicaReader
from mta.replica.writer import ReplicaWriter
from tests.unit.node.peers import TOKEN, Control, channel_to, served, until
from tests.unit.spool.rows import full_disk

Step = pb.WatchPolicyResponse


def tenant(name: str, *, deleted: bool = False, suspended: bool = False) -> pb.Change:
    """A change of a tenant."""
    return pb.Change(tenant=pb.TenantRecord(tenant_id=name, parent_id="operator", suspended=suspended), deleted=deleted)


def changes(revision: int, *records: pb.Change) -> Step:
    """A batch."""
    return Step(changes=pb.ChangeBatch(changes=records, revision=revision))


def snapshot(lineage: str, revision: int, *records: pb.Change) -> list[Step]:
    """A whole snapshot."""
    begin, end = pb.SnapshotBegin(lineage=lineage), pb.SnapshotEnd(revision=revision)
    return [Step(snapshot_begin=begin), *(changes(0, record) for record in records), Step(snapshot_end=end)]


class Setup:
    """A follower with its replica."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "control.sock"
        self.control = Control()
        self.writer = ReplicaWriter(folder / "policy.db")
        self.reader = ReplicaReader(folder / "policy.db")
        self.recalled: list[str] = []

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Run a node's follower."""
        async with channel_to(self.socket) as control:
            follower = PolicyFollower("node1", control, TOKEN, self.writer, self.recalled.append)
            task = asyncio.create_task(follower.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def send(self, *steps: Step | None) -> None:
        """Let control say something; None ends the stream."""
        for step in steps:
            self.control.more.put_nowait(step)

    def known(self, name: str) -> Tenant | None:
        """What a worker knows."""
        self.reader.refresh()
        return self.reader.tenant(name)

    @property
    def revision(self) -> int:
        """The revision that a worker sees."""
        self.reader.refresh()
        return self.reader.revision


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    """A follower that is not running yet."""
    made = Setup(tmp_path)
    yield made
    made.reader.close()
    made.writer.close()


async def test_a_snapshot_then_changes(setup: Setup) -> None:
    setup.control.script = lambda _: snapshot("one", 7, tenant("acme"), tenant("other"))
    async with served(setup.control, setup.socket), setup.following():
        await until(lambda: setup.revision == 7, "the snapshot is in force")
        assert setup.known("acme") == Tenant("acme", "operator", False, "")
        setup.send(changes(9, tenant("acme", suspended=True), tenant("other", deleted=True)))
        await until(lambda: setup.revision == 9, "the changes are in force")
        assert setup.known("acme") == Tenant("acme", "operator", True, "")
        assert setup.known("other") is None
        await until(lambda: setup.control.reported == [7, 9], "control knows")
    (request,) = setup.control.streams
    assert (request.node, request.after_revision, request.lineage) == ("node1", 0, "")


async def test_nothing_of_a_snapshot_counts_before_its_end(setup: Setup) -> None:
    setup.control.script = lambda _: snapshot("one", 7, tenant("acme"))[:-1]
    async with served(setup.control, setup.socket), setup.following():
        await until(lambda: setup.control.streams, "the stream is open")
        await asyncio.sleep(0.05)
        assert setup.known("acme") is None
        setup.send(None)
        setup.control.script = lambda _: snapshot("one", 8, tenant("other"))
        await until(lambda: setup.revision == 8, "another snapshot is in force")
        assert setup.known("acme") is None
        assert setup.known("other") is not None


async def test_every_kind_of_record_arrives(setup: Setup) -> None:
    keys = [
        pb.DkimKey(selector="r", algorithm=pb.DkimKey.ALGORITHM_RSA_SHA256, sealed_private_key=b"1"),
        pb.DkimKey(selector="e", algorithm=pb.DkimKey.ALGORITHM_ED25519_SHA256, sealed_private_key=b"2"),
        pb.DkimKey(selector="x", algorithm=99, sealed_private_key=b"3"),  # type: ignore[arg-type]
    ]
    records = [
        pb.Change(login=pb.LoginRecord(username="u", tenant_id="acme", password_hash="h")),
        pb.Change(api_key=pb.ApiKeyRecord(key_id="k", tenant_id="acme", secret_sha256=b"s", scopes=["mail", "read"])),
        pb.Change(domain=pb.DomainRecord(domain="acme.test", tenant_id="acme", dkim_keys=keys)),
        pb.Change(suppression=pb.SuppressionRecord(tenant_id="acme", address="x@y.test", reason="manual")),
        pb.Change(
            login=pb.LoginRecord(username="v", allowed_networks=["192.0.2.0/24"], expire_time=Timestamp(seconds=5))
        ),
        pb.Change(
            api_key=pb.ApiKeyRecord(
                key_id="l",
                allowed_networks=["192.0.2.0/24"],
                expire_time=Timestamp(seconds=5, nanos=500_000_000),
                previous_secret_sha256=b"p",
                previous_expire_time=Timestamp(seconds=6),
            )
        ),
        pb.Change(
            oauth_client=pb.OAuthClientRecord(
                client_id="c", tenant_id="acme", scopes=["mail"], token_generation=3, allowed_networks=["::/0"]
            )
        ),
        pb.Change(),  # of a later version
    ]
    async with served(setup.control, setup.socket), setup.following():
        setup.send(changes(1, *records))
        await until(lambda: setup.revision == 1, "the changes are in force")
    reader = setup.reader
    assert reader.login("u") == Login("u", "acme", "h")
    assert reader.api_key("k") == ApiKey("k", "acme", b"s", ("mail", "read"))
    assert reader.login("v") == Login("v", "", "", ("192.0.2.0/24",), 5.0)
    assert reader.api_key("l") == ApiKey("l", "", b"", (), ("192.0.2.0/24",), 5.5, b"p", 6.0)
    assert reader.oauth_client("c") == OAuthClient("c", "acme", ("mail",), 3, ("::/0",))
    sealed = (SealedKey("e", KeyAlgorithm.ED25519_SHA256, b"2"), SealedKey("r", KeyAlgorithm.RSA_SHA256, b"1"))
    assert reader.sender_domain("acme.test") == SenderDomain("acme.test", "acme", False, sealed)
    assert reader.suppressions("x@y.test", ["acme"]) == [Suppression("acme", "x@y.test", "manual")]


async def test_after_a_loss_it_goes_on_where_it_was(setup: Setup) -> None:
    setup.control.script = lambda request: [] if request.after_revision else snapshot("one", 3, tenant("acme"))
    async with served(setup.control, setup.socket), setup.following():
        await until(lambda: setup.revision == 3, "the snapshot is in force")
        setup.send(None)
        await until(lambda: len(setup.control.streams) == 2, "the stream is open again")
        setup.send(changes(4, tenant("new")))
        await until(lambda: setup.revision == 4, "the change is in force")
    request = setup.control.streams[-1]
    assert (request.after_revision, request.lineage) == (3, "one")


async def test_a_new_node_process_goes_on_where_the_last_was(setup: Setup) -> None:
    setup.control.script = lambda request: [] if request.after_revision else snapshot("one", 3, tenant("acme"))
    async with served(setup.control, setup.socket):
        async with setup.following():
            await until(lambda: setup.revision == 3, "the snapshot is in force")
        async with setup.following():
            await until(lambda: len(setup.control.streams) == 2, "the stream is open again")
    assert setup.control.streams[-1].after_revision == 3


async def test_control_may_be_away_at_first(setup: Setup) -> None:
    async with setup.following():
        await asyncio.sleep(0.1)
        async with served(setup.control, setup.socket):
            setup.send(changes(1, tenant("acme")))
            await until(lambda: setup.revision == 1, "the change is in force")


async def test_silence_is_a_loss(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 1.5)
    async with served(setup.control, setup.socket), setup.following():
        for _ in range(10):  # longer than the limit in all, and each much sooner
            await asyncio.sleep(0.2)
            setup.send(Step(progress=pb.Progress(revision=1)))
        assert len(setup.control.streams) == 1
        await until(lambda: len(setup.control.streams) >= 2, "the stream was opened again")


async def test_recalls_are_passed_on(setup: Setup) -> None:
    async with served(setup.control, setup.socket), setup.following():
        setup.send(Step(recall=pb.LeaseRecall(tenant_id="acme")), changes(1, tenant("acme")))
        await until(lambda: setup.revision == 1, "what came after it is in force")
    assert setup.recalled == ["acme"]


async def test_a_replica_that_cannot_be_written_is_tried_again(setup: Setup) -> None:
    setup.control.script = lambda request: [changes(2, tenant("new"))] if request.after_revision < 2 else []
    setup.writer.apply([(Tenant("acme", "", False, ""), False)], 1)
    with full_disk():
        async with served(setup.control, setup.socket), setup.following():
            await until(lambda: len(setup.control.streams) >= 2, "it tried again")
            assert setup.revision == 1
    async with served(setup.control, setup.socket), setup.following():
        await until(lambda: setup.revision == 2, "the change is in force")
