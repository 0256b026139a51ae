"""Credits: spent from leases in memory, exact on file, and never more than was granted."""

import asyncio
from pathlib import Path

import pytest

from mta.custody import credits as module
from mta.custody.credits import FIRST_AMOUNT, MAX_AMOUNT, GrantedLease
from mta.custody.submission import Accepted
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import Change, EventKind
from tests.unit.custody.parts import MESSAGE, Bank, Parts, open_parts
from tests.unit.spool.rows import full_disk, rows, settled

AWAY = Refusal(Reason.UNAVAILABLE, "control is away")


def on_file(parts: Parts) -> list[tuple[object, ...]]:
    """Leases on file."""
    return rows(parts.path, "SELECT lease_id, amount, used FROM lease ORDER BY lease_id")


def told(parts: Parts) -> dict[int, tuple[int, int]]:
    """(spent, returned) of each lease, as the outbox tells control."""
    sums = "sum(credits * (kind = 1)), sum(credits * (kind = 6))"
    query = f"SELECT lease_id, {sums} FROM outbox WHERE lease_id > 0 GROUP BY 1"
    return {int(str(row[0])): (int(str(row[1])), int(str(row[2]))) for row in rows(parts.path, query)}


async def healthy(parts: Parts) -> None:
    """Wait until the spool has recovered and what was written is durable."""
    async with asyncio.timeout(60):
        while not parts.store.healthy:  # noqa: ASYNC110 (it has no event of its own)
            await asyncio.sleep(0.01)
    await settled(parts.store)


async def test_each_recipient_costs_one_credit_of_a_named_lease(parts: Parts) -> None:
    await parts.accepted(parts.submission(MESSAGE, "a@example.net", "b@example.net"))
    await parts.accepted()
    assert on_file(parts) == [(1, FIRST_AMOUNT, 3)]
    assert told(parts) == {1: (3, 0)}


async def test_a_lease_is_on_file_before_it_is_spent_from(parts: Parts) -> None:
    await parts.credits.wait("acme", 1)
    assert on_file(parts) == [(1, FIRST_AMOUNT, 0)]


async def test_leases_are_renewed_before_they_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_AMOUNT", 10)
    async with open_parts(tmp_path) as parts:
        for _ in range(40):
            await parts.accepted()
            await asyncio.sleep(0)
        assert [amount for _, amount, _ in parts.bank.calls][:3] == [10, 20, 40]
        spent = sum(spent for spent, _ in told(parts).values())
        assert spent == 40


async def test_amounts_follow_the_rate_and_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_AMOUNT", 10)
    monkeypatch.setattr(module, "MAX_AMOUNT", 30)
    async with open_parts(tmp_path) as parts:
        for _ in range(60):
            await parts.accepted()
            await asyncio.sleep(0)
        assert max(amount for _, amount, _ in parts.bank.calls) == 30
        account = parts.credits._accounts["acme"]
        account.since -= 10_000
        for _ in range(account.left):
            await parts.accepted()
        assert parts.bank.calls[-1][1] < 30
    assert MAX_AMOUNT > FIRST_AMOUNT


async def test_a_refusal_is_believed_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSED_SECONDS", 60.0)
    async with open_parts(tmp_path, bank=Bank(0)) as parts:
        assert (await parts.refused()).reason is Reason.INSUFFICIENT_CREDITS
        for _ in range(10):
            assert (await parts.refused()).reason is Reason.INSUFFICIENT_CREDITS
        assert len(parts.bank.calls) == 1
        parts.bank.credits = 100
        parts.credits._accounts["acme"].refused_until -= 60.0
        await parts.accepted()


async def test_a_limit_is_told_in_controls_words_and_asked_about_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMITED_SECONDS", 60.0)
    limited = Refusal(
        Reason.RATE_LIMITED, "the hourly limit is reached", retry_after=600.0, metadata={"cap": "hourly_recipients"}
    )
    async with open_parts(tmp_path) as parts:
        parts.bank.script = [limited]
        for _ in range(5):
            refusal = await parts.refused()
            assert (refusal.reason, refusal.message) == (limited.reason, limited.message)
            assert (refusal.retry_after, refusal.metadata) == (600.0, {"cap": "hourly_recipients"})
            assert refusal is not limited
        assert len(parts.bank.calls) == 1
        parts.credits._accounts["acme"].refused_until -= 60.0
        await parts.accepted()


async def test_near_a_limit_no_more_is_kept_than_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_AMOUNT", 4)
    bank = Bank()
    asked: list[int] = []

    async def sparing(tenant: str, amount: int, request_id: str) -> GrantedLease:
        asked.append(amount)
        return bank._grant(min(amount, 5), request_id)

    async with open_parts(tmp_path, bank=bank) as parts:
        monkeypatch.setattr(parts.credits, "_acquire", sparing)
        for _ in range(40):
            await parts.accepted()
            await asyncio.sleep(0)
            assert parts.credits._accounts["acme"].left <= 10
        assert max(asked[1:]) <= 10


async def test_the_last_credits_can_be_spent_without_asking_again_and_again(tmp_path: Path) -> None:
    async with open_parts(tmp_path, bank=Bank(20)) as parts:
        for _ in range(20):
            await parts.accepted()
        assert len(parts.bank.calls) <= 3
        assert max(amount for _, amount, _ in parts.bank.calls) <= 2 * FIRST_AMOUNT
        assert (await parts.refused()).reason is Reason.INSUFFICIENT_CREDITS
        assert told(parts) == {1: (20, 0)}


async def test_while_control_is_away_what_is_leased_goes_on_being_spent(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        await parts.accepted()
        parts.bank.script = [AWAY] * 100
        for _ in range(30):
            await parts.accepted()


async def test_control_being_away_is_not_having_no_credits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.3)
    async with open_parts(tmp_path) as parts:
        parts.bank.script = [AWAY] * 100
        refusal = await parts.refused()
        assert (refusal.reason, refusal.retry_after) == (Reason.CREDITS_UNAVAILABLE, 5.0)
        parts.bank.script.clear()
        monkeypatch.setattr(module, "WAIT_SECONDS", 60.0)
        await parts.accepted()


async def test_a_lost_answer_is_the_same_lease_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 2.5)
    async with open_parts(tmp_path) as parts:
        parts.bank.script = [None, None]
        await parts.accepted()
        assert len(parts.bank.calls) == 3
        assert len({request_id for _, _, request_id in parts.bank.calls}) == 1
        assert on_file(parts) == [(1, FIRST_AMOUNT, 1)]


async def test_each_lease_has_a_request_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_AMOUNT", 4)
    async with open_parts(tmp_path) as parts:
        for _ in range(12):
            await parts.accepted()
            await asyncio.sleep(0.001)
        requests = [request_id for _, _, request_id in parts.bank.calls]
        assert len(requests) == len(set(requests)) >= 2


async def test_a_lease_that_could_not_be_recorded_is_asked_for_again(parts: Parts) -> None:
    """Control has reserved it; another one would leave these credits reserved for nobody."""
    await settled(parts.store)
    with full_disk():
        taking = asyncio.create_task(parts.take())
        await asyncio.sleep(0.1)
    await healthy(parts)
    await taking
    answer = await parts.take()
    assert isinstance(answer, Accepted)
    assert len(parts.bank.granted) == 1


async def test_a_request_that_control_no_longer_honours_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 2.5)
    async with open_parts(tmp_path) as parts:
        parts.bank.script = [Refusal(Reason.FAILED_PRECONDITION, "take a new request_id")]
        await parts.accepted()
        first, second = (request_id for _, _, request_id in parts.bank.calls)
        assert first != second


async def test_what_was_not_stored_is_not_spent(parts: Parts) -> None:
    await parts.accepted()
    account = parts.credits._accounts["acme"]
    left = account.left
    with full_disk():
        assert (await parts.refused(parts.submission(MESSAGE + b"x" * 100_000 + b"\r\n"))).temporary
    await healthy(parts)
    assert account.left == left
    assert on_file(parts) == [(1, FIRST_AMOUNT, 1)]
    assert told(parts) == {1: (1, 0)}


async def test_the_file_is_right_even_if_the_failed_commit_is_found_in_it(parts: Parts) -> None:
    change = Change()
    await parts.credits.wait("acme", 10)
    spent = parts.credits.take("acme", change, 10, parts.store.next_sequence())
    assert spent is not None
    await settled(parts.store, change)  # as if a commit that was reported as failed were there after all
    parts.credits.give_back("acme", spent)
    await settled(parts.store)
    assert on_file(parts) == [(1, FIRST_AMOUNT, 0)]


async def test_a_finished_lease_stays_on_file_until_control_has_heard_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_parts(tmp_path, bank=Bank(2)) as parts:
        for _ in range(2):
            await parts.accepted()
        assert on_file(parts) == [(1, 2, 2)]
        last = parts.store.last_sequence
        parts.credits.acknowledged(1)
        await settled(parts.store)
        assert on_file(parts) == [(1, 2, 2)]
        parts.credits.acknowledged(last)
        await settled(parts.store)
        assert on_file(parts) == []


async def test_a_lease_in_use_is_never_forgotten(parts: Parts) -> None:
    await parts.accepted()
    parts.credits.acknowledged(10**9)
    await settled(parts.store)
    assert on_file(parts) == [(1, FIRST_AMOUNT, 1)]


async def test_the_next_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    bank = Bank(10)
    async with open_parts(tmp_path, bank=bank) as parts:
        for _ in range(4):
            await parts.accepted()
    bank.script = [AWAY] * 100
    async with open_parts(tmp_path, bank=bank) as parts:
        for _ in range(6):
            await parts.accepted()
        assert on_file(parts) == [(1, 10, 10)]
        parts.credits.acknowledged(parts.store.last_sequence)
        await settled(parts.store)
        assert on_file(parts) == []


async def test_a_recall_gives_back_exactly_what_is_left(parts: Parts) -> None:
    for _ in range(3):
        await parts.accepted()
    assert await parts.credits.recall("acme") == FIRST_AMOUNT - 3
    assert on_file(parts) == [(1, 3, 3)]
    assert told(parts) == {1: (3, FIRST_AMOUNT - 3)}
    assert rows(parts.path, "SELECT kind FROM outbox ORDER BY sequence DESC LIMIT 1") == [(EventKind.LEASE_RELEASED,)]
    assert await parts.credits.recall("acme") == 0
    assert await parts.credits.recall("nobody") == 0
    await parts.accepted()
    assert len(parts.bank.granted) == 2


async def test_a_recall_while_a_message_is_being_stored_takes_nothing_of_it(parts: Parts) -> None:
    await parts.accepted()
    taking = asyncio.create_task(parts.take())
    await asyncio.sleep(0)
    released = await parts.credits.recall("acme")
    assert isinstance(await taking, Accepted)
    spent = sum(spent for spent, _ in told(parts).values())
    assert spent == 2
    assert released in (FIRST_AMOUNT - 1, FIRST_AMOUNT - 2)
    for lease_id, (spent, returned) in told(parts).items():
        assert spent + returned <= parts.bank.granted[list(parts.bank.granted)[lease_id - 1]].amount


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_recall_that_cannot_be_stored_changes_nothing(parts: Parts, cancelled: bool) -> None:
    await parts.accepted()
    left = parts.credits._accounts["acme"].left
    with full_disk():
        recalling = asyncio.create_task(parts.credits.recall("acme"))
        await asyncio.sleep(0)
        if cancelled:
            recalling.cancel()
        await asyncio.wait({recalling})
        if cancelled:
            await asyncio.sleep(0.1)
        else:
            assert recalling.exception() is not None
    await healthy(parts)
    assert parts.credits._accounts["acme"].left == left
    assert on_file(parts) == [(1, FIRST_AMOUNT, 1)]
    calls = len(parts.bank.calls)
    await parts.accepted()
    assert len(parts.bank.calls) == calls


async def test_a_failed_message_and_a_failed_recall_together_change_nothing(parts: Parts) -> None:
    await parts.accepted()
    left = parts.credits._accounts["acme"].left
    with full_disk():
        taking = asyncio.create_task(parts.take(parts.submission(MESSAGE + b"x" * 100_000 + b"\r\n")))
        await asyncio.sleep(0)
        recalling = asyncio.create_task(parts.credits.recall("acme"))
        await asyncio.wait({taking, recalling})
    assert isinstance(taking.result(), Refusal)
    assert recalling.exception() is not None
    await healthy(parts)
    assert parts.credits._accounts["acme"].left == left
    assert on_file(parts) == [(1, FIRST_AMOUNT, 1)]


async def test_many_at_once_never_spend_more_than_was_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_AMOUNT", 7)
    async with open_parts(tmp_path, bank=Bank(50)) as parts:

        async def recall() -> None:
            for _ in range(5):
                await asyncio.sleep(0.003)
                returned = await parts.credits.recall("acme")
                parts.bank.credits += returned  # read only now: leases are granted while a recall is under way

        async def send(number: int) -> int:
            count = number % 4 + 1
            recipients = [f"r{number}x{index}@example.net" for index in range(count)]
            return count if isinstance(await parts.take(parts.submission(MESSAGE, *recipients)), Accepted) else 0

        recalling = asyncio.create_task(recall())
        accepted = sum(await asyncio.gather(*(send(number) for number in range(60))))
        await recalling
        assert accepted <= 50
        tally = told(parts)
        assert sum(spent for spent, _ in tally.values()) == accepted
        leases = {lease.lease_id: lease.amount for lease in parts.bank.granted.values()}
        assert all(spent + returned <= leases[lease_id] for lease_id, (spent, returned) in tally.items())
        left = parts.credits._accounts["acme"].left
        assert parts.bank.credits + left + accepted == 50
