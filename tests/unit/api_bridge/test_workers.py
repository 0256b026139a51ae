"""How messages get to the workers: together where that is right, and never twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from barua.mta.v1 import injection_service_pb2 as pb

from api_bridge import workers
from api_bridge.workers import CALLS, GATHERED, GATHERED_BYTES, IdempotencyKey, Workers
from mta.runtime.options import ClientTlsOptions
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rendezvous import place_of
from tests.unit.node.peers import Worker, served, until

PRINT = bytes(32)
pytestmark = pytest.mark.asyncio(loop_scope="session")


class Bench:
    """Two workers, and the bridge's view of them."""

    def __init__(self, folder: Path) -> None:
        self.peers = [Worker("first"), Worker("second")]
        self.targets = [f"unix:{folder / peer.name}" for peer in self.peers]
        self.workers = Workers(self.targets, ClientTlsOptions(), 5.0, nodes=False)

    async def submit(
        self, *words: str, authorization: str = "Bearer a", peer: str = "192.0.2.1", key: IdempotencyKey | None = None
    ) -> list[str | Reason]:
        """Which worker has each, or why it has not."""
        requests = [pb.SubmitMessageRequest(content=word.encode()) for word in words]
        found = await self.workers.submit(requests, authorization, peer, key)
        return [one.reason if isinstance(one, Refusal) else one.message_id_header for one in found]

    def of(self, place: int) -> IdempotencyKey:
        """A key that belongs to a worker."""
        texts = (str(number) for number in range(100))
        return IdempotencyKey(next(text for text in texts if place_of(text, self.targets) == place), PRINT)

    @property
    def calls(self) -> list[list[str]]:
        """What has shared calls."""
        calls = [call for peer in self.peers for call in peer.calls]
        return [[one.message.content.decode() for one in call.submissions] for call in calls]


@pytest_asyncio.fixture(loop_scope="session")
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        made = Bench(tmp_path)
        for peer in made.peers:
            await stack.enter_async_context(served(peer, tmp_path / peer.name))
        stack.push_async_callback(made.workers.close)
        for place in range(2):  # both connections stand
            await made.submit("", key=made.of(place))
        for peer in made.peers:
            peer.calls.clear()
            peer.injected.clear()
        yield made


async def test_workers_take_turns(bench: Bench) -> None:
    found = [(await bench.submit("x"))[0] for _ in range(4)]
    assert sorted(map(str, found)) == ["<x@first>", "<x@first>", "<x@second>", "<x@second>"]


async def test_what_comes_meanwhile_goes_together(bench: Bench) -> None:
    for peer in bench.peers:
        peer.open.clear()
    sending = []
    for number in range(CALLS):
        sending.append(asyncio.create_task(bench.submit(str(number))))
        await until(lambda: len(bench.calls) == len(sending), "a call for each, at once")
    sending += [asyncio.create_task(bench.submit(str(number))) for number in range(CALLS, 3 * GATHERED)]
    await asyncio.sleep(0.05)
    assert len(bench.calls) == CALLS
    for peer in bench.peers:
        peer.open.set()
    found = await asyncio.gather(*sending)
    assert [str(one).partition("@")[0] for [one] in found] == [f"<{number}" for number in range(3 * GATHERED)]
    assert sorted(map(len, bench.calls)) == [1] * CALLS + [GATHERED - CALLS] + [GATHERED] * 2


async def test_other_credentials_never_share_a_call(bench: Bench) -> None:
    for peer in bench.peers:
        peer.open.clear()
    sending = [asyncio.create_task(bench.submit("x", authorization=f"Bearer {number}")) for number in range(8)]
    await until(lambda: len(bench.calls) == 8, "nobody waits for anybody")
    for peer in bench.peers:
        peer.open.set()
    await asyncio.gather(*sending)


async def test_each_has_its_own_address(bench: Bench) -> None:
    await asyncio.gather(*(bench.submit(str(number), peer=f"192.0.2.{number}") for number in range(9)))
    told = {request.content: metadata["x-barua-peer"] for peer in bench.peers for request, metadata in peer.injected}
    assert told == {str(number).encode(): f"192.0.2.{number}" for number in range(9)}


async def test_large_messages_go_alone(bench: Bench) -> None:
    large = "x" * (GATHERED_BYTES + 1)
    await asyncio.gather(
        *(bench.submit(large) for _ in range(4)), *(bench.submit("y" * GATHERED_BYTES) for _ in "1234")
    )
    assert [len(call) for call in bench.calls] == [1] * 8
    await bench.submit(large, key=bench.of(0))
    assert bench.peers[0].calls[-1].submissions[0].idempotency_key == bench.of(0).text


async def test_several_of_one_client_are_one_call(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await bench.submit(*(str(number) for number in range(100)))
    assert len(bench.calls) == 1
    assert [str(one).partition("@")[0] for one in found] == [f"<{number}" for number in range(100)]
    monkeypatch.setattr(workers, "CALL_SUBMISSIONS", 30)
    await bench.submit(*(str(number) for number in range(100)), key=bench.of(0))
    assert [len(call) for call in bench.calls if call not in bench.calls[:1]]
    keys = {call.idempotency_key for call in bench.peers[0].calls if call.idempotency_key}
    assert len(keys) == 4
    assert all(len(key) <= 200 for key in keys)


async def test_a_call_has_only_so_many_recipients(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CALL_RECIPIENTS", 5)
    sizes = [2, 3, 1, 9, 2, 2]
    requests = [pb.SubmitMessageRequest(recipients=["x@example.net"] * size) for size in sizes]
    assert len(await bench.workers.submit(requests, "Bearer a", "192.0.2.1", None)) == 6
    assert sorted(map(len, bench.calls)) == [1, 1, 2, 2]


async def test_after_a_part_that_failed_no_other_is_tried(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CALL_SUBMISSIONS", 2)
    peer = bench.peers[0]
    peer.open.clear()
    sending = asyncio.create_task(bench.submit(*"abcdefg", key=bench.of(0)))
    await until(lambda: peer.calls, "the first part is under way")
    peer.refuse = Refusal(Reason.UNAVAILABLE, "stopping")
    peer.open.set()
    assert await sending == ["<a@first>", "<b@first>", *[Reason.UNAVAILABLE] * 5]
    assert len(peer.calls) == 1


async def test_answers_to_other_messages_are_none(bench: Bench) -> None:
    """What is kept for a key has to be about as many messages as there are now."""
    bench.peers[0].answers = 1
    with pytest.raises(Refusal) as caught:
        await bench.submit("x", "y", key=bench.of(0))
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


async def test_nobody_waits_for_ever_while_calls_hang(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        made = Bench(tmp_path)
        made.workers = Workers(made.targets, ClientTlsOptions(), 0.5, nodes=False)
        for peer in made.peers:
            await stack.enter_async_context(served(peer, tmp_path / peer.name))
        stack.push_async_callback(made.workers.close)
        await made.submit("", key=made.of(0))
        made.peers[0].open.clear()
        sending = [asyncio.create_task(made.submit(str(number), key=made.of(0))) for number in range(4 * GATHERED)]
        for one in await asyncio.wait_for(asyncio.gather(*sending, return_exceptions=True), 60):
            assert isinstance(one, Refusal)
            assert one.reason is Reason.UNAVAILABLE
        told = len(made.peers[0].calls)
        assert told < 3 * CALLS
        made.peers[0].open.set()
        assert await made.submit("z", key=made.of(0)) == ["<z@first>"]


async def test_a_key_goes_to_its_worker_and_to_no_other(bench: Bench) -> None:
    for _ in range(3):
        assert await bench.submit("x", key=bench.of(0)) == ["<x@first>"]
        assert await bench.submit("x", "y", key=bench.of(1)) == ["<x@second>", "<y@second>"]
    assert bench.peers[0].calls[0].submissions[0].idempotency_key == bench.of(0).text
    assert bench.peers[1].calls[0].idempotency_key == bench.of(1).text
    assert bench.peers[1].calls[0].fingerprint == PRINT
    bench.peers[0].refuse = Refusal(Reason.UNAVAILABLE, "stopping")
    for words in ("x",), ("x", "y"):
        with pytest.raises(Refusal) as caught:
            await bench.submit(*words, key=bench.of(0))
        assert caught.value.reason is Reason.UNAVAILABLE


@pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.NOT_STORED, Reason.SPOOL_FULL])
async def test_a_worker_that_cannot_now_is_passed_over(bench: Bench, reason: Reason) -> None:
    bench.peers[0].refuse = Refusal(reason, "not now")
    assert [await bench.submit("x") for _ in range(4)] == [["<x@second>"]] * 4
    bench.peers[1].refuse = Refusal(reason, "not now")
    with pytest.raises(Refusal) as caught:
        await bench.submit("x")
    assert caught.value.reason is reason


async def test_what_is_the_clients_fault_is_raised(bench: Bench) -> None:
    for peer in bench.peers:
        peer.refuse = Refusal(Reason.UNAUTHENTICATED, "no")
    found = await asyncio.gather(*(bench.submit("x") for _ in range(10)), return_exceptions=True)
    assert [one.reason for one in found if isinstance(one, Refusal)] == [Reason.UNAUTHENTICATED] * 10


async def test_without_an_answer_nothing_is_sent_again(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        made = Bench(tmp_path)
        stack.push_async_callback(made.workers.close)
        lost = await stack.enter_async_context(AsyncExitStack())
        await lost.enter_async_context(served(made.peers[0], tmp_path / "first"))
        await stack.enter_async_context(served(made.peers[1], tmp_path / "second"))
        await made.submit("", key=made.of(0))
        made.peers[0].open.clear()
        sending = [asyncio.create_task(made.submit("x", key=made.of(0))) for _ in range(5)]
        sending += [asyncio.create_task(made.submit("x", "y", key=made.of(0)))]
        await until(lambda: len(made.peers[0].calls) > 1, "some are on their way")
        await lost.aclose()
        for one in await asyncio.gather(*sending, return_exceptions=True):
            assert isinstance(one, Refusal)
            assert one.reason is Reason.UNAVAILABLE
            assert one.retry_after
        assert not made.peers[1].calls
        assert (await made.submit("z"))[0] == "<z@second>"


async def test_who_waits_hears_of_the_end(bench: Bench) -> None:
    for peer in bench.peers:
        peer.open.clear()
    sending = [asyncio.create_task(bench.submit(str(number))) for number in range(3 * GATHERED)]
    await until(lambda: bench.calls, "a call is under way")
    await bench.workers.close()
    found = await asyncio.gather(*sending, return_exceptions=True)
    assert {one.reason for one in found if isinstance(one, Refusal)} == {Reason.UNAVAILABLE}
    assert all(isinstance(one, Refusal) for one in found)
