"""Under load, and when workers are killed: whatever was answered 250 arrives, and credits are exact to the unit."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests.integration.mta.accounts import Account, Accounts
from tests.integration.scenarios import books
from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.postgres import Postgres
from tests.support.stack import Stack
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.timeout(600)

MESSAGES, CONNECTIONS, KILLS = 10_000, 20, 5


async def kill_at(stack: Stack, load: Load, moments: list[int], chance: random.Random) -> None:
    """Kill a worker each time so many messages have been accepted, and start it again at once."""
    for moment in moments:
        while len(load.accepted) < moment:  # noqa: ASYNC110 (a kill must come at its moment, not some ms later)
            await asyncio.sleep(0.001)
        worker = chance.choice(stack.workers)
        worker.kill()
        await asyncio.to_thread(worker.start)


async def test_nothing_accepted_is_lost_when_workers_are_killed_and_credits_are_exact(
    account: Account, stack: Stack, fast_sink: FastSink, measured: Callable[[str], None]
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    moments = sorted(chance.randrange(200, MESSAGES - 200) for _ in range(KILLS))
    print(f"seed {seed}: kills after {moments} messages")
    load = Load(account, CONNECTIONS, MESSAGES)
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(kill_at(stack, load, moments, chance))
        group.create_task(load.run())
    seconds = time.monotonic() - started
    await asyncio.to_thread(books.check, fast_sink, load)
    assert len(load.accepted) == MESSAGES
    assert books.queued_rows(stack) == 0
    measured(
        f"{MESSAGES} messages accepted in {seconds:.0f} s, {KILLS} kills; {load.broken} connections broke;"
        f" {len(load.unanswered & set(fast_sink.copies))} stored although their 250 was never read;"
        f" {fast_sink.duplicates} duplicates"
    )
    # What may come twice is what had been sent and not yet recorded when its worker was killed.
    assert fast_sink.duplicates <= KILLS * stack.options.mta.delivery.connections_per_site * 2


async def test_nothing_accepted_is_lost_when_everything_is_killed_at_once(
    account: Account, stack: Stack, fast_sink: FastSink
) -> None:
    assert stack.postgres is not None
    load = Load(account, CONNECTIONS, 1500)

    def kill_and_start(database: Postgres) -> None:
        programs = (stack.control, stack.node, *stack.workers, stack.bridge)
        for program in reversed(programs):
            program.kill()
        database.crash()
        database.start()
        for program in programs:
            program.start()

    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await wait_until_async(lambda: len(load.accepted) > 500, "500 messages are accepted")
        await asyncio.to_thread(kill_and_start, stack.postgres)
    await asyncio.to_thread(books.check, fast_sink, load)
    assert len(load.accepted) == 1500


async def test_credits_are_spent_to_the_last_one_and_not_beyond(
    accounts: Accounts, stack: Stack, fast_sink: FastSink
) -> None:
    account = accounts.make(credits_=137)
    load = Load(account, CONNECTIONS, 1000)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await wait_until_async(lambda: len(load.accepted) == account.credits, "every credit is spent", 60)
        await wait_until_async(lambda: load.refused.total() > 50, "all others are refused")
        load.stop()
    assert len(load.accepted) == account.credits
    assert all(text.startswith(("452 4.7.1 ", "451 4.3.0 ")) for text in load.refused), load.refused
    await asyncio.to_thread(books.check, fast_sink, load)
    assert account.balance.balance == 0
