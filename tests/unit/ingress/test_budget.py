"""Content that is still coming in has a budget over all connections."""

import asyncio

from mta.ingress.budget import ReceiveBudget
from tests.unit.ingress.service import Service


def test_what_is_given_back_may_be_taken_again() -> None:
    budget = ReceiveBudget(10)
    assert budget.take(10)
    assert not budget.take(1)
    budget.give_back(11)
    assert budget.take(10)


async def test_a_message_without_room_ends_its_connection_and_no_other(service: Service) -> None:
    service.listener.budget._limit = 200_000
    greedy, modest = await service.greeted(), await service.greeted()
    for client in (greedy, modest):
        client.send(b"MAIL FROM:<a@acme.test>\r\nRCPT TO:<x@example.net>\r\nDATA\r\n")
        for _ in range(3):
            await client.reply()
    greedy.send(b"From: a@acme.test\r\n\r\n" + b"x" * 70 * 4000)
    assert (await greedy.reply()).startswith("421 4.3.1")
    assert await greedy.ended()
    await asyncio.sleep(0)
    modest.send(b"From: a@acme.test\r\n\r\nhello\r\n.\r\n")
    assert (await modest.reply()).startswith("250")
    assert service.listener.budget._held == 0
