"""PostgreSQL, control or the node go away under load: mail does not notice, and afterwards the books are complete."""

import asyncio
from collections.abc import Callable

import pytest

from tests.integration.mta.accounts import Account, accepted
from tests.integration.scenarios import books
from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until_async

RATE, CONNECTIONS = 50.0, 4
OUTAGE_SECONDS = 30.0


async def wait_for_more(load: Load, count: int) -> None:
    """Wait until so many more messages have been accepted."""
    wanted = len(load.accepted) + count
    await wait_until_async(lambda: len(load.accepted) >= wanted, f"{count} more messages are accepted", 60)


async def warm_up(load: Load) -> None:
    """Wait until each worker has taken mail of this load, so that it has credits."""
    stack = load.account.stack
    before = accepted(stack)

    def all_have() -> bool:
        return all(now > then for now, then in zip(accepted(stack), before, strict=True))

    await wait_until_async(all_have, "each worker has taken mail")


@pytest.mark.timeout(240)
async def test_mail_goes_on_while_postgres_is_stopped_for_half_a_minute(
    account: Account, stack: Stack, fast_sink: FastSink, measured: Callable[[str], None]
) -> None:
    assert stack.postgres is not None
    load = Load(account, CONNECTIONS, rate=RATE, per_connection=10)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await warm_up(load)
        await asyncio.to_thread(stack.postgres.stop)
        before = len(load.accepted)
        await asyncio.sleep(OUTAGE_SECONDS)  # the outage itself, not a wait for something
        during = len(load.accepted) - before
        arrived = len(books.copies(fast_sink, account))
        await asyncio.to_thread(stack.postgres.start)
        await wait_for_more(load, 50)
        load.stop()
    measured(f"{during} messages accepted in {OUTAGE_SECONDS:g} s without a database, {arrived} delivered by its end")
    await asyncio.to_thread(books.check, fast_sink, load)
    assert (load.refused, load.broken, fast_sink.duplicates) == ({}, 0, 0)
    assert during >= 0.9 * RATE * OUTAGE_SECONDS
    assert arrived >= before + during - 2 * CONNECTIONS


@pytest.mark.timeout(240)
async def test_mail_goes_on_while_control_and_node_are_killed_again_and_again(
    account: Account, stack: Stack, fast_sink: FastSink
) -> None:
    load = Load(account, CONNECTIONS, rate=RATE * 4, per_connection=10)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await warm_up(load)
        for program in (stack.control, stack.node, stack.control, stack.node, stack.node):
            await asyncio.to_thread(program.kill)
            await wait_for_more(load, 100)
            await asyncio.to_thread(program.start)
            await wait_for_more(load, 100)
        load.stop()
    await asyncio.to_thread(books.check, fast_sink, load)
    assert (load.refused, load.broken, fast_sink.duplicates) == ({}, 0, 0)


async def test_an_account_without_a_lease_is_told_to_try_again_while_control_is_away(
    account: Account, stack: Stack, fast_sink: FastSink
) -> None:
    await asyncio.to_thread(stack.control.kill)
    load = Load(account, 1, 5)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await wait_until_async(lambda: load.refused, "a message was refused", 20)
        await asyncio.to_thread(stack.control.start)
    assert set(load.refused) == {"451 4.3.0 credits cannot be checked now; try again"}
    await asyncio.to_thread(books.check, fast_sink, load)
