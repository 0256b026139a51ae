"""PostgreSQL misbehaves, or callers do: whatever is answered is true, and the others are served."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import grpc
import pytest

from barua.control.v1.credit_service_pb2 import TransferCreditsRequest
from barua.control.v1.tenant_service_pb2 import GetTenantRequest

from control.database import MAX_ATTEMPTS, Connection, Database
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, PostgresServer, new_id, opened, running

ROOT = GetTenantRequest(name="tenants/operator")
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'barua-control'"


def transfer(source: str, destination: str, amount: int, request_id: str) -> TransferCreditsRequest:
    return TransferCreditsRequest(
        source=f"tenants/{source}", destination=f"tenants/{destination}", amount=amount, request_id=request_id
    )


@asynccontextmanager
async def terminating(url: str, every_seconds: float) -> AsyncIterator[list[int]]:
    """End all sessions of control on this server again and again; the numbers ended each time."""
    ended: list[int] = []
    connection = await asyncpg.connect(url)

    async def terminate() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            ended.append(len(await connection.fetch(TERMINATE + " AND datname = current_database()")))

    task = asyncio.create_task(terminate())
    try:
        yield ended
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


async def insistently(control: Control, request: TransferCreditsRequest) -> bool:
    """Transfer, with the same request id until it is known what happened; whether credits moved. Raises Refusal."""
    for _ in range(400):
        try:
            await control.call(control.credits.TransferCredits, request)
            return True
        except Refusal as refusal:
            if refusal.reason is Reason.INSUFFICIENT_CREDITS:
                return False
            if refusal.reason is not Reason.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("never answered")


@pytest.mark.each_postgres
async def test_transfers_stay_exact_while_all_sessions_are_ended(control: Control, database_url: str) -> None:
    await control.tenant("parent", credits=1000)
    for number in range(4):
        await control.tenant(f"child{number}", "parent")
    moved = [0, 0, 0, 0]

    async def client(number: int) -> None:
        deadline = time.monotonic() + 4
        child, amount = number % 4, 1 + number % 7
        while time.monotonic() < deadline:
            if await insistently(control, transfer("parent", f"child{child}", amount, new_id())):
                moved[child] += amount
            elif await insistently(control, transfer(f"child{child}", "parent", amount, new_id())):
                moved[child] -= amount

    async with terminating(database_url, 0.5) as ended:
        await asyncio.gather(*(client(number) for number in range(12)))
    assert sum(ended) >= 4
    balances = [(await control.balance(f"tenants/child{number}")).balance for number in range(4)]
    assert balances == moved
    assert (await control.balance("tenants/parent")).balance == 1000 - sum(moved) >= 0


async def test_a_stopped_holder_of_a_lock_holds_up_only_those_who_need_it(
    postgres_server: PostgresServer, database: Database, database_url: str, tmp_path: Path
) -> None:
    async with running(database_url, tmp_path / "home") as control:
        for name in ("locked", "free"):
            await control.tenant(name, credits=100)
            await control.tenant(f"{name}-child", name)
        holder = await asyncpg.connect(database_url)
        pid = await holder.fetchval("SELECT pg_backend_pid()")
        await holder.execute("BEGIN; SELECT FROM account WHERE tenant_id = 'locked' FOR UPDATE")
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            waiting = asyncio.create_task(
                control.refused(control.credits.TransferCredits, transfer("locked", "locked-child", 1, new_id()))
            )
            for _ in range(10):
                await control.call(control.credits.TransferCredits, transfer("free", "free-child", 1, new_id()))
            assert not waiting.done()
            assert await waiting is Reason.UNAVAILABLE
            assert 4 < time.monotonic() - started < 30  # of the sixty that the caller has
        finally:
            os.kill(pid, signal.SIGCONT)
            holder.terminate()
        await insistently(control, transfer("locked", "locked-child", 1, new_id()))


async def test_a_saturated_pool_answers_in_time(database_url: str) -> None:
    async with opened(database_url, pool_size=2, acquire_timeout_seconds=0.5) as database:
        entered, over = asyncio.Semaphore(0), asyncio.Event()

        async def hold(connection: Connection) -> None:
            await connection.execute("SELECT 1")
            entered.release()
            await over.wait()

        busy = [asyncio.create_task(database.transact(hold)) for _ in range(2)]
        for _ in busy:
            await entered.acquire()
        results = await asyncio.gather(*(database.transact(_one) for _ in range(20)), return_exceptions=True)
        assert not any(task.done() for task in busy)
        over.set()
        assert {result.reason for result in results if isinstance(result, Refusal)} == {Reason.UNAVAILABLE}
        assert len(results) == 20 and all(isinstance(result, Refusal) for result in results)
        await asyncio.gather(*busy)
        assert await database.transact(_one) == 1


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_conflict_runs_the_whole_transaction_again(database: Database, state: str) -> None:
    await database.transact(lambda c: c.execute("CREATE TABLE tally (run integer)"))
    runs = 0

    async def work(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        await connection.execute("INSERT INTO tally VALUES ($1)", runs)
        if runs < 3:
            await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{state}'; END $$")
        return runs

    assert await database.transact(work) == 3
    assert [row["run"] for row in await database.transact(lambda c: c.fetch("SELECT run FROM tally"))] == [3]


async def test_a_conflict_without_end_is_given_up(database: Database) -> None:
    runs = 0

    async def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")

    with pytest.raises(Refusal) as refused:
        await database.transact(work)
    assert (refused.value.reason, runs) == (Reason.UNAVAILABLE, MAX_ATTEMPTS)


async def test_an_error_that_is_passed_over_commits_nothing(database: Database) -> None:
    async def work(connection: Connection) -> None:
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(RuntimeError, match="passed over"):
        await database.transact(work)


async def test_one_request_id_at_the_same_time_is_one_effect(control: Control) -> None:
    await control.tenant("parent", credits=100)
    await control.tenant("child", "parent")
    for _ in range(5):
        request = transfer("parent", "child", 1, new_id())
        calls = [control.call(control.credits.TransferCredits, request) for _ in range(16)]
        answers = await asyncio.gather(*calls)
        assert all(answer == answers[0] for answer in answers)
    assert (await control.balance("tenants/child")).balance == 5


async def test_a_request_id_with_another_body_moves_nothing(control: Control) -> None:
    await control.tenant("parent", credits=100)
    await control.tenant("child", "parent")
    request = transfer("parent", "child", 1, new_id())
    await control.call(control.credits.TransferCredits, request)
    for change in ({"amount": 2}, {"note": "x"}, {"source": "tenants/child", "destination": "tenants/parent"}):
        other = TransferCreditsRequest()
        other.CopyFrom(request)
        for name, value in change.items():
            setattr(other, name, value)
        assert await control.refused(control.credits.TransferCredits, other) is Reason.REQUEST_ID_REUSED
    assert (await control.balance("tenants/child")).balance == 1


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_call_that_ends_early_has_happened_or_not(control: Control, database: Database, how: str) -> None:
    """Whenever the caller goes away, its request id tells afterwards what became of it."""
    await control.tenant("parent", credits=1000)
    await control.tenant("child", "parent")
    expected = 0
    for step in range(40):
        request = transfer("parent", "child", 1, new_id())
        patience = step * 0.0005
        timeout = patience if how == "deadline" else 10
        call = control.credits.TransferCredits(request, metadata=control.operator, timeout=timeout)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            if how == "cancel":
                await asyncio.sleep(patience)
                call.cancel()
            await call
        answer = await control.call(control.credits.TransferCredits, request)
        expected += 1
        assert answer.destination.balance == expected
    assert (await control.balance("tenants/child")).balance == expected
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    assert await database.transact(lambda connection: connection.fetchval(idle)) == 0


async def _one(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT 1"))
