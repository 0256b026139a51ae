"""Workers killed with SIGKILL under load: whatever was answered 250 arrives, and the credits are exact to the unit."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.integration.scenarios import books
from tests.integration.scenarios.conftest import installation
from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.stack import Stack

MESSAGES, CONNECTIONS, KILLS = 10_000, 20, 5


async def kill_at(stack: Stack, load: Load, moments: list[int], chance: random.Random) -> None:
    """Kill a worker each time so many messages have been accepted, and start it again at once."""
    for moment in moments:
        while len(load.accepted) < moment:  # noqa: ASYNC110 (the load knows no condition to wait for)
            await asyncio.sleep(0.001)
        worker = chance.choice(stack.workers)
        worker.kill()
        await asyncio.to_thread(worker.start)


@pytest.mark.timeout(240)
async def test_nothing_accepted_is_lost_when_workers_are_killed_and_credits_are_exact(
    tmp_path: Path, fast_sink: FastSink
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    moments = sorted(chance.randrange(200, MESSAGES - 200) for _ in range(KILLS))
    print(f"seed {seed}: kills after {moments} messages")
    with installation(tmp_path / "stack", fast_sink.port) as stack:
        load = Load(stack.smtp_port, MESSAGES, CONNECTIONS)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_at(stack, load, moments, chance))
            group.create_task(load.run())
        seconds = time.monotonic() - started
        await asyncio.to_thread(books.check, stack, fast_sink, load)
    assert len(load.accepted) == MESSAGES
    answers_lost = len(load.unanswered & set(fast_sink.copies))
    print(
        f"{MESSAGES} messages accepted in {seconds:.1f} s; {load.broken} connections broke, {dict(load.refused)};"
        f" {answers_lost} were stored although their 250 was never read;"
        f" {fast_sink.duplicates} duplicates for {KILLS} kills"
    )
    # What may come twice is what had been sent and not yet recorded when its worker was killed.
    assert fast_sink.duplicates <= KILLS * 100
