"""Password hashes: argon2id, computed in a few threads so that a flood of log-ins cannot take all cores.

``verify`` remembers for ``CACHE_SECONDS`` which password belongs to which hash, by a keyed digest whose key lives in
this process only: a client that authenticates each of its calls pays for the hash once. A changed password has another
hash, so it counts at once. Calls that come together with the same password share one hash.

Somebody who guesses passwords of one username must not keep the others out. An attempt counts against its username
before it is hashed, and no longer once it proved right; after ``MAX_FAILURES`` within ``FAILURE_SECONDS``, or with
``MAX_PENDING`` under way, a username's attempts are refused without a hash. What is remembered as right is let in.

Errors: RATE_LIMITED for a username with too many attempts, UNAVAILABLE if more than ``MAX_WAITING`` hashes are asked
for at once. Thread rules: the loop's thread; only the hashing is elsewhere.
"""

import asyncio
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from mta.runtime.refusals import Reason, Refusal

T = TypeVar("T")

MEMORY_KIB, TIME_COST, LANES = 19_456, 2, 1
"""The first choice of OWASP's password storage cheat sheet; about 15 ms."""
THREADS = 2
"""Hashes at once."""
MAX_WAITING = 100
"""Hashes asked for at once, running or waiting: about a second of work."""
CACHE_SECONDS = 60.0
CACHE_SIZE = 10_000
MAX_PENDING = 10
"""Different passwords of one username that are being checked at once."""
MAX_FAILURES = 20
"""Wrong passwords of one username in ``FAILURE_SECONDS``."""
FAILURE_SECONDS = 60.0
MAX_COUNTED = 10_000
"""Usernames whose attempts are counted."""


class _Attempts:
    """Attempts of one username that did not prove right, or not yet."""

    __slots__ = ("failures", "pending", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.pending = 0
        self.until = 0.0

    def begin(self) -> None:
        """One more. Raises Refusal if that is too many."""
        now = time.monotonic()
        if now >= self.until:
            self.failures, self.until = self.pending, now + FAILURE_SECONDS
        if self.failures >= MAX_FAILURES:
            raise _limited(self.until - now)
        if self.pending >= MAX_PENDING:
            raise _limited(1.0)
        self.failures += 1
        self.pending += 1

    def end(self, wrong: bool) -> None:
        """It is over."""
        self.pending -= 1
        if not wrong:
            self.failures -= 1


class Passwords:
    """Makes and checks password hashes."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(
            time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=LANES, hash_len=32, salt_len=16, type=Type.ID
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        self._cache_key = os.urandom(32)
        # Digest of hash and password -> when it is forgotten; in the order of use.
        self._known: OrderedDict[bytes, float] = OrderedDict()
        # Digest -> the check of it that is under way.
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        # Username -> its attempts; in the order of use.
        self._attempts: OrderedDict[str, _Attempts] = OrderedDict()
        self._decoy = self._hasher.hash(os.urandom(16).hex())

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """The hash to keep, in PHC string form."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, username: str, password_hash: str | None, password: str) -> bool:
        """Whether the password belongs to the hash. None, for a user who does not exist, takes as long and is false."""
        stored = password_hash or self._decoy
        digest = hmac.digest(self._cache_key, f"{stored}\0{password}".encode("utf-8", "surrogatepass"), "sha256")
        if self._known.get(digest, 0.0) > time.monotonic():
            self._known.move_to_end(digest)
            return True
        running = self._running.get(digest)
        if running is None:
            attempts = self._attempts_of(username)
            attempts.begin()
            running = asyncio.create_task(self._check(attempts, digest, stored, password))
            self._running[digest] = running
        # Shielded: others may wait for the same check.
        return await asyncio.shield(running) and password_hash is not None

    async def _check(self, attempts: _Attempts, digest: bytes, stored: str, password: str) -> bool:
        wrong = False
        try:
            right = await self._in_thread(lambda: self._matches(stored, password))
            wrong = not right
        finally:
            attempts.end(wrong)
            del self._running[digest]
        if right:
            self._known[digest] = time.monotonic() + CACHE_SECONDS
            if len(self._known) > CACHE_SIZE:
                self._known.popitem(last=False)
        return right

    def _attempts_of(self, username: str) -> _Attempts:
        attempts = self._attempts.setdefault(username, _Attempts())
        self._attempts.move_to_end(username)
        if len(self._attempts) > MAX_COUNTED:
            self._attempts.popitem(last=False)
        return attempts

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Refusal(Reason.UNAVAILABLE, "too many log-ins at once; try again", retry_after=1.0)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def _limited(seconds: float) -> Refusal:
    return Refusal(
        Reason.RATE_LIMITED, "too many wrong log-ins with this username; try again later", retry_after=max(1.0, seconds)
    )
