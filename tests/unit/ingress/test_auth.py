"""Passwords: right ones get in, wrong ones are counted before they cost anything, and names stay unknown."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import pytest

from mta.ingress import auth
from mta.ingress.auth import MAX_FAILURES, MAX_WAITING, Authenticator
from mta.policy.records import Login
from mta.policy.uses import CredentialKind, Uses
from mta.replica.reader import ReplicaReader
from mta.replica.writer import ReplicaWriter
from mta.runtime.refusals import Reason, Refusal
from tests.unit.ingress.service import PASSWORD, password_hash


class Setup:
    """An authenticator on a real replica."""

    def __init__(self, folder: Path) -> None:
        self.writer = ReplicaWriter(folder / "policy.db")
        self.writer.replace([Login("acme", "acme", password_hash())], "lineage", 1)
        self.policy = ReplicaReader(folder / "policy.db")
        self.uses = Uses()
        self.authenticator = Authenticator(self.policy, self.uses)
        self.hashed = 0
        check = self.authenticator._check

        def counting(stored: str, password: str) -> bool:
            self.hashed += 1
            return check(stored, password)

        self.authenticator._check = counting  # type: ignore[method-assign]

    def put(self, login: Login, *, deleted: bool = False) -> None:
        """Change the policy."""
        self.writer.apply([(login, deleted)], self.writer.position()[1] + 1)
        self.policy.refresh()

    async def verify(self, username: str = "acme", password: str = PASSWORD, peer: str = "192.0.2.1") -> Reason | Login:
        """The login, or why not."""
        try:
            return await self.authenticator.verify(username, password, peer)
        except Refusal as refusal:
            return refusal.reason


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    """Ready to verify."""
    made = Setup(tmp_path)
    yield made
    made.authenticator.close()
    made.policy.close()
    made.writer.close()


async def test_the_right_password_gets_in(setup: Setup) -> None:
    assert await setup.verify() == Login("acme", "acme", password_hash())


@pytest.mark.parametrize(
    ("username", "password"), [("acme", "wrong"), ("nobody", PASSWORD), ("ACME", PASSWORD), ("acme", "")]
)
async def test_everything_else_does_not(setup: Setup, username: str, password: str) -> None:
    assert await setup.verify(username, password) is Reason.UNAUTHENTICATED


async def test_a_success_is_remembered(setup: Setup) -> None:
    for _ in range(5):
        assert isinstance(await setup.verify(), Login)
    assert setup.hashed == 1


async def test_what_is_remembered_is_the_password_too(setup: Setup) -> None:
    await setup.verify()
    assert await setup.verify(password="wrong") is Reason.UNAUTHENTICATED


async def test_a_changed_password_counts_at_once(setup: Setup) -> None:
    await setup.verify()
    other = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("another")
    setup.put(Login("acme", "acme", other))
    assert await setup.verify() is Reason.UNAUTHENTICATED
    assert isinstance(await setup.verify(password="another"), Login)


async def test_a_removed_login_is_out_at_once(setup: Setup) -> None:
    await setup.verify()
    setup.put(Login("acme", "acme", password_hash()), deleted=True)
    assert await setup.verify() is Reason.UNAUTHENTICATED


async def test_a_login_given_to_another_tenant_is_that_tenants(setup: Setup) -> None:
    await setup.verify()
    setup.put(Login("acme", "rival", password_hash()))
    login = await setup.verify()
    assert isinstance(login, Login)
    assert login.tenant_id == "rival"


async def test_remembering_ends(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SECONDS", 0.0)
    await setup.verify()
    await setup.verify()
    assert setup.hashed == 2


async def test_memory_of_successes_is_bounded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SIZE", 2)
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    for number in range(5):
        setup.put(Login(f"user{number}", "acme", cheap + ""))
        await setup.verify(f"user{number}")
    assert len(setup.authenticator._successes) <= 2


async def test_an_unknown_name_costs_as_much_as_a_wrong_password(setup: Setup) -> None:
    setup.put(Login("acme", "acme", password_hash(19_456)))

    async def cost(username: str) -> float:
        started = time.perf_counter()
        await setup.verify(username, "wrong", f"198.51.100.{setup.hashed}")
        return time.perf_counter() - started

    known = min([await cost("acme") for _ in range(8)])
    unknown = min([await cost("nobody") for _ in range(8)])
    assert 0.2 < known / unknown < 5  # without a hash it would be a hundred times as fast
    assert setup.hashed == 16


async def test_a_guesser_is_stopped_before_anything_is_hashed(setup: Setup) -> None:
    for number in range(MAX_FAILURES):
        assert await setup.verify(f"name{number}", "wrong") is Reason.UNAUTHENTICATED
    assert setup.hashed == MAX_FAILURES
    assert await setup.verify("another", "wrong") is Reason.RATE_LIMITED
    assert setup.hashed == MAX_FAILURES
    assert isinstance(await setup.verify(peer="192.0.2.2"), Login)


async def test_many_guessers_of_one_name_are_stopped_too(setup: Setup) -> None:
    for number in range(MAX_FAILURES):
        assert await setup.verify("acme", "wrong", f"192.0.2.{number}") is Reason.UNAUTHENTICATED
    assert await setup.verify("acme", "wrong", "198.51.100.1") is Reason.RATE_LIMITED


async def test_who_was_in_before_is_not_locked_out_by_guessers(setup: Setup) -> None:
    await setup.verify()
    for _ in range(MAX_FAILURES + 1):
        await setup.verify("acme", "wrong")
    assert isinstance(await setup.verify(), Login)


async def test_failures_are_forgotten(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FAILURE_SECONDS", 0.2)
    for _ in range(MAX_FAILURES + 1):
        await setup.verify("acme", "wrong")
    await asyncio.sleep(0.25)
    assert isinstance(await setup.verify(), Login)


async def test_an_ipv6_network_counts_as_one_peer(setup: Setup) -> None:
    for number in range(MAX_FAILURES):
        await setup.verify(f"name{number}", "wrong", f"2001:db8::{number:x}")
    assert await setup.verify("other", "wrong", "2001:db8::ffff:1") is Reason.RATE_LIMITED
    assert await setup.verify("other", "wrong", "2001:db8:0:1::1") is Reason.UNAUTHENTICATED


async def test_too_many_at_once_are_told_to_come_again(setup: Setup) -> None:
    waiting = [asyncio.create_task(setup.verify("acme", "wrong", f"10.0.{number}.1")) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    assert await setup.verify(peer="192.0.2.9") is Reason.RATE_LIMITED
    results = await asyncio.gather(*waiting)
    assert set(results) <= {Reason.UNAUTHENTICATED, Reason.RATE_LIMITED}
    assert setup.authenticator._waiting == 0


async def test_memory_of_failures_is_bounded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_COUNTED", 4)
    for number in range(5):
        await setup.verify(f"name{number}", "wrong", f"192.0.2.{number}")
    assert len(setup.authenticator._failures) <= 4


@pytest.mark.parametrize("stored", ["", "not a hash", "$argon2id$v=19$m=19456,t=2,p=1$broken"])
async def test_a_hash_that_is_none_lets_nobody_in(setup: Setup, stored: str) -> None:
    setup.put(Login("broken", "acme", stored))
    assert await setup.verify("broken", PASSWORD) is Reason.UNAUTHENTICATED


async def test_a_peer_without_an_address_can_be_refused(setup: Setup) -> None:
    assert await setup.verify("acme", "wrong", "unknown") is Reason.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("limits", "peer", "gets_in"),
    [
        ({"expire_time": 1.0}, "192.0.2.1", False),
        ({"expire_time": 9e9}, "192.0.2.1", True),
        ({"allowed_networks": ("192.0.2.0/24",)}, "192.0.2.1", True),
        ({"allowed_networks": ("192.0.2.0/24",)}, "::ffff:192.0.2.1", True),
        ({"allowed_networks": ("2001:db8::/32", "198.51.100.7/32")}, "192.0.2.1", False),
        ({"allowed_networks": ("192.0.2.0/24",)}, "unknown", False),
    ],
)
async def test_a_login_is_for_its_time_and_networks(
    setup: Setup, limits: dict[str, Any], peer: str, gets_in: bool
) -> None:
    setup.put(Login("acme", "acme", password_hash(), **limits))
    for _ in range(2):  # the second time from memory
        outcome = await setup.verify(peer=peer)
        assert isinstance(outcome, Login) if gets_in else outcome is Reason.UNAUTHENTICATED
    assert setup.hashed == 1
    assert setup.uses.take() == ([(CredentialKind.LOGIN, "acme")] if gets_in else [])


async def test_a_login_is_in_force_as_long_as_it_is_what_it_was(setup: Setup) -> None:
    login = await setup.verify()
    assert isinstance(login, Login)
    assert setup.authenticator.in_force(login, "192.0.2.1")
    for changed in (
        Login("acme", "acme", "another hash"),
        Login("acme", "rival", login.password_hash),
        Login("acme", "acme", login.password_hash, expire_time=1.0),
        Login("acme", "acme", login.password_hash, ("198.51.100.0/24",)),
    ):
        setup.put(changed)
        assert not setup.authenticator.in_force(login, "192.0.2.1")
        setup.put(login)
        assert setup.authenticator.in_force(login, "192.0.2.1")
    setup.put(login, deleted=True)
    assert not setup.authenticator.in_force(login, "192.0.2.1")
