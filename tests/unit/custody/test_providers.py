"""The provider of a message at submission: its choice, its limits, and that a refusal leaves no trace."""

import asyncio
from pathlib import Path

import pytest

from mta.custody import quotas as quotas_module
from mta.custody.providers import NOTHING, Providers
from mta.custody.quotas import GrantedQuota, Quotas
from mta.policy.egress import Pool, PoolAssignment, ProviderTls, SmtpProvider
from mta.policy.lookup import lineage
from mta.replica.writer import Record
from mta.runtime.refusals import Reason, Refusal
from tests.unit.custody.parts import Parts, open_parts, tree
from tests.unit.spool.rows import rows

SUBJECT = "tenants/acme/smtpProviders/ses"


class Control:
    """Control, as far as quotas go; ``surplus`` is what it gives on top of what is asked for."""

    def __init__(self, left: int, surplus: int = 0) -> None:
        self.left = left
        self.surplus = surplus
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()

    async def acquire(self, subject: str, count: int) -> GrantedQuota:
        """A part of what is left."""
        self.calls += 1
        await self.open.wait()
        assert subject == SUBJECT
        if self.left < count:
            left = {"left": str(self.left)}
            raise Refusal(Reason.RATE_LIMITED, "the hourly limit is used up", retry_after=900.0, metadata=left)
        granted = min(self.left, count + self.surplus)
        self.left -= granted
        return GrantedQuota(granted, 60.0)


def ses(*, tenant: str = "acme", limited: bool = True, waits: bool = False, default: bool = True) -> SmtpProvider:
    """A provider of acme."""
    return SmtpProvider(
        tenant, "ses", "h.test", 25, ProviderTls.NONE, "", b"", limited, waits, False, default, False, False
    )


def with_providers(parts: Parts, control: Control) -> Providers:
    """Have the parts' intake choose providers."""
    providers = Providers(parts.policy.egress, Quotas(control.acquire))
    parts.intake._providers = providers
    return providers


async def test_the_default_is_stored_with_the_message_and_counted(tmp_path: Path) -> None:
    async with open_parts(tmp_path, records=[*tree(), ses()]) as parts:
        control = Control(3)
        with_providers(parts, control)
        await parts.accepted(parts.submission(recipients=_addresses(parts, "a", "b")))
        assert control.left == 1
        refusal = await parts.refused(parts.submission(recipients=_addresses(parts, "c", "d")))
        assert (refusal.reason, refusal.retry_after) == (Reason.RATE_LIMITED, 900.0)
        credits_left = parts.bank.credits
        await parts.accepted(parts.submission(recipients=_addresses(parts, "c")))
        assert (control.left, parts.bank.credits) == (0, credits_left)
        assert {job.provider for job in parts.delivery.jobs} == {"acme/ses"}
        rows = parts.store._writer.execute("SELECT provider FROM message").fetchall()
        assert rows == [("acme/ses",), ("acme/ses",)]


async def test_without_credits_nothing_is_counted(tmp_path: Path) -> None:
    async with open_parts(tmp_path, records=[*tree(), ses()]) as parts:
        parts.bank.credits = 0
        control = Control(5, surplus=5)
        providers = with_providers(parts, control)
        refusal = await parts.refused()
        assert refusal.reason is Reason.INSUFFICIENT_CREDITS
        assert providers._quotas.take(SUBJECT, 5)


@pytest.mark.parametrize("batch", [False, True])
async def test_a_mistake_while_paying_counts_nothing(
    batch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_parts(tmp_path, records=[*tree(), ses()]) as parts:
        providers = with_providers(parts, Control(5, surplus=5))
        await parts.accepted()  # there are credits and a quota here now, so nothing waits for them

        def broken(*_: object) -> None:
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(parts.credits, "take", broken)
        if batch:
            with pytest.raises(RuntimeError):
                await parts.intake.submit_all([parts.submission(), parts.submission()])
        else:
            assert (await parts.refused()).reason is Reason.INTERNAL
        assert providers._quotas.take(SUBJECT, 4)
        assert not providers._quotas.take(SUBJECT, 1)


async def test_what_a_message_names(tmp_path: Path) -> None:
    theirs = ses(tenant="reseller", default=False)
    async with open_parts(tmp_path, records=[*tree(), ses(limited=False), theirs]) as parts:
        providers = with_providers(parts, Control(0))
        line = lineage(parts.policy, "acme")
        assert providers.choose(line, "").key == "acme/ses"
        assert providers.choose(line, "ses").key == "acme/ses"
        assert providers.choose(line, "builtin") == NOTHING
        assert providers.choose(lineage(parts.policy, "rival"), "") == NOTHING
        with pytest.raises(Refusal) as caught:
            providers.choose(lineage(parts.policy, "rival"), "ses")
        assert (caught.value.reason, caught.value.field) == (Reason.NOT_FOUND, "smtp_provider")
        parts.change_policy(ses(waits=True))
        assert providers.choose(line, "") == ("acme/ses", "")


async def test_without_any_provider_only_the_built_in_one_can_be_named(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        providers = with_providers(parts, Control(0))
        line = lineage(parts.policy, "acme")
        assert providers.choose(line, "") == providers.choose(line, "builtin") == NOTHING
        with pytest.raises(Refusal):
            providers.choose(line, "ses")


async def test_of_a_batch_what_a_limit_has_room_for_is_taken(tmp_path: Path) -> None:
    async with open_parts(tmp_path, records=[*tree(), ses()]) as parts:
        control = Control(3)
        with_providers(parts, control)
        found = await parts.intake.submit_all([parts.submission() for _ in range(5)])
        assert [isinstance(one, Refusal) for one in found] == [False, False, False, True, True]
        assert {one.reason for one in found if isinstance(one, Refusal)} == {Reason.RATE_LIMITED}
        assert control.left == 0


async def test_the_pool_that_a_message_names(tmp_path: Path) -> None:
    """One of the tenant's own or of a tenant above, by its name; one of the operator's only if it is assigned."""
    pools: list[Record] = [
        Pool("p1", (), "acme", "bulk"),
        Pool("p2", (), "reseller", "fast"),
        Pool("p3", (), "rival", "theirs"),
        Pool("p4", ()),
        Pool("p5", ()),
        PoolAssignment("reseller", "p4"),
    ]
    async with open_parts(tmp_path, records=[*tree(), *pools, ses()]) as parts:
        control = Control(0)
        with_providers(parts, control)
        for name, pool_id in ("Bulk", "p1"), ("FAST", "p2"), ("p4", "p4"):
            # The account's default provider has no room, and is not meant: pools are the MTA's own.
            await parts.accepted(parts.submission(pool=name))
            assert parts.delivery.jobs[-1].pool == pool_id
        assert rows(parts.path, "SELECT pool, provider FROM message") == [("p1", ""), ("p2", ""), ("p4", "")]
        for name in ("theirs", "p5", "nowhere"):
            refusal = await parts.refused(parts.submission(pool=name))
            assert (refusal.reason, refusal.field) == (Reason.INVALID_ARGUMENT, "pool")


async def test_one_question_at_a_time_serves_all_who_wait() -> None:
    control = Control(100, surplus=99)
    control.open.clear()
    quotas = Quotas(control.acquire)

    async def use() -> bool:
        await quotas.wait(SUBJECT, 1)
        return quotas.take(SUBJECT, 1)

    waiting = [asyncio.create_task(use()) for _ in range(20)]
    await asyncio.sleep(0.01)
    control.open.set()
    assert all(await asyncio.gather(*waiting))
    assert control.calls == 1
    await quotas.close()


async def test_a_refusal_is_remembered_for_a_moment_and_a_mistake_is_no_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "REFUSED_SECONDS", 60.0)
    control = Control(0)
    quotas = Quotas(control.acquire)
    for _ in range(3):
        with pytest.raises(Refusal, match="used up"):
            await quotas.wait(SUBJECT, 1)
    assert control.calls == 1
    quotas._subjects[SUBJECT].refused_until -= 60.0
    control.left = 1
    await quotas.wait(SUBJECT, 1)
    assert quotas.take(SUBJECT, 1)
    assert not quotas.take(SUBJECT, 1)
    quotas.give_back(SUBJECT, 1)
    assert quotas.take(SUBJECT, 1)
    with pytest.raises(Refusal) as caught:
        await quotas.wait("tenants/other/smtpProviders/x", 1)  # which breaks the fake above
    assert caught.value.reason is Reason.UNAVAILABLE
    await quotas.close()


def _addresses(parts: Parts, *names: str) -> object:
    return parts.submission(b"", *(f"{name}@example.net" for name in names)).recipients
