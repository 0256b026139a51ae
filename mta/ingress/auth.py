"""Passwords: argon2id in a bounded pool of threads, with a cache of successes.

A verification costs tens of milliseconds and 19 MiB, so at most ``THREADS`` run at once and ``MAX_WAITING`` wait;
beyond that the answer is "try again", never "wrong". A success is remembered for ``CACHE_SECONDS`` under a key that
only this process can make (HMAC with a random key), bound to the hash it was checked against: a changed password or a
removed login misses the cache at once. Unknown usernames cost the same as wrong passwords. Failures are counted per
peer and per username before anything is hashed. A right password of a login that has expired, or that is not for the
peer's network, is refused like a wrong one, but not counted as one.

``in_force`` asks again, with each message of a session that goes on: whether the login is still what it was.

Thread rules: called on the loop's thread; hashing runs in the pool.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import argon2
from prometheus_client import Counter

from mta.policy.lookup import Policy
from mta.policy.records import Login
from mta.policy.uses import CredentialKind, Uses
from mta.runtime import networks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

THREADS = 2
"""Hashes at once: more would take the cores from the event loop."""
MAX_WAITING = 100
"""Verifications that wait for a thread."""
CACHE_SECONDS = 600.0
"""A success is remembered this long."""
CACHE_SIZE = 20_000
"""Successes remembered."""
FAILURE_SECONDS = 60.0
"""Failures are counted over this time."""
MAX_FAILURES = 20
"""Failures of one peer or of one username in that time; then nothing is hashed for it."""
MAX_COUNTED = 100_000
"""Peers and usernames whose failures are counted."""

MAX_USERNAME = 320
"""Characters of a username that is looked up."""
MAX_PASSWORD = 1024
"""Characters of a password that is hashed."""

ATTEMPTS = Counter("barua_auth_attempts_total", "SMTP AUTH attempts.", ["result"])

_WRONG = "wrong username or password"


class Authenticator:
    """Verifies logins of the policy in force."""

    def __init__(self, policy: Policy, uses: Uses) -> None:
        self._policy = policy
        self._uses = uses
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._decoy = self._hasher.hash(secrets.token_hex(16))
        self._threads = ThreadPoolExecutor(THREADS, "argon2")
        self._waiting = 0
        self._key = secrets.token_bytes(32)
        self._successes: OrderedDict[bytes, float] = OrderedDict()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def verify(self, username: str, password: str, peer: str) -> Login:
        """The login behind a username and password. Raises Refusal."""
        if len(username) > MAX_USERNAME or len(password) > MAX_PASSWORD:
            username, password = "", ""  # no login has one so long: not looked up, not counted, and wrong all the same
        login = self._policy.login(username)
        stored = login.password_hash if login is not None else self._decoy
        mark = self._mark(stored, password)
        if login is not None and self._remembered(mark):
            ATTEMPTS.labels("cached").inc()
            return self._usable(login, peer)
        limited = (f"peer {networks.block(peer)}", f"name {username}")
        self._refuse_if_limited(limited)
        if not await self._matches(stored, password) or login is None:
            self._count_failure(limited)
            ATTEMPTS.labels("wrong").inc()
            log.warning("auth_failed", username=username, peer=peer)
            raise Refusal(Reason.UNAUTHENTICATED, _WRONG)
        self._successes[mark] = time.monotonic() + CACHE_SECONDS
        if len(self._successes) > CACHE_SIZE:
            self._successes.popitem(last=False)
        ATTEMPTS.labels("verified").inc()
        return self._usable(login, peer)

    def in_force(self, login: Login, peer: str) -> bool:
        """Whether a login that was verified before would be now: as it was then, in time and in its network."""
        now = self._policy.login(login.username)
        return (
            now is not None
            and (now.password_hash, now.tenant_id) == (login.password_hash, login.tenant_id)
            and _refused_for(now, peer) is None
        )

    def _usable(self, login: Login, peer: str) -> Login:
        why = _refused_for(login, peer)
        if why is not None:
            ATTEMPTS.labels("refused").inc()
            log.warning("auth_refused", username=login.username, peer=peer, why=why)
            raise Refusal(Reason.UNAUTHENTICATED, _WRONG)
        self._uses.note(CredentialKind.LOGIN, login.username)
        return login

    def _mark(self, stored: str, password: str) -> bytes:
        return hmac.digest(self._key, stored.encode() + b"\0" + password.encode(), hashlib.sha256)

    def _remembered(self, mark: bytes) -> bool:
        return self._successes.get(mark, 0.0) > time.monotonic()

    async def _matches(self, stored: str, password: str) -> bool:
        if self._waiting >= MAX_WAITING:
            ATTEMPTS.labels("busy").inc()
            raise Refusal(Reason.RATE_LIMITED, "too many logins at once; try again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._check, stored, password)
        finally:
            self._waiting -= 1

    def _check(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    def _refuse_if_limited(self, limited: tuple[str, ...]) -> None:
        now = time.monotonic()
        for key in limited:
            count, until = self._failures.get(key, (0, 0.0))
            if count >= MAX_FAILURES and until > now:
                ATTEMPTS.labels("limited").inc()
                raise Refusal(Reason.RATE_LIMITED, "too many failed logins; try again later")

    def _count_failure(self, limited: tuple[str, ...]) -> None:
        now = time.monotonic()
        for key in limited:
            count, until = self._failures.pop(key, (0, 0.0))
            self._failures[key] = (count + 1, until) if until > now else (1, now + FAILURE_SECONDS)
            if len(self._failures) > MAX_COUNTED:
                self._failures.popitem(last=False)


def _refused_for(login: Login, peer: str) -> str | None:
    """Why a login may not be used now from this peer; None: it may."""
    if login.expire_time and login.expire_time <= time.time():
        return "expired"
    return None if networks.allowed(login.allowed_networks, peer) else "network"
