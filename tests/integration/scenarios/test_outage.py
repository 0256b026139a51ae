"""PostgreSQL, control or the node go away under load: mail does not notice, and afterwards the books are complete."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.integration.mta.accounts import Account, accepted
from tests.integration.scenarios import books
from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.timeout(600)

RATE, CONNECTIONS = 50.0, 4
OUTAGE_SECONDS = 20.0
LONGEST_GAP_SECONDS = 10.0
"""Between two accepted messages. On a quiet machine it is some 30 ms; what waits for control waits until it is back."""


async def wait_for_more(load: Load, count: int) -> None:
    """Wait until so many more messages have been accepted."""
    wanted = len(load.accepted) + count
    await wait_until_async(lambda: len(load.accepted) >= wanted, f"{count} more messages are accepted", 60)


async def longest_gap(load: Load, seconds: float) -> float:
    """The longest time without an accepted message, over the time given."""
    started = last = time.monotonic()
    count, longest = len(load.accepted), 0.0
    while (now := time.monotonic()) < started + seconds:
        if len(load.accepted) > count:
            count, last = len(load.accepted), now
        longest = max(longest, now - last)
        await asyncio.sleep(0.01)
    return longest


async def warm_up(load: Load) -> None:
    """Wait until each worker has taken mail of this load, so that it has credits."""
    stack = load.account.stack
    before = accepted(stack)

    def all_have() -> bool:
        return all(now > then for now, then in zip(accepted(stack), before, strict=True))

    await wait_until_async(all_have, "each worker has taken mail")


async def test_mail_goes_on_while_postgres_is_stopped(
    account: Account, stack: Stack, fast_sink: FastSink, measured: Callable[[str], None]
) -> None:
    """Nothing is refused or broken, mail is taken all the time, and what was taken is delivered before it is back."""
    assert stack.postgres is not None
    load = Load(account, CONNECTIONS, rate=RATE, per_connection=10)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await warm_up(load)
        await asyncio.to_thread(stack.postgres.stop)
        before = len(load.accepted)
        gap = await longest_gap(load, OUTAGE_SECONDS)
        taken = load.accepted.copy()
        await wait_until_async(lambda: taken <= set(books.copies(fast_sink, account)), "what was taken is delivered")
        assert not stack.postgres.is_running
        await asyncio.to_thread(stack.postgres.start)
        await wait_for_more(load, 50)
        load.stop()
    during = len(taken) - before
    measured(f"{during} messages in {OUTAGE_SECONDS:g} s without a database, the longest gap between two {gap:.2f} s")
    await asyncio.to_thread(books.check, fast_sink, load)
    assert (load.refused, load.broken, fast_sink.duplicates) == ({}, 0, 0)
    assert gap < LONGEST_GAP_SECONDS


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
        await wait_until_async(lambda: load.refused, "a message was refused")
        await asyncio.to_thread(stack.control.start)
    assert set(load.refused) == {"451 4.3.0 credits cannot be checked now; try again"}
    await asyncio.to_thread(books.check, fast_sink, load)
