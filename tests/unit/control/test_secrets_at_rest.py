"""Passwords."""

import asyncio
import time
from collections.abc import Awaitable, Iterable

import pytest

from control.passwords import FAILURE_SECONDS, MAX_FAILURES, MAX_PENDING, Passwords
from mta.runtime.refusals import Reason, Refusal


@pytest.fixture
def passwords() -> Passwords:
    return Passwords()


async def test_a_password_is_kept_as_argon2id_of_the_stated_cost(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse")
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify("ann", kept, "correct horse")
    assert not await passwords.verify("ann", kept, "correct house")
    assert not await passwords.verify("bob", None, "correct horse")
    assert not await passwords.verify("ann", "not a hash", "correct horse")


async def test_a_known_password_costs_nothing_and_a_changed_one_is_unknown(passwords: Passwords) -> None:
    old, new = await passwords.hash("old password"), await passwords.hash("new password")
    assert await passwords.verify("ann", old, "old password")
    started = time.process_time()
    for _ in range(100):
        assert await passwords.verify("ann", old, "old password")
    assert time.process_time() - started < 0.5  # a hundred hashes take two seconds and more
    assert not await passwords.verify("ann", new, "old password")


async def test_a_flood_of_log_ins_is_cut_off(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.passwords.MAX_WAITING", 10)
    kept = await passwords.hash("correct horse")
    tries = [passwords.verify(f"user{number}", kept, f"wrong {number}") for number in range(15)]
    assert await reasons(tries) == [Reason.UNAVAILABLE] * 5


async def test_guesses_of_one_username_leave_room_for_the_others(passwords: Passwords) -> None:
    ann, bob = await passwords.hash("correct horse"), await passwords.hash("battery staple")
    assert await passwords.verify("ann", ann, "correct horse")
    guesses = [passwords.verify("ann", ann, f"wrong {number}") for number in range(200)]
    guessing = asyncio.create_task(reasons(guesses))
    await asyncio.sleep(0)
    assert await passwords.verify("bob", bob, "battery staple")
    assert await guessing == [Reason.RATE_LIMITED] * (200 - MAX_PENDING)
    assert await passwords.verify("ann", ann, "correct horse")


async def test_wrong_passwords_are_counted_and_right_ones_are_not(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.passwords.CACHE_SECONDS", 0.0)
    kept = await passwords.hash("correct horse")
    for _ in range(MAX_FAILURES + 1):
        assert await passwords.verify("ann", kept, "correct horse")
    for number in range(MAX_FAILURES):
        assert not await passwords.verify("ann", kept, f"wrong {number}")
    with pytest.raises(Refusal) as refused:
        await passwords.verify("ann", kept, "wrong once more")
    assert refused.value.reason is Reason.RATE_LIMITED
    assert 1 <= (refused.value.retry_after or 0) <= FAILURE_SECONDS


async def test_the_same_password_is_hashed_once_for_calls_that_come_together(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse")
    tries = [passwords.verify("ann", kept, "correct horse") for _ in range(200)]
    assert await asyncio.gather(*tries) == [True] * 200


async def reasons(tries: Iterable[Awaitable[bool]]) -> list[Reason]:
    results = await asyncio.gather(*tries, return_exceptions=True)
    return [result.reason for result in results if isinstance(result, Refusal)]
