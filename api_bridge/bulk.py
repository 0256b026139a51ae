"""Large requests: their work is done beside the loop, one piece at a time, and within an amount of memory.

``OFF_LOOP_BYTES`` says what is large. Such a request enters ``Bulk.room`` before its body is parsed, and stays there
until it is answered: a body of any size is in memory several times over, as text, as JSON values, as a message and on
its way to the MTA. Rooms are given in the order of asking. Inside, ``Bulk.compute`` runs a function in a thread; one
thread at a time, because Python runs one at a time, and each more only takes turns away from the loop.

Errors: ``Problem`` 503 when there is no room for ``WAIT_SECONDS``. Loop rules: used on one loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from api_bridge.problems import overloaded

OFF_LOOP_BYTES = 65_536
"""Bodies above this are large: parsing and composing one takes a millisecond, up to 30 if it is made to."""
COST = 8
"""Octets in memory for each octet of a large body, at most: measured with 34 MB of text in all encodings."""
TOTAL_BYTES = 671_088_640
"""Memory of all large requests together. One that needs more than all of it gets all of it."""
WAIT_SECONDS = 15.0
"""How long a request waits for its room."""

_Result = TypeVar("_Result")


class Bulk:
    """The memory and the thread of large requests."""

    def __init__(self, limit: int = TOTAL_BYTES) -> None:
        self._limit = limit
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._thread = asyncio.Semaphore(1)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Memory for a request with a body of ``size`` octets, until the block ends. Raises Problem 503."""
        need = min(size * COST, self._limit)
        await self._take(need)
        try:
            yield
        finally:
            self._free += need
            self._admit()

    async def compute(self, work: Callable[[], _Result]) -> _Result:
        """What ``work`` returns or raises; it runs in a thread, when those before it are done."""
        async with self._thread:
            return await asyncio.to_thread(work)

    async def _take(self, need: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((need, turn))
        self._admit()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._free += need
            else:
                self._waiting.remove((need, turn))
            self._admit()
            if isinstance(error, TimeoutError):
                raise overloaded("The server is busy with other large requests; try again.", 5) from None
            raise

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            need, turn = self._waiting.popleft()
            self._free -= need
            turn.set_result(None)
