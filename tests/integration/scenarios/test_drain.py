"""Orderly ends: SIGTERM under load loses nothing, answers what is owed, ends in time; the next start goes on."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.integration.mta.accounts import Account, accepted
from tests.integration.mta.wire import Closed, Wire
from tests.integration.scenarios import books
from tests.integration.scenarios.conftest import installation
from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.ports import free_port
from tests.support.smtpsink import SmtpSink
from tests.support.stack import ACCOUNT, Stack, mail
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.timeout(600)

STOP_SECONDS = 60.0


def ready_to_send(account: Account) -> Wire:
    """A connection that has said all but the content."""
    wire = Wire(account.stack.smtp_port)
    assert wire.ask("EHLO client.test").code == 250
    assert wire.log_in(account.login).code == 235
    wire.begin(account.sender, ["r@example.net"])
    return wire


def send(account: Account, number: int) -> str:
    """Send one message over a connection of its own; its token."""
    token = f"{account.tenant}.{number}"
    with ready_to_send(account) as wire:
        wire.send(f"X-Token: {token}\r\n\r\nText\r\n.\r\n".encode())
        assert (answer := wire.reply()).code == 250, answer
    return token


async def wait_for(load: Load, count: int) -> None:
    """Wait until so many messages have been accepted."""
    await wait_until_async(lambda: len(load.accepted) >= count, f"{count} messages are accepted", 60)


async def test_workers_that_are_stopped_under_load_lose_nothing_and_go_on_where_they_were(
    account: Account, stack: Stack, fast_sink: FastSink
) -> None:
    load = Load(account, 10, 3000)

    async def restart() -> None:
        for worker, moment in zip(stack.workers * 2, (400, 1000, 1600, 2200), strict=True):
            await wait_for(load, moment)
            assert await asyncio.to_thread(worker.stop, STOP_SECONDS) == 0
            await asyncio.to_thread(worker.start)

    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        group.create_task(restart())
    await asyncio.to_thread(books.check, fast_sink, load)
    assert len(load.accepted) == 3000
    assert fast_sink.duplicates == 0, "an orderly end delivers nothing twice"
    assert all(text.startswith("421 4.3.2 ") for text in load.refused), load.refused


def test_a_message_that_waits_for_its_answer_gets_one_and_an_unfinished_one_is_cut_short(
    account: Account, stack: Stack, fast_sink: FastSink
) -> None:
    stack.control.signal(signal.SIGSTOP)  # no credits can be had, so the answer takes its time
    try:
        with (
            ready_to_send(account) as waiting,
            ready_to_send(account) as unfinished,
            Wire(stack.smtp_port) as idle,
        ):
            unfinished.send(f"X-Token: {account.tenant}.unfinished\r\n\r\nHalf a mess".encode())
            waiting.send(f"X-Token: {account.tenant}.waiting\r\n\r\nText\r\n.\r\n".encode())
            idle.ask("EHLO idle.test")
            for worker in stack.workers:
                worker.signal(signal.SIGTERM)
            assert [answer.code for answer in unfinished.rest()] == [421]
            assert [answer.code for answer in idle.rest()] == [421]
            assert waiting.rest()[0].code in (421, 451)
        for worker in stack.workers:
            assert worker.stop(STOP_SECONDS) == 0
        with pytest.raises((ConnectionError, Closed)):
            Wire(stack.smtp_port)
    finally:
        stack.control.signal(signal.SIGCONT)
    for worker in stack.workers:
        worker.start()
    books.check_account(fast_sink, account, accepted=set(), unanswered=set())


def test_what_is_queued_when_everything_stops_is_delivered_after_the_next_start(
    account: Account, stack: Stack, fast_sink: FastSink
) -> None:
    fast_sink.stop()
    tokens = {send(account, number) for number in range(50)}
    programs = (stack.bridge, *stack.workers, stack.node, stack.control)
    for program in programs:
        assert program.stop(STOP_SECONDS) == 0
    assert books.queued_rows(stack) == 2 * len(tokens)
    fast_sink.start()
    for program in reversed(programs):
        program.start()
    books.check_account(fast_sink, account, accepted=tokens, unanswered=set())
    assert books.copies(fast_sink, account) == dict.fromkeys(tokens, 1)


def test_two_workers_share_the_port_and_one_is_enough(account: Account, stack: Stack, fast_sink: FastSink) -> None:
    before = accepted(stack)
    tokens = {send(account, number) for number in range(40)}
    taken = [now - then for now, then in zip(accepted(stack), before, strict=True)]
    assert sum(taken) == 40 and min(taken) >= 5, taken
    stack.workers[0].stop(STOP_SECONDS)
    tokens |= {send(account, number) for number in range(40, 50)}
    stack.workers[0].start()
    books.check_account(fast_sink, account, accepted=tokens, unanswered=set())


def test_a_delivery_under_way_is_finished_and_not_repeated(tmp_path: Path) -> None:
    port = free_port()
    with SmtpSink("-W", ".:2", port=port) as slow, installation(tmp_path / "stack", port, workers=1) as stack:
        worker = stack.workers[0]
        with stack.smtp() as client:
            client.send_message(mail("r@example.net"))
        slow.wait(1)  # it has the message; its reply comes two seconds after the final dot
        started = time.monotonic()
        assert worker.stop(STOP_SECONDS) == 0
        assert time.monotonic() - started > 0.5
        assert books.queued_rows(stack) == 0
        worker.start()
        stack.wait_for_history(ACCOUNT, 1)
        assert slow.count == 1
