"""Credits against the books of control: whatever is sent, lost, recalled, refused or restarted, they balance."""

import asyncio
import shutil
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mta.custody import credits as module
from mta.custody.submission import Accepted
from mta.runtime.refusals import Reason, Refusal
from mta.spool import sqlite
from tests.unit.custody.parts import MESSAGE, Bank, Parts, open_parts
from tests.unit.spool.rows import full_disk, rows, settled

MEMORY = Path("/dev/shm")
TOTAL = 60
AWAY = Refusal(Reason.UNAVAILABLE, "away")


class Books(RuleBasedStateMachine):
    """A worker's way in on a real spool, and control's ledger of its leases."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.loop = asyncio.new_event_loop()
        self.patches: list[Any] = [
            mock.patch.object(sqlite, "PROBE_SECONDS", 0.002),
            mock.patch.object(module, "FIRST_AMOUNT", 8),
            mock.patch.object(module, "WAIT_SECONDS", 0.05),
            mock.patch.object(module, "REFUSED_SECONDS", 0.0),
        ]
        for patch in self.patches:
            patch.start()
        self.logs = structlog.testing.capture_logs()
        self.logs.__enter__()
        self.bank = Bank(TOTAL)
        self.spent: dict[int, int] = {}
        self.returned: dict[int, int] = {}
        self.cursor = 0
        self.accepted = 0
        self.context: AbstractAsyncContextManager[Parts]
        self.parts: Parts
        self._open()

    def _run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def _open(self) -> None:
        self.context = open_parts(self.folder, bank=self.bank)
        self.parts = self._run(self.context.__aenter__())

    def _amounts(self) -> dict[int, int]:
        return {lease.lease_id: lease.amount for lease in self.bank.granted.values()}

    def _rest(self, lease_id: int) -> int:
        return self._amounts()[lease_id] - self.spent.get(lease_id, 0) - self.returned.get(lease_id, 0)

    async def _send(self, count: int, size: int = 0) -> None:
        recipients = [f"r{number}@example.net" for number in range(count)]
        content = MESSAGE + b"x" * size + b"\r\n"
        if isinstance(await self.parts.take(self.parts.submission(content, *recipients)), Accepted):
            self.accepted += count

    @rule(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
    def send(self, counts: list[int]) -> None:
        async def together() -> None:
            await asyncio.gather(*(self._send(count) for count in counts))

        self._run(together())

    @rule(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), recall=st.booleans())
    def send_while_the_disk_is_full(self, counts: list[int], recall: bool) -> None:
        async def together() -> None:
            with full_disk():
                sending = [asyncio.create_task(self._send(count, 100_000)) for count in counts]
                await asyncio.sleep(0)
                if recall:
                    await asyncio.gather(self.parts.credits.recall("acme"), return_exceptions=True)
                await asyncio.gather(*sending)
            await settled(self.parts.store)

        self._run(together())

    @rule(away=st.lists(st.sampled_from([AWAY, None]), min_size=1, max_size=3))
    def lose_answers(self, away: list[Refusal | None]) -> None:
        self.bank.script = list(away)

    @rule(count=st.integers(0, 4))
    def recall(self, count: int) -> None:
        async def together() -> None:
            sending = [asyncio.create_task(self._send(1)) for _ in range(count)]
            await asyncio.sleep(0)
            await self.parts.credits.recall("acme")
            await asyncio.gather(*sending)

        self._run(together())

    @rule(told=st.booleans())
    def push(self, told: bool) -> None:
        """The node carries the outbox to control, and perhaps tells the worker."""
        query = f"SELECT sequence, kind, lease_id, credits FROM outbox WHERE sequence > {self.cursor} ORDER BY sequence"
        for sequence, kind, lease_id, credits_ in rows(self.parts.path, query):
            self.cursor = int(str(sequence))
            if lease_id:
                book = self.returned if kind == 6 else self.spent
                book[int(str(lease_id))] = book.get(int(str(lease_id)), 0) + int(str(credits_))
                if kind == 6:
                    self.bank.credits += int(str(credits_))
                assert self._rest(int(str(lease_id))) >= 0, "more was spent and returned than was granted"
        if told:

            async def acknowledge() -> None:
                self.parts.store.acknowledge(self.cursor)
                self.parts.credits.acknowledged(self.cursor)
                await settled(self.parts.store)

            self._run(acknowledge())

    @rule()
    def restart(self) -> None:
        """Leases that the spool does not know at its start were never spent, says control, and takes them back."""
        self._run(self.context.__aexit__(None, None, None))
        self.push(told=False) if self.parts.path.exists() else None
        self._open()
        known = {int(str(row[0])) for row in rows(self.parts.path, "SELECT lease_id FROM lease")}
        for lease_id in self._amounts():
            if lease_id not in known:
                rest = self._rest(lease_id)
                self.returned[lease_id] = self.returned.get(lease_id, 0) + rest
                self.bank.credits += rest
        # An answer that was lost belongs to the run before: this one asks with names of its own.
        self.bank.script.clear()

    @invariant()
    def every_credit_is_somewhere(self) -> None:
        self.push(told=False)
        assert sum(self.spent.values()) == self.accepted
        leased = sum(self._rest(lease_id) for lease_id in self._amounts())
        assert self.bank.credits + leased + self.accepted == TOTAL

    @invariant()
    def memory_and_file_agree(self) -> None:
        account = self.parts.credits._accounts.get("acme")
        left = sum(lease.amount - lease.used for lease in account.leases) if account is not None else 0
        assert left == (account.left if account is not None else 0)
        on_file = rows(self.parts.path, "SELECT amount - used FROM lease")
        refilling = account is not None and account.refill is not None and not account.refill.done()
        if not refilling:
            assert sum(int(str(row[0])) for row in on_file) == left

    def teardown(self) -> None:
        self._run(self.context.__aexit__(None, None, None))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        for patch in self.patches:
            patch.stop()
        self.logs.__exit__(None, None, None)
        shutil.rmtree(self.folder)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
