"""Quotas at the edges: windows that end, quota that is here already, refusals that are told more than once."""

import asyncio

import pytest

from mta.custody import quotas as quotas_module
from mta.custody.quotas import GrantedQuota, Quotas
from mta.runtime.refusals import Reason, Refusal

SUBJECT = "sources/one"


class Control:
    """Grants what it is told to, one answer after the other; after the last the limit is used up."""

    def __init__(self, *grants: GrantedQuota, takes: float = 0.0) -> None:
        self.grants = list(grants)
        self.takes = takes
        self.calls = 0

    async def acquire(self, subject: str, count: int) -> GrantedQuota:
        """The next answer."""
        self.calls += 1
        await asyncio.sleep(self.takes)
        if not self.grants:
            raise Refusal(Reason.RATE_LIMITED, "used up", retry_after=900.0, metadata={"left": "0"})
        return self.grants.pop(0)


async def test_nobody_asks_for_what_is_here() -> None:
    control = Control(GrantedQuota(5, 60.0))
    quotas = Quotas(control.acquire)
    await quotas.wait(SUBJECT, 1)
    await quotas.wait(SUBJECT, 5)  # control would refuse: nothing is left there
    assert control.calls == 1
    assert quotas.take(SUBJECT, 5)
    await quotas.close()


async def test_what_an_earlier_window_counted_is_not_given_back_to_the_next() -> None:
    control = Control(GrantedQuota(1, 60.0), GrantedQuota(1, 60.0))
    quotas = Quotas(control.acquire)
    await quotas.wait(SUBJECT, 1)
    assert quotas.take(SUBJECT, 1)
    first = quotas.window(SUBJECT)
    quotas._subjects[SUBJECT].ends -= 60.0  # this window is over
    await quotas.wait(SUBJECT, 1)
    assert quotas.take(SUBJECT, 1)
    quotas.give_back(SUBJECT, 1, first)
    assert not quotas.take(SUBJECT, 1)
    quotas.give_back(SUBJECT, 1, quotas.window(SUBJECT))
    assert quotas.take(SUBJECT, 1)
    await quotas.close()


async def test_a_window_ends_when_control_says_however_long_the_answer_took() -> None:
    control = Control(GrantedQuota(1, 0.01), takes=0.02)
    quotas = Quotas(control.acquire)
    await quotas.wait(SUBJECT, 1)
    assert not quotas.take(SUBJECT, 1)
    await quotas.close()


async def test_each_who_is_refused_gets_a_refusal_of_its_own() -> None:
    quotas = Quotas(Control().acquire)
    heard: list[Refusal] = []
    for _ in range(3):
        with pytest.raises(Refusal) as caught:
            await quotas.wait(SUBJECT, 1)
        heard.append(caught.value)
    assert len({id(refusal) for refusal in heard}) == 3
    assert {(one.reason, one.message, one.retry_after, one.metadata["left"]) for one in heard} == {
        (Reason.RATE_LIMITED, "used up", 900.0, "0")
    }
    await quotas.close()


async def test_subjects_of_ended_windows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "MAX_SUBJECTS", 3)
    quotas = Quotas(Control().acquire)
    for number in range(20):
        assert not quotas.take(f"sources/{number}", 1)
    assert len(quotas._subjects) <= 3
    await quotas.close()
