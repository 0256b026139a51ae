"""Large requests: one piece of work at a time, memory in the order of asking, no waiting without end."""

import asyncio
import threading
import time

import pytest

from api_bridge import bulk
from api_bridge.bulk import COST, Bulk
from api_bridge.problems import Problem


async def test_one_piece_of_work_at_a_time_beside_the_loop() -> None:
    work_room, running, most = Bulk(), 0, 0
    loop_thread = threading.get_ident()

    def work() -> int:
        nonlocal running, most
        assert threading.get_ident() != loop_thread
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        return 7

    assert await asyncio.gather(*(work_room.compute(work) for _ in range(5))) == [7] * 5
    assert most == 1


async def test_rooms_are_given_in_the_order_of_asking() -> None:
    rooms, order = Bulk(10 * COST), []

    async def use(name: str, size: int) -> None:
        async with rooms.room(size):
            order.append(name)
            await asyncio.sleep(0.02)

    await asyncio.gather(use("a", 6), use("b", 6), use("c", 4), use("larger than all", 1000), use("d", 1))
    assert order == ["a", "b", "c", "larger than all", "d"]


async def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "WAIT_SECONDS", 0.05)
    rooms = Bulk(10 * COST)
    async with rooms.room(10):
        with pytest.raises(Problem) as caught:
            async with rooms.room(1):
                pass
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) > 0
    async with rooms.room(10):
        pass


async def test_a_cancelled_wait_gives_its_place_up() -> None:
    rooms = Bulk(10 * COST)

    async def use(size: int) -> None:
        async with rooms.room(size):
            pass

    async with rooms.room(5):
        waiting = asyncio.create_task(use(10))
        behind = asyncio.create_task(use(5))
        await asyncio.sleep(0)
        assert not behind.done()
        waiting.cancel()
        await asyncio.wait_for(behind, 30)
    await asyncio.wait_for(use(10), 30)
