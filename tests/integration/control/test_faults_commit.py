"""A connection that breaks at COMMIT: what happened is found out and told, and happens once."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from barua.control.v1 import credential_pb2, credential_service_pb2
from barua.control.v1.credit_service_pb2 import TransferCreditsRequest

from control.database import Connection, Database
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, PostgresServer, basic, new_id, opened, running
from tests.integration.control.test_leases import Spool
from tests.support.wire import Cut, Wire

T = TypeVar("T")

SLOW_COMMIT = (
    "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;"
    " CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON ledger_transaction DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION dawdle()"
)
"""Makes COMMIT take half a second, so that it still runs on the server when its connection is gone."""


@pytest.fixture
async def behind(
    postgres_server: PostgresServer, wire: Wire, database_url: str, tmp_path: Path
) -> AsyncIterator[Control]:
    """Control behind the wire, with tenant "parent" (100 credits) and "child" below it."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    async with running(postgres_server.url_through(wire.port, name), tmp_path / "home") as control:
        await control.tenant("parent", credits=100)
        await control.tenant("child", "parent")
        yield control


def transfer(amount: int, request_id: str = "", note: str = "") -> TransferCreditsRequest:
    return TransferCreditsRequest(
        source="tenants/parent", destination="tenants/child", amount=amount, request_id=request_id, note=note
    )


def marker(identifier: str) -> bytes:
    """An id as it goes over the wire as a parameter."""
    return uuid.UUID(identifier).bytes


@pytest.mark.each_postgres
@pytest.mark.parametrize("when", Cut)
async def test_a_transfer_with_a_request_id_is_answered_as_it_ended(
    behind: Control, wire: Wire, database: Database, when: Cut
) -> None:
    if when is Cut.DURING_COMMIT:
        await database.transact(lambda connection: connection.execute(SLOW_COMMIT))
    request = transfer(30, new_id())
    wire.cut(when, request.request_id.encode())
    answer = await behind.call(behind.credits.TransferCredits, request, basic("parent"))
    assert wire.cuts == 1
    assert (answer.source.balance, answer.destination.balance) == (70, 30)
    assert answer == await behind.call(behind.credits.TransferCredits, request, basic("parent"))
    assert [(await behind.balance(f"tenants/{name}")).balance for name in ("parent", "child")] == [70, 30]


async def test_a_transfer_without_a_request_id_is_not_tried_again(behind: Control, wire: Wire) -> None:
    for when, moved in ((Cut.BEFORE_COMMIT, 0), (Cut.AFTER_COMMIT, 30)):
        wire.cut(when, b"by hand")
        request = transfer(30, note="by hand")
        assert await behind.refused(behind.credits.TransferCredits, request) is Reason.UNAVAILABLE
        assert (await behind.balance("tenants/child")).balance == moved


async def test_the_secret_of_a_key_is_not_lost_with_the_connection(behind: Control, wire: Wire) -> None:
    request = credential_service_pb2.CreateApiKeyRequest(
        parent="tenants/child", api_key=credential_pb2.ApiKey(scopes=["mail"]), request_id=new_id()
    )
    wire.cut(Cut.AFTER_COMMIT, request.request_id.encode())
    made = await behind.call(behind.credentials.CreateApiKey, request)
    assert wire.cuts == 1
    assert made.secret_key.endswith(made.last_four) and made.last_four
    again = await behind.call(behind.credentials.CreateApiKey, request)
    assert (again.name, again.secret_key) == (made.name, "")


@pytest.mark.parametrize("when", Cut)
async def test_a_lease_is_granted_once(behind: Control, wire: Wire, when: Cut) -> None:
    spool = Spool(behind)
    await spool.open()
    wish = spool.wish("child", 40)
    await behind.call(behind.credits.TransferCredits, transfer(50))
    wire.cut(when, marker(wish.request_id))
    lease = await until_answered(lambda: spool.acquire(wish))
    assert (wire.cuts, lease.amount) == (1, 40)
    balance = await behind.balance("tenants/child")
    assert (balance.available, balance.reserved) == (10, 40)


@pytest.mark.parametrize("when", Cut)
async def test_a_batch_of_the_journal_is_recorded_once(behind: Control, wire: Wire, when: Cut) -> None:
    spool = Spool(behind)
    await spool.open()
    lease = await spool.acquire(spool.wish("parent", 40))
    events = [spool.received(lease, number) for number in range(1, 11)]
    wire.cut(when, marker(spool.holder))
    assert await until_answered(lambda: spool.tell(*events)) == 10
    assert wire.cuts == 1
    balance = await behind.balance("tenants/parent")
    assert (balance.available, balance.reserved, balance.consumed) == (60, 30, 10)


async def test_a_repeatable_transaction_runs_until_it_is_known(
    postgres_server: PostgresServer, wire: Wire, database_url: str
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    runs = 0

    async def work(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            wire.cut(Cut.AFTER_COMMIT, b"first run")
        await connection.execute("SELECT $1::text", "first run")
        return runs

    async with opened(postgres_server.url_through(wire.port, name)) as database:
        assert await database.transact(work, repeatable=True) == 2
        runs = 0
        with pytest.raises(Refusal) as refused:
            await database.transact(work)
        assert (refused.value.reason, runs) == (Reason.UNAVAILABLE, 1)


async def until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """What a node does: the same request again until there is an answer."""
    while True:
        try:
            return await call()
        except Refusal as refusal:
            assert refusal.reason is Reason.UNAVAILABLE
