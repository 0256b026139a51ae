"""Requests that are made once: the answers to those with an idempotency key.

The answer to a request is kept in the spool, written by the transaction that stores what it asked for, and given again
for ``KEPT_MS`` to whoever asks with the same key of the same tenant. So there is no moment at which a message is stored
and its key is not, or the other way round. Of requests at the same time with the same key, the first is made and the
others wait for its answer. What stored nothing leaves no answer: asked again, it is tried again.

Thread rules: the loop's thread. Limits: ``MAX_ANSWERS`` on file; new keys are refused beyond.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import MAX_KEYS, AnswerRow, SpoolError, Store

log = get_logger(__name__)

KEPT_MS = 24 * 3600 * 1000
"""How long an answer is given again."""
MAX_ANSWERS = 5_000_000
"""Answers on file of one worker: about a gigabyte."""
SWEEP_SECONDS = 60.0
"""Pause between removals of what has expired."""


class Key(NamedTuple):
    """What a request is called, and what it was."""

    tenant: str
    text: str
    fingerprint: bytes


class Asked:
    """A request with a key: the first one, or one that waits for the first."""

    __slots__ = ("_answer", "first", "key")

    def __init__(self, key: Key, first: bool, answer: "asyncio.Future[bytes | Refusal]") -> None:
        self.key = key
        self.first = first
        """It is to be made, and then ``Answers.settle`` is to be called."""
        self._answer = answer

    @property
    def settled(self) -> bool:
        """There is an answer."""
        return self._answer.done()

    async def answer(self) -> bytes | Refusal:
        """The answer, once it is there."""
        return await asyncio.shield(self._answer)

    def followed(self, key: Key) -> "Asked":
        """Another that gets the same answer."""
        return Asked(key, False, self._answer)

    def settle(self, answer: bytes | Refusal) -> None:
        """This is the answer."""
        if not self._answer.done():
            self._answer.set_result(answer)


class Answers:
    """The keys of one worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[tuple[str, str], Asked] = {}
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to remove what has expired."""
        self._tasks.start(self._sweep(), "answers-sweep")

    async def close(self) -> None:
        """Remove nothing more."""
        await self._tasks.close()

    async def ask(self, keys: Sequence[Key]) -> list[Asked]:
        """One for each key. Those answered before are settled; each other ``first`` has to be settled by the caller.

        Make what is ``first`` before waiting for any that is not. Raises Refusal if nothing can be known now.
        """
        asked = [self._enter(key) for key in keys]
        first = {one.key[:2]: one for one in asked if one.first and not one.settled}
        try:
            now_ms = time.time_ns() // 1_000_000
            names = list(first)
            for start in range(0, len(names), MAX_KEYS):
                rows = await self._store.answers(names[start : start + MAX_KEYS], now_ms)
                if not self._store.healthy:  # what a commit that failed has left in the file is still to be removed
                    raise SpoolError("the spool is not healthy")
                for row in rows:
                    one = first[row.tenant, row.key]
                    self.settle(one, row.answer if row.fingerprint == one.key.fingerprint else _reused())
        except BaseException as error:
            refusal = Refusal(Reason.NOT_STORED, "mail cannot be stored now; try again later", retry_after=5.0)
            for one in first.values():
                self.settle(one, refusal)
            if isinstance(error, SpoolError):
                raise refusal from error
            raise
        if self._store.answers_kept >= MAX_ANSWERS:
            for one in first.values():
                if not one.settled:
                    self.settle(one, _too_many())
        return asked

    def settle(self, asked: Asked, answer: bytes | Refusal) -> None:
        """The answer to a ``first``; stored, if it is one."""
        if self._open.get(asked.key[:2]) is asked:
            del self._open[asked.key[:2]]
        asked.settle(answer)

    @staticmethod
    def row(key: Key, answer: bytes) -> AnswerRow:
        """What is to be stored together with what the key stands for."""
        expires_ms = time.time_ns() // 1_000_000 + KEPT_MS
        return AnswerRow(key.tenant, key.text, key.fingerprint, expires_ms, answer)

    def _enter(self, key: Key) -> Asked:
        open_ = self._open.get(key[:2])
        if open_ is None:
            answer: asyncio.Future[bytes | Refusal] = asyncio.get_running_loop().create_future()
            asked = self._open[key[:2]] = Asked(key, True, answer)
            return asked
        if open_.key.fingerprint != key.fingerprint:
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(_reused())
            return Asked(key, False, answer)
        return open_.followed(key)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if self._store.answers_kept:
                self._store.forget_answers(time.time_ns() // 1_000_000)


def _reused() -> Refusal:
    return Refusal(
        Reason.REQUEST_ID_REUSED,
        "this idempotency key was used for another request; take a new one for each request",
        field="idempotency_key",
    )


def _too_many() -> Refusal:
    return Refusal(
        Reason.RATE_LIMITED,
        "too many idempotency keys are remembered now; try again later, or send without one",
        retry_after=600.0,
        metadata={"cap": "idempotency_keys"},
    )
