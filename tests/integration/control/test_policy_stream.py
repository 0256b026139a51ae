"""The policy stream: snapshot, changes, resumption, recalls; in force at the other end within a second."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from barua.control.v1 import credential_pb2, credential_service_pb2, domain_service_pb2, suppression_service_pb2
from barua.policy.v1 import policy_service_pb2
from barua.policy.v1.policy_service_pb2 import Change, WatchPolicyResponse

from control.announcements import Announcements
from control.database import Connection, Database
from control.store import leases, policy_log
from mta.mailauth.sealing import open_sealed
from mta.runtime import keyring
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, new_id, running
from tests.support.waiting import in_time_async


class Replica:
    """What a node keeps of the stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = aiter(stream)
        self.lineage = ""
        self.revision = 0
        self.snapshots = 0
        self.records: dict[tuple[str, ...], Change] = {}
        self.recalls: list[str] = []

    async def step(self) -> str:
        """Apply the next step; its kind."""
        step: WatchPolicyResponse = await asyncio.wait_for(anext(self._stream), 60)
        kind = step.WhichOneof("step")
        if kind == "snapshot_begin":
            self.lineage = step.snapshot_begin.lineage
            self.records.clear()
        elif kind == "changes":
            for change in step.changes.changes:
                self._apply(change)
            self.revision = max(self.revision, step.changes.revision)
        elif kind == "snapshot_end":
            self.snapshots += 1
            self.revision = step.snapshot_end.revision
        elif kind == "recall":
            self.recalls.append(step.recall.tenant_id)
        return str(kind)

    async def until(self, revision: int) -> None:
        """Apply steps up to a revision."""
        while self.revision < revision:
            await self.step()

    def _apply(self, change: Change) -> None:
        kind = str(change.WhichOneof("record"))
        record = getattr(change, kind)
        fields = {"tenant": ("tenant_id",), "login": ("username",), "api_key": ("key_id",), "domain": ("domain",)}
        key = (kind, *(getattr(record, name) for name in fields.get(kind, ("tenant_id", "address"))))
        if change.deleted:
            self.records.pop(key, None)
        else:
            self.records[key] = change


@asynccontextmanager
async def watching(control: Control, after: int = 0, lineage: str = "") -> AsyncIterator[Replica]:
    request = policy_service_pb2.WatchPolicyRequest(node="node1", after_revision=after, lineage=lineage)
    stream = control.policy.WatchPolicy(request, metadata=control.node)
    try:
        yield Replica(stream)
    finally:
        stream.cancel()


async def head_of(database: Database) -> int:
    return (await database.transact(policy_log.head)).revision


def keys(replica: Replica, kind: str) -> set[tuple[str, ...]]:
    return {key[1:] for key in replica.records if key[0] == kind}


async def suppress(control: Control, address: str, tenant: str = "tenants/operator") -> None:
    request = suppression_service_pb2.CreateSuppressionRequest(parent=tenant, address=address)
    await control.call(control.suppressions.CreateSuppression, request)


@pytest.mark.each_postgres
async def test_a_new_node_gets_everything_in_force(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    await suppress(control, "Ann@Example.NET", tenant)
    key = credential_service_pb2.CreateApiKeyRequest(parent=tenant)
    await control.call(control.credentials.CreateApiKey, key)
    for name, trusted in (("verified.test", True), ("pending.test", False)):
        claim = domain_service_pb2.CreateDomainRequest(parent=tenant, domain=name, trusted=trusted)
        await control.call(control.domains.CreateDomain, claim)
    async with watching(control) as replica:
        await replica.until(await head_of(database))
    assert keys(replica, "tenant") == {("operator",), ("tenant",)}
    assert keys(replica, "login") == {("tenant",)}
    assert keys(replica, "suppression") == {("tenant", "ann@example.net")}
    assert keys(replica, "domain") == {("verified.test",)}
    assert len(keys(replica, "api_key")) == 1
    sealing_keys = keyring.read(control.options.path("secrets", "sealing.key")).by_id
    dkim_keys = replica.records[("domain", "verified.test")].domain.dkim_keys
    assert [key.algorithm for key in dkim_keys] == [1, 2]
    for dkim_key in dkim_keys:
        sealed = dkim_key.sealed_private_key
        assert open_sealed(sealing_keys, sealed, "tenant", "verified.test", dkim_key.selector)


async def test_changes_arrive_within_a_second_and_in_order(control: Control, database: Database) -> None:
    async with watching(control) as replica:
        await replica.until(await head_of(database))
        names = (f"tenant{number}" for number in itertools.count())

        async def seconds() -> float:
            name = next(names)
            await control.tenant(name)
            started = time.monotonic()
            await replica.until(await head_of(database))
            assert (name,) in keys(replica, "login")
            return time.monotonic() - started

        await in_time_async(seconds, 1.0)
        tenant = await control.tenant("tenant")
        request = credential_service_pb2.DeleteLoginRequest(name=f"{tenant}/logins/tenant")
        await control.call(control.credentials.DeleteLogin, request)
        await asyncio.gather(*(suppress(control, f"user{number}@x.test") for number in range(30)))
        await replica.until(await head_of(database))
        assert ("tenant",) not in keys(replica, "login")
        assert len(keys(replica, "suppression")) == 30
        name = "tenants/operator/suppressions/user1@x.test"
        gone = suppression_service_pb2.DeleteSuppressionRequest(name=name)
        await control.call(control.suppressions.DeleteSuppression, gone)
        await replica.until(await head_of(database))
        assert len(keys(replica, "suppression")) == 29


async def test_a_node_goes_on_where_it_was(control: Control, database: Database) -> None:
    async with watching(control) as before:
        await before.until(await head_of(database))
    await suppress(control, "ann@x.test")
    async with watching(control, before.revision, before.lineage) as after:
        assert await after.step() == "changes"
        assert keys(after, "suppression") == {("operator", "ann@x.test")}
        assert after.snapshots == 0


async def test_a_node_that_cannot_go_on_gets_a_snapshot(control: Control, database: Database) -> None:
    for number in range(5):
        await suppress(control, f"user{number}@x.test")
    head = await database.transact(policy_log.head)
    await database.transact(lambda connection: policy_log.trim(connection, kept=2))
    for after, lineage in [
        (0, head.lineage),
        (head.revision, new_id()),
        (head.revision + 1, head.lineage),
        (head.revision - 3, head.lineage),
    ]:
        async with watching(control, after, lineage) as replica:
            assert await replica.step() == "snapshot_begin", (after, lineage)
    async with watching(control, head.revision - 2, head.lineage) as replica:
        assert await replica.step() == "changes"


@pytest.mark.parametrize(
    "restored",
    ["UPDATE policy_head SET lineage = gen_random_uuid()", "UPDATE policy_head SET revision = revision - 1"],
)
async def test_a_stream_ends_when_the_history_is_another_one(
    control: Control, database: Database, restored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.policystream.service.PROGRESS_SECONDS", 600.0)  # the stream itself does not look
    looks = 0
    look = Announcements._look

    async def counted(self: Announcements) -> None:
        nonlocal looks
        await look(self)
        looks += 1

    monkeypatch.setattr(Announcements, "_look", counted)
    await suppress(control, "ann@x.test")
    async with watching(control) as replica:
        await replica.until(await head_of(database))
        seen = looks
        async with asyncio.timeout(60):
            while looks < seen + 2:  # noqa: ASYNC110 - the last of these began after the change
                await asyncio.sleep(0.02)
        await database.transact(lambda connection: connection.execute(restored))
        await ends(replica)
    async with watching(control, replica.revision, replica.lineage) as again:
        assert await again.step() == "snapshot_begin"


async def test_a_stream_notices_itself_that_the_history_is_another_one(
    database: Database, database_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.announcements.POLL_SECONDS", 60)
    async with running(database_url, tmp_path / "home") as control, watching(control) as replica:
        await replica.until(await head_of(database))
        await database.transact(lambda c: c.execute("UPDATE policy_head SET lineage = gen_random_uuid()"))
        await ends(replica)


async def test_a_lost_announcement_is_found_after_any_error(control: Control, database: Database) -> None:
    await database.transact(lambda connection: connection.execute("ALTER TABLE policy_head RENAME TO away"))
    await asyncio.sleep(2.5)
    await database.transact(lambda connection: connection.execute("ALTER TABLE away RENAME TO policy_head"))
    async with watching(control) as replica:
        await replica.until(await head_of(database))
        await change_silently(database)
        await asyncio.wait_for(replica.until(await head_of(database)), 60)


async def test_what_was_announced_while_nobody_listened_is_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Announcements, "_poll", lambda self: asyncio.sleep(0))
    announcements = Announcements(database, lambda: None)
    announcements.start()
    try:
        with announcements.subscription() as subscriber:
            await subscriber.changed(60)
            await change_silently(database)
            listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            await database.transact(
                lambda c: c.execute(f"{listeners} AND datname = current_database() AND pid <> pg_backend_pid()")
            )
            await subscriber.changed(60)
            assert subscriber.revision == await head_of(database)
    finally:
        await announcements.close()


async def test_a_log_that_is_cut_while_it_is_read_skips_nothing(
    control: Control, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        await suppress(control, f"user{number}@x.test")
    head = await database.transact(policy_log.head)
    read = policy_log.changes_after

    async def slowly(connection: Connection, revision: int, limit: int) -> list[policy_log.LoggedChange]:
        await database.transact(lambda other: policy_log.trim(other, kept=3))
        return await read(connection, revision, limit)

    monkeypatch.setattr(policy_log, "changes_after", slowly)
    async with watching(control, 2, head.lineage) as replica:
        try:
            await replica.until(head.revision)
        except grpc.aio.AioRpcError:
            return  # it comes again, and gets a snapshot
    assert len(keys(replica, "suppression")) == 10


async def change_silently(database: Database) -> None:
    """A change whose announcement is lost."""
    await database.transact(
        lambda c: c.execute(
            "WITH head AS (UPDATE policy_head SET revision = revision + 1 RETURNING revision)"
            " INSERT INTO policy_change (revision, kind, scope, key)"
            " SELECT revision, 'tenant', '', 'operator' FROM head"
        )
    )


async def ends(replica: Replica) -> None:
    """Wait until the stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        while True:
            await replica.step()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_signs_of_life_come_at_least_every_five_seconds(control: Control, database: Database) -> None:
    head = await database.transact(policy_log.head)
    async with watching(control, head.revision, head.lineage) as replica:
        assert await replica.step() == "progress"

        async def seconds() -> float:
            started = time.monotonic()
            assert await replica.step() == "progress"
            return time.monotonic() - started

        await in_time_async(seconds, 5.0)


async def test_recalls_reach_every_node_of_every_control(
    control: Control, database: Database, database_url: str, tmp_path: Any
) -> None:
    async with running(database_url, tmp_path / "second") as second, watching(control) as one, watching(second) as two:
        for replica in (one, two):
            while replica.snapshots == 0:
                await replica.step()
        await asyncio.sleep(0.1)  # both listen from their start on; give the slower one a moment
        await database.transact(lambda connection: leases.recall(connection, "operator"))
        for replica in (one, two):
            while not replica.recalls:
                await replica.step()
    assert one.recalls == two.recalls == ["operator"]


async def test_a_node_reports_what_it_has_in_force(control: Control, database: Database) -> None:
    for revision in (3, 5):
        request = policy_service_pb2.ReportRevisionRequest(node="node1", revision=revision)
        await control.call(control.policy.ReportRevision, request, control.node)
    reported = await database.transact(lambda connection: connection.fetchval("SELECT revision FROM node"))
    assert reported == 5
    nameless = policy_service_pb2.ReportRevisionRequest(revision=1)
    assert await control.refused(control.policy.ReportRevision, nameless, control.node) is Reason.INVALID_ARGUMENT


async def test_a_key_revoked_is_gone_from_the_stream(control: Control, database: Database) -> None:
    request = credential_service_pb2.CreateApiKeyRequest(
        parent="tenants/operator", api_key=credential_pb2.ApiKey(scopes=["mail"])
    )
    key = await control.call(control.credentials.CreateApiKey, request)
    async with watching(control) as replica:
        await replica.until(await head_of(database))
        revoke = credential_service_pb2.DeleteApiKeyRequest(name=key.name)
        await control.call(control.credentials.DeleteApiKey, revoke)
        await replica.until(await head_of(database))
        assert keys(replica, "api_key") == set()
